//! SEMANTICS section 6: a claim that has lost its last usable member is held.

use super::*;

const A: &str = "10.2.2.7";
const B: &str = "10.2.2.8";
const WEB_A: &str = "http://10.2.2.7:80";
const WEB_B: &str = "http://10.2.2.8:80";

impl World {
    /// How long requests for a domain still wait; `None`: they do not.
    pub(super) fn held(&self, domain: &str) -> Option<Duration> {
        let claim = self.table.get(&domain.parse().unwrap(), &"/".parse().unwrap())?;
        Some(claim.hold.deadline(self.now.mono)? - self.now.mono)
    }

    fn is_claimed(&self, domain: &str) -> bool {
        self.table.get(&domain.parse().unwrap(), &"/".parse().unwrap()).is_some()
    }
}

#[test]
fn a_claim_outlives_the_shutdown_of_its_last_member_for_thirty_seconds() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    assert_eq!(world.held("a.de"), None);
    assert_eq!(world.ask(conn, "CLIENT_SHUTDOWN|"), "SHUTDOWN_OK");
    assert_eq!((world.pool("a.de"), world.held("a.de")), (vec![], Some(seconds(30))));
    world.after(seconds(29));
    assert!(world.is_claimed("a.de"));
    world.after(seconds(1));
    assert!(!world.is_claimed("a.de"));
    assert!(world.registry.is_empty());
}

#[test]
fn whoever_comes_first_serves_at_once_and_the_next_loss_counts_anew() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.do_all(conn, &["CLIENT_SHUTDOWN|"]);
    world.after(seconds(20));
    let (conn, _) = world.register("shop", "shop-1", B);
    assert_eq!(world.apply(conn, "a.de", WEB_B), "OK", "any service may claim the place");
    assert_eq!((world.serving("a.de"), world.held("a.de")), (vec!["10.2.2.8:80".to_owned()], None));
    let claim = world.table.get(&"a.de".parse().unwrap(), &"/".parse().unwrap()).unwrap();
    assert_eq!(claim.terms.service.as_str(), "shop");
    world.after(seconds(60));
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80"]);
    world.do_all(conn, &["CLIENT_SHUTDOWN|"]);
    assert_eq!(world.held("a.de"), Some(seconds(30)));
}

#[test]
fn a_failed_check_holds_too_and_a_second_failure_does_not_prolong_it() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.do_all(conn, &["HEALTH_SET||r1|/health|5s|1s", "CONFIG_APPLY|"]);
    (0..3).for_each(|_| world.fails(WEB_A));
    assert_eq!(world.held("a.de"), Some(seconds(30)));
    world.after(seconds(10));
    world.fails(WEB_A);
    assert_eq!(world.held("a.de"), Some(seconds(20)));
    world.do_all(conn, &["CLIENT_SHUTDOWN|"]);
    assert_eq!(world.held("a.de"), Some(seconds(20)), "it was lost before");
    world.after(seconds(20));
    assert!(!world.is_claimed("a.de"));
}

#[test]
fn nothing_is_held_while_a_sibling_is_usable_or_when_the_route_was_removed() {
    let mut world = World::new();
    let (first, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    let (second, _) = world.live("web", "web-2", B, "a.de", WEB_B);
    world.do_all(first, &["CLIENT_SHUTDOWN|"]);
    assert_eq!((world.serving("a.de").len(), world.held("a.de")), (1, None));
    world.do_all(second, &["ROUTE_REMOVE||r1", "CONFIG_APPLY|"]);
    assert!(!world.is_claimed("a.de"), "whoever removes a route does not want it held");
}

#[test]
fn the_member_applied_last_says_how_long_and_zero_turns_it_off() {
    let mut world = World::with(|config| config.hold = seconds(5));
    let (first, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.do_all(first, &["OPTIONS_SET||r1|hold|1m", "CONFIG_APPLY|"]);
    let (second, _) = world.live("web", "web-2", B, "a.de", WEB_B);
    world.do_all(second, &["OPTIONS_SET||ALL|hold|7s", "CONFIG_APPLY|", "CLIENT_SHUTDOWN|"]);
    world.do_all(first, &["CLIENT_SHUTDOWN|"]);
    assert_eq!(world.held("a.de"), Some(seconds(60)));
    let (conn, _) = world.live("web", "web-1", A, "b.de", WEB_A);
    world.do_all(conn, &["OPTIONS_SET||ALL|hold|0s", "CONFIG_APPLY|", "CLIENT_SHUTDOWN|"]);
    assert!(!world.is_claimed("b.de"));
    let (conn, _) = world.live("web", "web-1", A, "c.de", WEB_A);
    world.do_all(conn, &["CLIENT_SHUTDOWN|"]);
    assert_eq!(world.held("c.de"), Some(seconds(5)), "HOLD");
}

#[test]
fn a_session_that_does_not_return_leaves_its_claims_held() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.hang_up(conn);
    world.after(seconds(300));
    assert_eq!((world.pool("a.de"), world.held("a.de")), (vec![], Some(seconds(30))));
}

#[test]
fn a_request_is_let_in_or_seen_by_whoever_closed_the_member_whichever_table_it_came_by() {
    use crate::server::routing::{Chosen, InFlight};
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    let old = world.table.clone();
    let claim = old.get(&"a.de".parse().unwrap(), &"/".parse().unwrap()).unwrap();
    let early = InFlight::admit(Chosen::Of(claim.clone(), 0));
    assert!(early.is_some());
    world.do_all(conn, &["CLIENT_SHUTDOWN|"]);
    assert!(InFlight::admit(Chosen::Of(claim.clone(), 0)).is_none());
    assert!(claim.is_closing() && claim.choose(None, world.now.mono, &mut |_| 0).is_none());
}

#[test]
fn a_claim_that_begins_with_a_drained_member_has_lost_nothing() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.do_all(conn, &["DRAIN_START||10s", "ROUTE_ADD||b.de|/|http://10.2.2.7:80|1", "CONFIG_APPLY|"]);
    assert_eq!((world.serving("b.de"), world.held("b.de")), (vec![], None));
    let twice = "ROUTE_ADD||c.de|/|http://10.2.2.7:80|1";
    world.do_all(conn, &[twice, twice]);
    world.say(conn, "MAINT_ENTER||r3");
    assert_eq!(world.read(conn), ["ACK", "MAINT_OK|r3"]);
    world.do_all(conn, &["CONFIG_APPLY|"]);
    assert_eq!(
        (world.serving("c.de"), world.held("c.de")),
        (vec![], None),
        "r4 counts there, from the first moment"
    );
}

#[test]
fn what_probes_or_the_session_say_of_a_member_that_refuses_connections_begins_no_second_hold() {
    type Loss = fn(&mut World, ConnId);
    let by_check: Loss = |world, _| (0..3).for_each(|_| world.fails(WEB_A));
    let by_leaving: Loss = |world, conn| world.do_all(conn, &["CLIENT_SHUTDOWN|"]);
    let in_grace: Loss = |world, conn| {
        world.hang_up(conn);
        world.fails(WEB_A);
    };
    for lose in [by_check, by_leaving, in_grace] {
        let mut world = World::new();
        let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
        world.do_all(conn, &["HEALTH_SET||r1|/health|5s|1s", "CONFIG_APPLY|"]);
        let claim = world.table.get(&"a.de".parse().unwrap(), &"/".parse().unwrap()).unwrap().clone();
        claim.members[0].load.set_unreachable(world.now.mono);
        world.after(seconds(12));
        lose(&mut world, conn);
        assert_eq!((world.serving("a.de"), world.held("a.de")), (vec![], Some(seconds(18))));
    }
}

#[test]
fn a_member_that_passes_its_check_again_has_no_outage_any_more() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.do_all(conn, &["HEALTH_SET||r1|/health|5s|1s", "CONFIG_APPLY|"]);
    let claim = world.table.get(&"a.de".parse().unwrap(), &"/".parse().unwrap()).unwrap().clone();
    claim.members[0].load.set_unreachable(world.now.mono);
    (0..3).for_each(|_| world.fails(WEB_A));
    world.after(seconds(20));
    world.passes(WEB_A);
    assert!(!claim.members[0].load.is_unreachable());
    (0..3).for_each(|_| world.fails(WEB_A));
    assert_eq!(world.held("a.de"), Some(seconds(30)), "another loss");
}
