//! DESIGN rule 5: whatever a peer can fill has a limit with an error of its own.

use super::*;

const A: &str = "10.2.2.7";

#[test]
fn connections_are_bounded() {
    let mut world = World::with(|config| config.limits.connections = 1);
    let first = world.connect(A);
    let second = world.connect(A);
    assert_eq!(world.read(second), ["ERROR|too many connections"]);
    assert!(world.closed.contains(&second) && !world.closed.contains(&first));
    world.hang_up(first);
    let third = world.connect(A);
    assert!(!world.closed.contains(&third));
}

#[test]
fn sessions_are_bounded_and_retired_ones_do_not_count() {
    let mut world = World::with(|config| config.limits.sessions = 2);
    world.register("web", "web-1", A);
    for _ in 0..5 {
        world.register("web", "web-2", A);
    }
    let conn = world.connect(A);
    assert_eq!(world.ask(conn, "REGISTER|web|web-3|0|"), "ERROR|too many sessions");
}

#[test]
fn the_ids_that_a_session_has_replaced_are_bounded() {
    let mut world = World::with(|config| config.limits.predecessors = 2);
    let mut ids = Vec::new();
    for _ in 0..4 {
        let (conn, id) = world.register("web", "web-1", A);
        world.hang_up(conn);
        ids.push(id);
    }
    let asking = world.connect("10.2.2.8");
    let replies: Vec<String> = ids.iter().map(|id| world.ask(asking, &format!("RECONNECT|{id}"))).collect();
    assert_eq!(replies, ["REREGISTER", "ERROR|session replaced", "ERROR|session replaced", "OK"]);
}

#[test]
fn routes_domains_staged_bytes_and_metadata_are_bounded() {
    let mut world = World::with(|config| {
        config.limits.routes = 2;
        config.limits.domains = 2;
        config.limits.staged_bytes = 400;
        config.limits.metadata_bytes = 20;
    });
    let conn = world.connect(A);
    let large = format!(r#"REGISTER|web|web-1|0|{{"x":"{}"}}"#, "x".repeat(20));
    assert_eq!(world.ask(conn, &large), "ERROR|metadata too large");
    world.register_on(conn, "web", "web-1");
    let add = "ROUTE_ADD||a.de|/|http://10.2.2.7:80|0";
    assert_eq!(world.ask(conn, "ROUTE_ADD||a.de,b.de,c.de|/|http://10.2.2.7:80|0"), "ERROR|too many domains");
    world.do_all(conn, &[add, add]);
    assert_eq!(world.ask(conn, add), "ERROR|too many routes");
    let long = format!("ROUTE_UPDATE||r1|path|/{}", "x".repeat(400));
    assert_eq!(world.ask(conn, &long), "ERROR|too many staged changes");
    world.do_all(conn, &["CONFIG_APPLY|", "ROUTE_REMOVE||r1", "CONFIG_APPLY|", add]);
}

#[test]
fn commands_that_wait_are_bounded() {
    let mut world = World::with(|config| config.limits.queue = 2);
    let (conn, _) = world.register("web", "web-1", A);
    for line in ["BACKEND_TEST||http://10.2.2.7:80", "PING|", "PING|", "PING|"] {
        world.say(conn, line);
    }
    assert_eq!(world.read(conn), ["ERROR|too many commands at once"]);
    assert!(world.closed.contains(&conn));
}

#[test]
fn nothing_is_left_of_sessions_that_are_over() {
    let mut world = World::new();
    for number in 0..50 {
        let from = format!("10.2.3.{number}");
        let (conn, _) = world.live("web", "web-1", &from, "a.de", &format!("http://{from}:80"));
        let (again, _) = world.live("web", "web-1", &from, "a.de", &format!("http://{from}:81"));
        world.hang_up(conn);
        world.hang_up(again);
    }
    world.after(seconds(301));
    assert_eq!(world.table.claims().count(), 0);
    assert!(world.watched.is_empty() && world.registry.next_deadline().is_none());
    assert!(world.registry.is_empty());
}

#[test]
fn without_random_bits_nobody_is_registered() {
    let mut world = World::new();
    world.registry = Registry::new(RegistryConfig::default(), Box::new(|| None));
    let conn = world.connect(A);
    assert_eq!(world.ask(conn, "REGISTER|web|web-1|0|"), "ERROR|no randomness to be had, try again");
}
