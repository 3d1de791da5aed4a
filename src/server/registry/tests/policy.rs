//! SEMANTICS section 9: REGISTRY_POLICY.

use super::*;
use crate::server::registry::ClaimPolicy;

const A: &str = "10.2.2.7";
const B: &str = "10.2.2.8";
const WEB: &str = "http://10.2.2.7:8080";

fn policy(json: &str) -> ClaimPolicy {
    ClaimPolicy::parse(json.as_bytes(), &|_| Err("no file".to_owned())).unwrap()
}

fn world(json: &str) -> World {
    World::with(|config| config.policy = Some(policy(json)))
}

const SHOP: &str = r#"{"services": {"shop": ["shop.de", "*.shop.de"]}}"#;

#[test]
fn a_domain_that_is_not_permitted_is_refused_before_anything_is_staged() {
    let mut world = world(SHOP);
    let (conn, _) = world.register("shop", "shop-1", A);
    let refused = "ERROR|not allowed: domain b.de for service shop";
    let bulk = format!(
        r#"[{{"domains":["shop.de"],"path":"/","backend_url":"{WEB}"}},{{"domains":["b.de"],"path":"/","backend_url":"{WEB}"}}]"#
    );
    for line in [
        format!("ROUTE_ADD||b.de|/|{WEB}|0"),
        format!("ROUTE_ADD||shop.de,b.de|/|{WEB}|0"),
        format!("ROUTE_ADD_BULK||{bulk}"),
    ] {
        assert_eq!(world.ask(conn, &line), refused, "{line}");
    }
    assert_eq!(world.ask(conn, "ROUTE_LIST|"), "ROUTE_LIST_OK|[]");
    assert_eq!(world.ask(conn, &format!("ROUTE_ADD||shop.de,x.shop.de|/|{WEB}|0")), "ROUTE_OK|r1");
    assert_eq!(world.ask(conn, "ROUTE_UPDATE||r1|domains|shop.de,b.de"), refused);
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), "OK");
    assert_eq!(world.serving("x.shop.de"), ["10.2.2.7:8080"]);
    let (other, _) = world.register("stranger", "s-1", B);
    let reply = world.ask(other, &format!("ROUTE_ADD||shop.de|/|{WEB}|0"));
    assert_eq!(reply, "ERROR|not allowed: domain shop.de for service stranger");
}

#[test]
fn a_new_policy_counts_for_what_is_staged_and_leaves_what_is_in_force() {
    let mut world = world(r#"{"default": ["*"]}"#);
    let (conn, _) = world.live("shop", "shop-1", A, "shop.de", WEB);
    let (other, _) = world.live("web", "web-1", B, "b.de", "http://10.2.2.8:8080");
    assert_eq!(world.ask(other, "ROUTE_ADD||c.de|/|http://10.2.2.8:8080|0"), "ROUTE_OK|r2");
    world.input(Input::Policy(policy(SHOP)));
    let told = |line: &LogEvent| matches!(line, LogEvent::OutsidePolicy { claims: 1, .. });
    assert!(world.log.iter().any(told));
    assert_eq!(world.serving("b.de").len(), 1, "what is in force stays");
    let refused = "ERROR|route r2: not allowed: domain c.de for service web";
    assert_eq!(world.ask(other, "CONFIG_VALIDATE|"), refused);
    assert_eq!(world.ask(other, "CONFIG_APPLY|"), refused);
    assert_eq!(world.ask(other, "CONFIG_APPLY_PARTIAL||routes"), refused);
    world.do_all(other, &["CONFIG_ROLLBACK|", "ROUTE_REMOVE||r1", "CONFIG_APPLY|"]);
    assert_eq!(world.pool("b.de"), [""; 0], "and may go");
    world.do_all(conn, &["ROUTE_UPDATE||r1|priority|7", "CONFIG_APPLY|"]);
}

#[test]
fn what_was_restored_is_in_force_and_told_where_the_policy_is_newer() {
    let mut before = World::new();
    before.live("web", "web-1", A, "b.de", WEB);
    let world = before.restarted_with(seconds(1), "this boot", |config| config.policy = Some(policy(SHOP)));
    assert_eq!(world.serving("b.de"), ["10.2.2.7:8080"]);
    assert!(world.log.iter().any(|line| matches!(line, LogEvent::OutsidePolicy { .. })));
}

/// Two services, the second of which has a subscription to everything.
fn subscribed(json: &str) -> (World, ConnId, ConnId) {
    let mut world = world(json);
    let (shop, _) = world.register("shop", "shop-1", A);
    let (other, _) = world.register("other", "other-1", B);
    world.do_all(other, &["SUBSCRIBE||all"]);
    assert_eq!(world.apply(shop, "shop.de", WEB), "OK");
    (world, shop, other)
}

const BOTH: &str = r#""services": {"shop": ["shop.de"], "other": ["shop.de", "other.de"]}"#;

#[test]
fn with_a_policy_no_service_learns_of_others() {
    let (mut world, _, other) = subscribed(&format!("{{{BOTH}}}"));
    assert_eq!(world.apply(other, "shop.de", WEB), "ERROR|route r1: shop.de/ belongs to another service");
    assert_eq!(world.ask(other, "CONFIG_VALIDATE|"), "ERROR|route r1: shop.de/ belongs to another service");
    assert_eq!(world.read(other), [""; 0], "no event of a foreign apply");
    let names = ["other.de", "hidden.de", "shop.de"].map(str::to_owned).to_vec();
    world.input(Input::Certificate { names, renewed: false });
    let told = world.read(other).join("");
    assert!(
        told.contains("other.de") && !told.contains("hidden") && told.contains(r#""names_total":2"#),
        "{told}"
    );
    world.input(Input::Certificate { names: vec!["hidden.de".to_owned()], renewed: true });
    assert_eq!(world.read(other), [""; 0]);
    let (sibling, _) = world.register("other", "other-2", "10.2.2.9");
    assert_eq!(world.apply(sibling, "other.de", "http://10.2.2.9:80"), "OK");
    assert!(world.read(other).join("").contains("global_config_changed"), "of its own service it does");
}

#[test]
fn unless_the_policy_lets_them() {
    let (mut world, _, other) = subscribed(&format!(r#"{{{BOTH}, "show_others": true}}"#));
    assert!(world.read(other).join("").contains(r#""service":"shop""#));
    assert_eq!(world.apply(other, "shop.de", WEB), "ERROR|route r1: shop.de/ belongs to service shop");
}

fn exclusive(config: &mut crate::server::registry::RegistryConfig, by_policy: bool) {
    if by_policy {
        config.policy = Some(policy(r#"{"default": ["*"], "exclusive": ["*.de"], "show_others": true}"#));
    } else {
        config.exclusive_hosts = true;
    }
}

#[test]
fn an_exclusive_host_belongs_as_a_whole_to_whoever_claims_a_part_of_it_first() {
    for by_policy in [false, true] {
        let mut world = World::with(|config| exclusive(config, by_policy));
        let (shop, _) = world.live("shop", "shop-1", A, "shop.de", WEB);
        world.do_all(shop, &[&format!("ROUTE_ADD||*.apps.de|/x|{WEB}|0"), "CONFIG_APPLY|"]);
        let (other, _) = world.register("other", "other-1", B);
        for (domain, path) in
            [("shop.de", "/login"), ("shop.de", "/"), ("*.apps.de", "/y"), ("*.apps.de", "/")]
        {
            world.do_all(other, &[&format!("ROUTE_ADD||{domain}|{path}|http://10.2.2.8:80|0")]);
            let reply = world.ask(other, "CONFIG_APPLY|");
            assert!(reply.ends_with(&format!("{domain}{path} belongs to service shop")), "{reply}");
            world.do_all(other, &["CONFIG_ROLLBACK|"]);
        }
        assert_eq!(
            world.apply(other, "*.de", "http://10.2.2.8:80"),
            "OK",
            "a wildcard above is another host"
        );
        let found = |host, path| world.table.find(host, path).map(|claim| claim.terms.service.to_string());
        assert_eq!(found("shop.de", "/"), Some("shop".to_owned()));
        assert_eq!(found("a.apps.de", "/"), None, "and gets nothing of theirs");
        assert_eq!(found("a.apps.de", "/x"), Some("shop".to_owned()));
        assert_eq!(found("b.de", "/"), Some("other".to_owned()));
        let (sibling, _) = world.register("shop", "shop-2", "10.2.2.9");
        world.do_all(sibling, &["ROUTE_ADD||shop.de|/api|http://10.2.2.9:80|0", "CONFIG_APPLY|"]);
    }
}

#[test]
fn hosts_are_shared_unless_something_else_is_set_and_free_again_with_their_owner() {
    let mut world = World::new();
    world.live("shop", "shop-1", A, "shop.de", WEB);
    let (other, _) = world.register("other", "other-1", B);
    world.do_all(other, &["ROUTE_ADD||shop.de|/login|http://10.2.2.8:80|0", "CONFIG_APPLY|"]);
    let mut world = World::with(|config| exclusive(config, false));
    let (shop, _) = world.live("shop", "shop-1", A, "shop.de", WEB);
    world.do_all(shop, &["CLIENT_SHUTDOWN|"]);
    let (other, _) = world.register("other", "other-1", B);
    world.do_all(other, &["ROUTE_ADD||shop.de|/login|http://10.2.2.8:80|0", "CONFIG_APPLY|"]);
}

#[test]
fn of_two_applies_that_are_with_the_store_the_first_has_the_host() {
    let mut world = World::with(|config| exclusive(config, false));
    let (shop, _) = world.register("shop", "shop-1", A);
    let (other, _) = world.register("other", "other-1", B);
    world.do_all(shop, &[&format!("ROUTE_ADD||shop.de|/|{WEB}|0")]);
    world.do_all(other, &["ROUTE_ADD||shop.de|/login|http://10.2.2.8:80|0"]);
    world.store_answers = false;
    world.say(shop, "CONFIG_APPLY|");
    assert_eq!(world.ask(other, "CONFIG_APPLY|"), "ERROR|route r1: shop.de/login belongs to service shop");
}

#[test]
fn a_policy_that_changes_makes_hosts_exclusive_that_are_in_force() {
    let mut world = World::new();
    world.live("shop", "shop-1", A, "shop.de", WEB);
    world
        .input(Input::Policy(policy(r#"{"default": ["*"], "exclusive": ["shop.de"], "show_others": true}"#)));
    let (other, _) = world.register("other", "other-1", B);
    world.do_all(other, &["ROUTE_ADD||shop.de|/login|http://10.2.2.8:80|0"]);
    assert_eq!(world.ask(other, "CONFIG_APPLY|"), "ERROR|route r1: shop.de/login belongs to service shop");
    let claim = world.table.get(&"shop.de".parse().unwrap(), &"/".parse().unwrap()).unwrap();
    assert!(claim.owns_host);
}
