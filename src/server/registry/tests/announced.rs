//! Connections of other replicas, which a new leader is told of (docs/internals/cluster.md).

use super::*;

const A: &str = "10.2.2.7";
const WEB: &str = "http://10.2.2.7:80";

/// The leader after the one that had a session, and the session's id.
fn successor() -> (World, String) {
    let mut world = World::new();
    let (_, id) = world.live("web", "web-1", A, "a.example.com", WEB);
    (world.restart(), id)
}

#[test]
fn a_session_is_bound_again_without_a_line() {
    let (mut world, id) = successor();
    let conn = world.announce(&id, A);
    assert_eq!(world.read(conn), [""; 0], "the client has asked nothing");
    assert!(world.answers_keepalive(conn, &format!("PING|{id}")));
    assert!(world.ask(conn, "SESSION_INFO|").contains("\"revision\":1"));
    world.after(seconds(3600));
    assert_eq!(world.ask(conn, "PING|"), "PONG", "it is not silent, and its session not lost");
}

#[test]
fn a_session_whose_client_has_come_back_elsewhere_stays_there() {
    let (mut world, id) = successor();
    let back = world.connect(A);
    assert_eq!(world.ask(back, &format!("RECONNECT|{id}")), "OK");
    let late = world.announce(&id, A);
    assert!(world.closed.contains(&late));
    assert_eq!(world.ask(back, "PING|"), "PONG");
}

#[test]
fn what_the_new_leader_does_not_know_is_closed_without_a_line() {
    let (mut world, _) = successor();
    let conn = world.announce("web-1-0-unknown", A);
    assert!(world.closed.contains(&conn));
    assert_eq!(world.read(conn), [""; 0]);
}

#[test]
fn a_session_that_has_lost_its_claim_registers_anew() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", A, "a.example.com", WEB);
    world.hang_up(conn);
    world.fails(WEB);
    world.fails(WEB);
    world.fails(WEB);
    let (other, _) = world.register("shop", "shop-1", "10.2.2.8");
    assert_eq!(world.apply(other, "a.example.com", "http://10.2.2.8:80"), "OK");
    let announced = world.announce(&id, A);
    assert!(world.closed.contains(&announced));
}

#[test]
fn the_connection_that_loses_its_session_is_told_so() {
    let mut world = World::new();
    let (first, id) = world.register("web", "web-1", A);
    assert!(world.answers_keepalive(first, "PING|"));
    let second = world.connect(A);
    assert_eq!(world.ask(second, &format!("RECONNECT|{id}")), "OK");
    assert!(!world.keepalives.contains_key(&first) && world.keepalives.contains_key(&second));
    world.ask(second, "CLIENT_SHUTDOWN|");
    assert!(world.keepalives.is_empty());
}
