//! SEMANTICS section 4: a session that is resumed from another address than before.

use super::*;

const OLD: &str = "10.2.2.7";
const NEW: &str = "10.2.2.8";
const WEB: &str = "http://10.2.2.7:80";
const OTHER: &str = "http://10.2.2.7:90";

impl World {
    /// RECONNECT from a new connection.
    fn reconnect(&mut self, id: &str, from: &str) -> ConnId {
        let conn = self.connect(from);
        self.say(conn, &format!("RECONNECT|{id}"));
        conn
    }
}

#[test]
fn it_is_resumed_if_a_backend_that_it_has_at_the_old_one_answers() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", OLD, "a.de", WEB);
    assert_eq!(world.apply(conn, "b.de", OTHER), "OK");
    let moved = world.reconnect(&id, NEW);
    world.say(moved, "PING|");
    assert_eq!(world.read(moved), [""; 0], "the answer waits, and those behind it");
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"], "meanwhile nothing changes");
    world.fails(WEB);
    assert_eq!(world.read(moved), [""; 0]);
    world.passes(OTHER);
    assert_eq!(world.read(moved), ["OK", "PONG"]);
    assert_eq!(world.ask(moved, "CLIENT_SHUTDOWN|"), "SHUTDOWN_OK");
    world.after(seconds(60));
    assert!(world.watched.is_empty());
}

#[test]
fn it_has_to_register_again_if_none_answers_and_requests_wait_for_its_new_session() {
    for restarts in [false, true] {
        let mut world = World::new();
        let (_, id) = world.live("web", "web-1", OLD, "a.de", WEB);
        if restarts {
            world = world.restart();
        }
        let moved = world.reconnect(&id, NEW);
        world.fails(WEB);
        assert_eq!(world.read(moved), ["REREGISTER"]);
        assert_eq!(world.serving("a.de"), [""; 0], "nobody is sent to the old address");
        let claim = world.table.get(&"a.de".parse().unwrap(), &"/".parse().unwrap()).unwrap();
        assert!(claim.hold.deadline(world.now.mono).is_some());
        world.register_on(moved, "web", "web-1");
        assert_eq!(world.apply(moved, "a.de", "http://10.2.2.8:80"), "OK");
        assert_eq!(world.serving("a.de"), ["10.2.2.8:80"]);
    }
}

#[test]
fn what_is_at_the_old_address_of_somebody_who_came_there_is_not_asked() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", OLD, "a.de", WEB);
    world.hang_up(conn);
    world.register("shop", "shop-1", OLD);
    let moved = world.reconnect(&id, NEW);
    assert_eq!(world.read(moved), ["REREGISTER"], "whoever answers there is somebody else");
}

#[test]
fn a_session_without_a_backend_at_the_old_address_is_resumed_at_once() {
    for (from, to, backend) in [
        (OLD, NEW, "http://10.2.2.9:80"),
        (OLD, NEW, "http://app:80"),
        (OLD, OLD, WEB),
        ("127.0.0.1", "127.0.0.2", "http://127.0.0.1:80"),
    ] {
        let mut world = World::new();
        let (conn, id) = world.live("web", "web-1", from, "a.de", backend);
        world.hang_up(conn);
        let moved = world.reconnect(&id, to);
        assert_eq!(world.read(moved), ["OK"], "{from} {to} {backend}");
    }
}

#[test]
fn without_any_answer_it_has_to_register_again_and_nothing_is_left() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", OLD, "a.de", WEB);
    world.hang_up(conn);
    world.fails(WEB);
    let gone = world.reconnect(&id, NEW);
    world.hang_up(gone);
    assert!(world.watched.is_empty(), "nobody waits for that any more");
    let moved = world.reconnect(&id, NEW);
    world.after(seconds(5));
    assert_eq!(world.read(moved), ["REREGISTER"]);
    assert!(world.watched.is_empty());
}

#[test]
fn what_became_of_the_session_meanwhile_decides_in_the_end() {
    let mut world = World::new();
    let (_, id) = world.live("web", "web-1", OLD, "a.de", WEB);
    let moved = world.reconnect(&id, NEW);
    let (_, _) = world.register("web", "web-1", OLD);
    world.passes(WEB);
    assert_eq!(world.read(moved), ["ERROR|session replaced"]);
}
