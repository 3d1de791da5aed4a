//! PROTOCOL section 6 and SEMANTICS section 5: maintenance.

use super::*;

const A: &str = "10.2.2.7";
const B: &str = "10.2.2.8";
const WEB_A: &str = "http://10.2.2.7:80";
const WEB_B: &str = "http://10.2.2.8:80";
const PAGE: &str = "http://10.2.2.7:3001";

impl World {
    /// Where people get a domain's page; `None`: it is not in maintenance. Empty: the proxy's own.
    fn page(&self, domain: &str) -> Option<String> {
        let claim = self.table.get(&domain.parse().unwrap(), &"/".parse().unwrap())?;
        let maintenance = claim.maintenance().filter(|_| !claim.has_usable())?;
        Some(maintenance.page.as_ref().map(|page| page.backend.authority()).unwrap_or_default())
    }
}

fn one() -> (World, ConnId, String) {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", A, "a.de", WEB_A);
    (world, conn, id)
}

#[test]
fn without_a_page_url_the_verdict_comes_at_once_both_ways() {
    let (mut world, conn, _) = one();
    world.say(conn, "MAINT_ENTER||ALL");
    assert_eq!(world.read(conn), ["ACK", "MAINT_OK|ALL"]);
    assert_eq!((world.page("a.de"), world.held("a.de")), (Some(String::new()), None));
    assert_eq!(
        world.ask(conn, "MAINT_STATUS|"),
        r#"MAINT_STATUS_OK|{"in_maintenance":["r1"],"maintenance_backend":"","entered_at":"2023-11-14T22:13:20Z"}"#
    );
    world.say(conn, "MAINT_EXIT||r1");
    assert_eq!(world.read(conn), ["ACK", "MAINT_OK|r1"]);
    assert_eq!((world.page("a.de"), world.serving("a.de").len()), (None, 1));
    assert_eq!(
        world.ask(conn, "MAINT_STATUS|"),
        r#"MAINT_STATUS_OK|{"in_maintenance":[],"maintenance_backend":"","entered_at":""}"#
    );
    world.do_all(conn, &["ROUTE_ADD||b.de|/|http://10.2.2.7:80|0", "CONFIG_APPLY|"]);
    assert!(world.page("b.de").is_some(), "what is added later is in maintenance, like all but r1");
}

#[test]
fn the_page_is_shown_from_the_ack_on_and_the_verdict_comes_when_it_answers() {
    let (mut world, conn, _) = one();
    assert_eq!(world.ask(conn, &format!("MAINT_ENTER||r1|{PAGE}")), "ACK");
    assert_eq!(world.page("a.de").as_deref(), Some("10.2.2.7:3001"));
    assert_eq!(world.questions(PAGE), ["GET / every 1s within 5s"]);
    world.fails(PAGE);
    assert_eq!(world.read(conn), [""; 0]);
    world.after(seconds(59));
    world.passes(PAGE);
    assert_eq!(world.read(conn), ["MAINT_OK|r1"]);
    assert_eq!(world.questions(PAGE), [""; 0]);
    assert_eq!(world.ask(conn, "MAINT_EXIT||r1"), "ACK");
    assert!(world.page("a.de").is_some(), "until the backend is there");
    world.passes(WEB_A);
    assert_eq!(world.read(conn), ["MAINT_OK|r1"]);
    assert_eq!(world.page("a.de"), None);
}

#[test]
fn after_sixty_seconds_the_verdict_is_an_error_and_what_was_asked_for_holds() {
    let (mut world, conn, _) = one();
    assert_eq!(world.ask(conn, &format!("MAINT_ENTER||r1|{PAGE}")), "ACK");
    world.after(seconds(60));
    assert_eq!(world.read(conn), ["ERROR|timeout waiting for maintenance page to become reachable"]);
    assert!(world.page("a.de").is_some());
    assert_eq!(world.ask(conn, "MAINT_EXIT||r1"), "ACK");
    world.after(seconds(60));
    assert_eq!(world.read(conn), ["ERROR|timeout waiting for backend to become reachable"]);
    assert_eq!(world.page("a.de"), None);
    assert!(world.questions(PAGE).is_empty() && world.questions(WEB_A).is_empty());
}

#[test]
fn verdicts_come_in_the_order_of_the_requests_and_a_later_one_supersedes() {
    let (mut world, conn, _) = one();
    world.do_all(conn, &["ROUTE_ADD||b.de|/|http://10.2.2.7:80|0", "CONFIG_APPLY|"]);
    assert_eq!(world.ask(conn, &format!("MAINT_ENTER||r1|{PAGE}")), "ACK");
    assert_eq!(world.ask(conn, "MAINT_ENTER||r2"), "ACK", "whose verdict is there, and waits");
    world.passes(PAGE);
    assert_eq!(world.read(conn), ["MAINT_OK|r1", "MAINT_OK|r2"]);
    assert_eq!(world.ask(conn, &format!("MAINT_ENTER||r1|{PAGE}/two")), "ACK");
    world.say(conn, "MAINT_ENTER||r1,r2");
    let superseded = "ERROR|maintenance request superseded";
    assert_eq!(world.read(conn), ["ACK", superseded, "MAINT_OK|r1,r2"]);
    assert_eq!(world.page("a.de").as_deref(), Some(""));
    assert!(!world.registry.0.waits_for_probes());
}

#[test]
fn an_exit_that_is_superseded_has_no_effect() {
    let (mut world, conn, _) = one();
    assert_eq!(world.ask(conn, &format!("MAINT_ENTER||ALL|{PAGE}")), "ACK");
    world.passes(PAGE);
    assert_eq!(world.read(conn), ["MAINT_OK|ALL"]);
    assert_eq!(world.ask(conn, "MAINT_EXIT||ALL"), "ACK");
    world.say(conn, &format!("MAINT_ENTER||ALL|{PAGE}"));
    assert_eq!(world.read(conn), ["ACK", "ERROR|maintenance request superseded"]);
    world.passes(WEB_A);
    world.passes(PAGE);
    assert_eq!(world.read(conn), ["MAINT_OK|ALL"]);
    assert!(world.page("a.de").is_some());
}

#[test]
fn people_see_the_page_only_while_no_sibling_is_usable_and_service_stops_them_all() {
    let (mut world, first, _) = one();
    let (second, _) = world.live("web", "web-2", B, "a.de", WEB_B);
    world.say(first, "MAINT_ENTER||ALL");
    assert_eq!((world.page("a.de"), world.serving("a.de")), (None, vec!["10.2.2.8:80".to_owned()]));
    world.say(second, "MAINT_ENTER||SERVICE");
    assert_eq!(world.read(second), ["ACK", "MAINT_OK|SERVICE"]);
    assert!(world.page("a.de").is_some());
    world.say(second, "MAINT_EXIT||SERVICE");
    assert_eq!(world.serving("a.de").len(), 2);
}

#[test]
fn a_route_may_start_its_life_in_maintenance_and_it_survives_a_lost_connection() {
    let mut world = World::new();
    let (conn, id) = world.register("web", "web-1", A);
    world.do_all(conn, &["ROUTE_ADD||a.de|/|http://10.2.2.7:80|0"]);
    world.say(conn, "MAINT_ENTER||r1");
    assert_eq!(world.read(conn), ["ACK", "MAINT_OK|r1"]);
    world.do_all(conn, &["CONFIG_APPLY|"]);
    assert!(world.page("a.de").is_some());
    world.hang_up(conn);
    let back = world.connect(A);
    assert_eq!(world.ask(back, &format!("RECONNECT|{id}")), "OK");
    world.do_all(back, &["ROUTE_UPDATE||r1|priority|5", "CONFIG_APPLY|"]);
    assert!(world.page("a.de").is_some());
    world.do_all(back, &["CLIENT_SHUTDOWN|"]);
    assert_eq!((world.page("a.de"), world.held("a.de")), (None, Some(seconds(30))));
}

#[test]
fn a_request_by_id_gets_its_verdict_where_it_was_made() {
    let (mut world, conn, id) = one();
    let script = world.connect(B);
    assert_eq!(world.ask(script, &format!("MAINT_ENTER|{id}|/|{PAGE}")), "ACK");
    world.passes(PAGE);
    assert_eq!((world.read(script), world.read(conn)), (vec!["MAINT_OK|/".to_owned()], vec![]));
    assert_eq!(world.ask(script, &format!("MAINT_EXIT|{id}|/")), "ACK");
    world.hang_up(script);
    world.passes(WEB_A);
    assert_eq!((world.read(conn), world.page("a.de")), (vec![], None));
}

#[test]
fn what_is_unknown_or_forbidden_is_refused_and_requests_are_bounded() {
    let (mut world, conn, _) = one();
    assert_eq!(world.ask(conn, "MAINT_ENTER||r9"), "ERROR|unknown target: r9");
    assert_eq!(
        world.ask(conn, "MAINT_ENTER||r1|http://169.254.1.1"),
        "ERROR|not allowed: http://169.254.1.1/"
    );
    world.do_all(conn, &["ROUTE_ADD||b.de|/|http://10.2.2.7:80|0", "CONFIG_APPLY|"]);
    assert_eq!(world.ask(conn, &format!("MAINT_ENTER||r1|{PAGE}")), "ACK");
    for _ in 0..63 {
        assert_eq!(world.ask(conn, "MAINT_ENTER||r2"), "ACK");
    }
    assert_eq!(world.ask(conn, "MAINT_ENTER||r2"), "ERROR|too many maintenance requests");
    world.do_all(conn, &["CLIENT_SHUTDOWN|"]);
    assert!(!world.registry.0.waits_for_probes() && world.questions(PAGE).is_empty());
}

#[test]
fn requests_for_many_sessions_are_bounded_on_the_connection_that_waits_for_them() {
    let mut world = World::new();
    let ids: Vec<String> =
        (0..66).map(|number| world.register("web", &format!("web-{number}"), A).1).collect();
    let script = world.connect(B);
    let enter = |id: &str| format!("MAINT_ENTER|{id}|ALL|{PAGE}");
    for id in &ids[..64] {
        assert_eq!(world.ask(script, &enter(id)), "ACK");
    }
    assert_eq!(world.ask(script, &enter(&ids[64])), "ERROR|too many maintenance requests");
    let other = world.connect(B);
    assert_eq!(world.ask(other, &enter(&ids[64])), "ACK", "which is of no other's concern");
    // One that ends without a verdict is owed none.
    assert_eq!(world.ask(other, &format!("CLIENT_SHUTDOWN|{}", ids[0])), "SHUTDOWN_OK");
    assert_eq!(world.ask(script, &enter(&ids[65])), "ACK");
    world.passes(PAGE);
    assert_eq!(world.read(script).len(), 64);
    for id in &ids[1..64] {
        world.say(script, &format!("MAINT_ENTER|{id}|ALL|"));
        assert_eq!(world.read(script), ["ACK", "MAINT_OK|ALL"], "each verdict makes room again");
    }
}

/// One session in maintenance with a page, and a sibling of it whose r1 is exempt.
fn kept() -> (World, [String; 2]) {
    let (mut world, first, id) = one();
    let (second, other) = world.live("web", "web-2", B, "b.de", WEB_B);
    world.say(first, &format!("MAINT_ENTER||SERVICE|{PAGE}"));
    world.passes(PAGE);
    world.say(second, "MAINT_EXIT||r1");
    world.passes(WEB_B);
    assert_eq!(world.read(second), ["ACK", "MAINT_OK|r1"]);
    assert_eq!((world.page("a.de").as_deref(), world.page("b.de")), (Some("10.2.2.7:3001"), None));
    (world, [id, other])
}

#[test]
fn maintenance_survives_a_restart_and_the_page_is_there_at_once() {
    let (world, [id, other]) = kept();
    let mut world = world.restart();
    assert_eq!((world.page("a.de").as_deref(), world.page("b.de")), (Some("10.2.2.7:3001"), None));
    assert_eq!(world.serving("b.de"), ["10.2.2.8:80"]);
    let (first, second) = (world.connect(A), world.connect(B));
    world.do_all(first, &[&format!("RECONNECT|{id}")]);
    world.do_all(second, &[&format!("RECONNECT|{other}")]);
    assert_eq!(
        world.ask(first, "MAINT_STATUS|"),
        r#"MAINT_STATUS_OK|{"in_maintenance":["r1"],"maintenance_backend":"http://10.2.2.7:3001/","entered_at":"2023-11-14T22:13:20Z"}"#
    );
    world.do_all(second, &[&format!("ROUTE_ADD||c.de|/|{WEB_B}|0"), "CONFIG_APPLY|"]);
    assert!(world.page("c.de").is_some(), "all of it is in maintenance but r1");
    world.say(first, "MAINT_EXIT||ALL");
    world.passes(WEB_A);
    assert_eq!(world.read(first), ["ACK", "MAINT_OK|ALL"]);
    let world = world.restart();
    assert_eq!(world.page("a.de"), None, "what was left stays left");
    assert!(world.page("c.de").is_some());
}

#[test]
fn a_route_that_was_born_in_maintenance_is_in_it_after_a_restart() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(conn, &[&format!("ROUTE_ADD||a.de|/|{WEB_A}|0"), &format!("ROUTE_ADD||b.de|/|{WEB_A}|0")]);
    world.say(conn, "MAINT_ENTER||r1");
    assert_eq!(world.read(conn), ["ACK", "MAINT_OK|r1"]);
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), "OK");
    let world = world.restart();
    assert_eq!((world.page("a.de").as_deref(), world.page("b.de")), (Some(""), None));
}

#[test]
fn entering_is_acknowledged_when_the_store_holds_it_and_refused_when_it_does_not() {
    let (mut world, conn, _) = one();
    world.store_answers = false;
    world.say(conn, "MAINT_ENTER||ALL");
    world.say(conn, "PING|");
    assert_eq!((world.read(conn), world.page("a.de")), (vec![], None));
    world.decides(0, false);
    assert_eq!(world.read(conn), ["ERROR|store unavailable", "PONG"]);
    assert_eq!(world.page("a.de"), None, "and nothing has changed");
    world.say(conn, "MAINT_ENTER||ALL");
    world.decides(0, true);
    assert_eq!(world.read(conn), ["ACK", "MAINT_OK|ALL"]);
    assert!(world.page("a.de").is_some());
}

#[test]
fn leaving_has_its_verdict_when_the_store_holds_it_and_happens_even_if_it_does_not() {
    let (mut world, conn, _) = one();
    world.say(conn, "MAINT_ENTER||ALL");
    assert_eq!(world.read(conn), ["ACK", "MAINT_OK|ALL"]);
    world.store_answers = false;
    world.say(conn, "MAINT_EXIT||ALL");
    assert_eq!(world.read(conn), ["ACK"]);
    assert!(world.page("a.de").is_some());
    world.decides(0, false);
    assert_eq!((world.read(conn), world.page("a.de")), (vec!["MAINT_OK|ALL".to_owned()], None));
    world.decides(0, false);
    world.after(seconds(5));
    world.decides(0, true);
    assert!(world.commits.is_empty());
    let world = world.restart();
    assert_eq!(world.page("a.de"), None, "the store has been told until it took it");
}

#[test]
fn leaving_waits_for_an_apply_that_is_on_its_way_to_the_store() {
    let (mut world, conn, id) = one();
    assert_eq!(world.ask(conn, &format!("MAINT_ENTER||ALL|{PAGE}")), "ACK");
    world.passes(PAGE);
    assert_eq!(world.read(conn), ["MAINT_OK|ALL"]);
    assert_eq!(world.ask(conn, "MAINT_EXIT||ALL"), "ACK");
    world.do_all(conn, &["ROUTE_UPDATE||r1|priority|5"]);
    world.store_answers = false;
    world.say(conn, "CONFIG_APPLY|");
    world.passes(WEB_A);
    assert_eq!((world.read(conn), world.commits.len()), (vec![], 1));
    world.decides(0, true);
    assert_eq!((world.read(conn), world.commits.len()), (vec!["OK".to_owned()], 1));
    world.decides(0, true);
    assert_eq!((world.read(conn), world.page("a.de")), (vec!["MAINT_OK|ALL".to_owned()], None));
    let again = world.connect(A);
    assert_eq!(world.ask(again, &format!("RECONNECT|{id}")), "OK");
}

/// The requests of two sessions about one meet in the store.
#[test]
fn what_a_sibling_asks_for_meanwhile_ends_up_in_the_store_as_well() {
    let (mut world, first, _) = one();
    let (second, _) = world.live("web", "web-2", B, "b.de", WEB_B);
    world.store_answers = false;
    world.say(first, "MAINT_ENTER||SERVICE");
    world.say(second, "MAINT_ENTER||r1");
    while !world.commits.is_empty() {
        world.decides(0, true);
    }
    assert_eq!(world.read(first), ["ACK", "MAINT_OK|SERVICE"]);
    assert_eq!(world.read(second), ["ACK", "MAINT_OK|r1"]);
    let shown = ["a.de", "b.de"].map(|domain| world.page(domain));
    let add = |world: &mut World, conn| {
        world.store_answers = true;
        world.do_all(conn, &[&format!("ROUTE_ADD||c.de|/|{WEB_B}|0"), "CONFIG_APPLY|"]);
        world.page("c.de")
    };
    let later = add(&mut world, second);
    assert!(later.is_some(), "SERVICE means what is added later too");
    let world = world.restart();
    assert_eq!(["a.de", "b.de"].map(|domain| world.page(domain)), shown);
    assert_eq!(world.page("c.de"), later);
}

const EVIL_PAGE: &str = "http://10.2.2.9:3001/";

/// A session of the service `shop` with an applied route, elsewhere than the service's own.
fn joined(world: &mut World) -> ConnId {
    let (conn, _) = world.register("shop", "evil-1", "10.2.2.9");
    assert_eq!(world.apply(conn, "evil.de", "http://10.2.2.9:80"), "OK");
    conn
}

fn is_in_maintenance(world: &World, domain: &str) -> bool {
    let claim = world.table.get(&domain.parse().unwrap(), &"/".parse().unwrap()).unwrap();
    claim.maintenance().is_some()
}

#[test]
fn only_an_instance_with_an_applied_route_puts_its_whole_service_into_maintenance() {
    let mut world = World::new();
    world.live("shop", "shop-1", "10.2.2.7", "shop.de", "http://10.2.2.7:80");
    let (evil, _) = world.register("shop", "evil-1", "10.2.2.9");
    world.do_all(evil, &["ROUTE_ADD||evil.de|/|http://10.2.2.9:80|0"]);
    let refused = "ERROR|not allowed: SERVICE for a session without an applied route";
    for target in ["SERVICE", "r1,SERVICE"] {
        assert_eq!(world.ask(evil, &format!("MAINT_ENTER||{target}|{EVIL_PAGE}")), refused);
    }
    assert!(!is_in_maintenance(&world, "shop.de"));
    world.say(evil, "MAINT_ENTER||ALL");
    assert_eq!(world.read(evil), ["ACK", "MAINT_OK|ALL"]);
}

#[test]
fn what_a_session_entered_for_others_ends_with_it_and_so_does_its_page() {
    for ends in ["CLIENT_SHUTDOWN|", "its grace", "its replacement"] {
        let mut world = World::new();
        world.live("shop", "shop-1", "10.2.2.7", "shop.de", "http://10.2.2.7:80");
        let evil = joined(&mut world);
        assert_eq!(world.ask(evil, &format!("MAINT_ENTER||SERVICE|{EVIL_PAGE}")), "ACK");
        assert!(is_in_maintenance(&world, "shop.de"));
        if ends == "its grace" {
            world.hang_up(evil);
            world.after(seconds(299));
            assert!(is_in_maintenance(&world, "shop.de"), "it may return");
            world.after(seconds(1));
        } else if ends == "its replacement" {
            let next = joined(&mut world);
            world.passes("http://10.2.2.9:80");
            world.do_all(next, &["PING|"].map(|_| "CONFIG_APPLY|"));
        } else {
            world.do_all(evil, &[ends]);
        }
        assert!(!is_in_maintenance(&world, "shop.de"), "{ends}");
        assert_eq!(world.serving("shop.de"), ["10.2.2.7:80"]);
        let mut world = world.restart();
        assert!(!is_in_maintenance(&world, "shop.de"), "nor after a restart");
        world.after(seconds(301));
    }
}

#[test]
fn any_instance_may_leave_what_another_entered_and_its_own_maintenance_stays_its_own() {
    let mut world = World::new();
    let (own, _) = world.live("shop", "shop-1", "10.2.2.7", "shop.de", "http://10.2.2.7:80");
    let evil = joined(&mut world);
    world.say(evil, "MAINT_ENTER||SERVICE");
    assert!(is_in_maintenance(&world, "shop.de"));
    world.say(own, "MAINT_EXIT||SERVICE");
    assert!(!is_in_maintenance(&world, "shop.de"));
    world.say(evil, "MAINT_ENTER||SERVICE");
    world.say(own, "MAINT_ENTER||r1");
    world.say(evil, "CLIENT_SHUTDOWN|");
    assert!(is_in_maintenance(&world, "shop.de"), "it has entered that itself");
}

#[test]
fn who_entered_what_for_others_is_known_after_a_restart() {
    let mut world = World::new();
    world.live("shop", "shop-1", "10.2.2.7", "shop.de", "http://10.2.2.7:80");
    let evil = joined(&mut world);
    assert_eq!(world.ask(evil, &format!("MAINT_ENTER||SERVICE|{EVIL_PAGE}")), "ACK");
    let mut world = world.restart();
    assert!(is_in_maintenance(&world, "shop.de"));
    world.live("shop", "shop-1", "10.2.2.7", "shop.de", "http://10.2.2.7:80");
    world.after(seconds(300));
    assert!(!is_in_maintenance(&world, "shop.de"), "its session has not returned");
}
