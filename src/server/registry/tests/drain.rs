//! SEMANTICS section 6: drain.

use std::sync::atomic::Ordering;

use super::*;
use crate::server::registry::{DrainShare, SessionNo};

const A: &str = "10.2.2.7";
const B: &str = "10.2.2.8";
const WEB_A: &str = "http://10.2.2.7:80";
const WEB_B: &str = "http://10.2.2.8:80";

impl World {
    fn weight(&self, domain: &str, at: usize) -> f64 {
        let claim = self.table.get(&domain.parse().unwrap(), &"/".parse().unwrap()).unwrap();
        let member = &claim.members[at];
        if member.usable {
            member.terms.drain.as_ref().map_or(1.0, |drain| drain.weight(self.now.mono))
        } else {
            0.0
        }
    }

    /// As many requests are under way at a member.
    fn in_flight(&self, domain: &str, at: usize, count: u32) {
        let claim = self.table.get(&domain.parse().unwrap(), &"/".parse().unwrap()).unwrap();
        claim.members[at].load.in_flight.store(count, Ordering::SeqCst);
    }

    fn drain_status(&mut self, conn: ConnId) -> serde_json::Value {
        let reply = self.ask(conn, "DRAIN_STATUS|");
        serde_json::from_str(reply.strip_prefix("DRAIN_STATUS_OK|").expect(&reply)).unwrap()
    }
}

/// Two instances of one service.
fn siblings() -> (World, ConnId, ConnId) {
    let mut world = World::new();
    let (first, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    let (second, _) = world.live("web", "web-2", B, "a.de", WEB_B);
    (world, first, second)
}

#[test]
fn beside_a_usable_sibling_the_weight_falls_evenly_to_zero() {
    let (mut world, first, _) = siblings();
    world.in_flight("a.de", 0, 1);
    assert_eq!(world.ask(first, "DRAIN_START||10s"), "DRAIN_OK|2023-11-14T22:13:30Z");
    world.after(seconds(4));
    assert_eq!((world.weight("a.de", 0), world.weight("a.de", 1)), (0.6, 1.0));
    let status = world.drain_status(first);
    assert_eq!(status["active"], true);
    assert_eq!(status["started_at"], "2023-11-14T22:13:20Z");
    let numbers =
        ["duration_seconds", "elapsed_seconds", "remaining_seconds", "traffic_percent", "in_flight"];
    assert_eq!(numbers.map(|key| status[key].as_f64().unwrap()), [10.0, 4.0, 6.0, 60.0, 1.0]);
    world.after(seconds(6));
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80"]);
    assert_eq!(world.drain_status(first)["active"], true, "until it is cancelled");
}

#[test]
fn without_a_sibling_the_weight_is_zero_at_once_and_the_claim_is_held() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.in_flight("a.de", 0, 3);
    world.do_all(conn, &["DRAIN_START||10s"]);
    assert_eq!((world.serving("a.de"), world.held("a.de")), (vec![], Some(seconds(30))));
    let status = world.drain_status(conn);
    assert_eq!((status["traffic_percent"].as_f64(), status["in_flight"].as_u64()), (Some(0.0), Some(3)));
    assert_eq!(status["remaining_seconds"], 10.0);
}

#[test]
fn a_sibling_that_fails_takes_the_weight_with_it_and_one_that_comes_gives_it_back() {
    let (mut world, first, second) = siblings();
    world.in_flight("a.de", 0, 1);
    world.do_all(first, &["DRAIN_START||10s"]);
    world.hang_up(second);
    world.fails(WEB_B);
    assert_eq!(world.serving("a.de"), [""; 0]);
    let (third, _) = world.live("web", "web-3", "10.2.2.9", "a.de", "http://10.2.2.9:80");
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80", "10.2.2.9:80"]);
    world.do_all(third, &["DRAIN_START||10s"]);
    assert_eq!(world.serving("a.de"), [""; 0], "two that leave are no siblings to each other");
}

#[test]
fn a_drain_is_over_as_soon_as_nothing_is_in_flight() {
    let (mut world, first, _) = siblings();
    world.in_flight("a.de", 0, 1);
    world.do_all(first, &["DRAIN_START||10s"]);
    world.after(seconds(2));
    assert_eq!(world.drain_status(first)["remaining_seconds"], 8.0);
    world.in_flight("a.de", 0, 0);
    let status = world.drain_status(first);
    assert_eq!(
        (status["remaining_seconds"].as_f64(), status["duration_seconds"].as_f64()),
        (Some(0.0), Some(10.0))
    );
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80"]);
}

#[test]
fn a_drain_is_cancelled_and_can_begin_anew() {
    let (mut world, first, _) = siblings();
    assert_eq!(world.ask(first, "DRAIN_STATUS|"), "ERROR|no drain in progress");
    assert_eq!(world.ask(first, "DRAIN_CANCEL|"), "ERROR|no drain in progress");
    world.do_all(first, &["DRAIN_START||0s"]);
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80"]);
    assert_eq!(world.ask(first, "DRAIN_CANCEL|"), "DRAIN_OK");
    assert_eq!(world.serving("a.de").len(), 2);
    assert_eq!(world.ask(first, "DRAIN_STATUS|"), "ERROR|no drain in progress");
    world.do_all(first, &["DRAIN_START||5s"]);
    world.after(seconds(60));
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80"]);
}

#[test]
fn a_drain_survives_a_lost_connection_and_new_routes_are_drained_too() {
    let (mut world, first, _) = siblings();
    let id = {
        let info = world.ask(first, "SESSION_INFO|");
        let info: serde_json::Value =
            serde_json::from_str(info.strip_prefix("SESSION_OK|").unwrap()).unwrap();
        info["session_id"].as_str().unwrap().to_owned()
    };
    world.do_all(first, &["DRAIN_START||0s"]);
    world.hang_up(first);
    world.passes(WEB_A);
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80"]);
    let back = world.connect(A);
    assert_eq!(world.ask(back, &format!("RECONNECT|{id}")), "OK");
    world.passes(WEB_A);
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80"]);
    assert_eq!(world.apply(back, "b.de", WEB_A), "OK");
    assert_eq!(world.serving("b.de"), [""; 0]);
    world.do_all(back, &["DRAIN_CANCEL|"]);
    assert_eq!((world.serving("a.de").len(), world.serving("b.de").len()), (2, 1));
}

#[test]
fn a_successor_serves_at_once_where_only_a_drained_member_is_left() {
    let mut world = World::new();
    let (first, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.do_all(first, &["DRAIN_START||0s"]);
    let (second, _) = world.register("web", "web-2", B);
    assert_eq!(world.apply(second, "a.de", WEB_B), "OK");
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80"]);
}

fn share(session: u64, in_flight: u64, is_closed: bool) -> DrainShare {
    DrainShare { session: SessionNo(session), in_flight, upgraded: 0, is_closed }
}

#[test]
fn a_drain_is_over_when_it_is_over_at_every_replica_that_is_present() {
    let (mut world, first, _) = siblings();
    let here = |replicas: &[&str]| Input::Replicas(replicas.iter().map(|name| (*name).to_owned()).collect());
    let says = |replica: &str, shares: Vec<DrainShare>| Input::Drains(replica.into(), shares);
    world.input(here(&["b", "c"]));
    world.do_all(first, &["DRAIN_START||10s"]);
    assert_eq!(world.drain_status(first)["in_flight"], 1, "nobody has said anything");
    world.input(says("b", vec![share(1, 3, false)]));
    assert_eq!(world.drain_status(first)["in_flight"], 3, "c has not");
    world.input(says("c", vec![share(2, 0, true)]));
    assert_eq!(world.drain_status(first)["in_flight"], 3, "that was another session");
    world.input(says("c", vec![share(1, 0, false)]));
    assert_eq!(world.drain_status(first)["in_flight"], 3);
    assert!(world.drain_status(first)["remaining_seconds"].as_f64().unwrap() > 0.0);
    world.input(says("b", vec![share(1, 0, false)]));
    assert_eq!(world.drain_status(first)["in_flight"], 1, "they may still send it requests");
    assert_eq!(world.drain_status(first)["remaining_seconds"], 0.0, "it is over here");
    world.input(says("b", vec![share(1, 0, true)]));
    assert_eq!(world.drain_status(first)["in_flight"], 1, "c may");
    world.input(here(&["b"]));
    assert_eq!(world.drain_status(first)["in_flight"], 0, "c is gone, and its requests with it");
}

#[test]
fn a_server_says_what_it_has_left_of_drains() {
    let (mut world, first, _) = siblings();
    assert_eq!(world.registry.drains(), []);
    world.in_flight("a.de", 0, 2);
    world.do_all(first, &["DRAIN_START||10s"]);
    assert_eq!(world.registry.drains(), [share(1, 2, false)]);
    world.in_flight("a.de", 0, 0);
    world.drain_status(first);
    assert_eq!(world.registry.drains(), [share(1, 0, true)]);
    world.do_all(first, &["DRAIN_CANCEL|"]);
    assert_eq!(world.registry.drains(), []);
}
