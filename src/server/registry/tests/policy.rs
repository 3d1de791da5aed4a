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
