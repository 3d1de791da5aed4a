//! PROTOCOL section 2: sessions.

use super::*;

const A: &str = "10.2.2.7";
const B: &str = "10.2.2.8";
const WEB: &str = "http://10.2.2.7:80";

#[test]
fn register_creates_a_session_and_binds_it_to_the_connection() {
    let mut world = World::new();
    let conn = world.connect(A);
    assert_eq!(world.ask(conn, "PING|"), "ERROR|no session");
    world.register_on(conn, "web", "web-1");
    assert_eq!(world.ask(conn, "PING|"), "PONG");
    assert_eq!(world.ask(conn, "PING"), "PONG", "a missing id means the connection's own session");
}

#[test]
fn a_session_id_is_instance_unix_ms_and_128_bits_from_the_random_source() {
    let mut world = World::new();
    let (_, id) = world.register("web", "web 1/ä", A);
    assert_eq!(id, format!("web_1__-1700000000000-{:032x}", 1));
}

#[test]
fn an_id_that_names_a_live_session_is_accepted_from_any_connection_and_binds_nothing() {
    let mut world = World::new();
    let (_, id) = world.register("web", "web-1", A);
    let other = world.connect(B);
    assert_eq!(world.ask(other, &format!("PING|{id}")), "PONG");
    assert_eq!(world.ask(other, "PING|"), "ERROR|no session");
}

#[test]
fn an_id_that_names_no_session_is_refused_even_on_a_bound_connection() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    assert_eq!(world.ask(conn, "PING|web-1-0-0"), "ERROR|session not found");
}

#[test]
fn one_session_has_one_connection_and_the_latest_binding_wins() {
    let mut world = World::new();
    let (first, id) = world.register("web", "web-1", A);
    let second = world.connect(A);
    assert_eq!(world.ask(second, &format!("RECONNECT|{id}")), "OK");
    assert_eq!(world.ask(first, "PING|"), "ERROR|no session");
    world.hang_up(first);
    world.after(seconds(301));
    assert_eq!(world.ask(second, "PING|"), "PONG", "the older connection's end means nothing");
}

#[test]
fn a_connection_answers_keepalives_itself_for_as_long_as_the_registry_would_say_pong() {
    let mut world = World::new();
    let (first, id) = world.register("web", "web-1", A);
    let ping = format!("PING|{id}");
    assert!(world.answers_keepalive(first, &ping) && world.answers_keepalive(first, "PING|"));

    let second = world.connect(A);
    assert!(!world.answers_keepalive(second, &ping), "nothing is bound there");
    assert_eq!(world.ask(second, &format!("RECONNECT|{id}")), "OK");
    assert!(world.answers_keepalive(second, &ping));
    assert!(
        !world.answers_keepalive(first, &ping) && !world.answers_keepalive(first, "PING|"),
        "the latest binding wins"
    );

    let (third, newer) = world.register("web", "web-1", A);
    assert!(!world.answers_keepalive(second, &ping), "the registry says something else");
    assert_eq!(world.ask(second, &ping), "ERROR|session replaced");
    assert!(
        world.answers_keepalive(third, &format!("PING|{newer}")) && !world.answers_keepalive(third, &ping)
    );

    world.hang_up(third);
    assert!(!world.answers_keepalive(third, "PING|"));
}

#[test]
fn what_a_connection_answered_itself_counts_as_activity() {
    let mut world = World::new();
    let (conn, id) = world.register("web", "web-1", A);
    world.after(seconds(30));
    assert!(world.answers_keepalive(conn, "PING|"));
    world.after(seconds(30));
    world.hang_up(conn);
    let other = world.connect(B);
    let session = world.registry.0.sessions().by_id(&id.parse().unwrap()).unwrap();
    let last = world.registry.0.sessions().get(session).unwrap().last_activity();
    assert_eq!(last, world.now.wall - seconds(30), "not lost with the connection");
    assert!(
        world
            .ask(other, &format!("SESSION_INFO|{id}"))
            .contains("\"last_activity\":\"2023-11-14T22:14:20Z\"")
    );
}

#[test]
fn register_on_a_bound_connection_leaves_the_former_session_as_if_its_connection_were_lost() {
    let mut world = World::new();
    let (conn, former) = world.register("web", "web-1", "127.0.0.1");
    assert_eq!(world.apply(conn, "a.de", "http://127.0.0.1:80"), "OK");
    world.register_on(conn, "admin", "admin-1");
    assert_eq!(world.serving("a.de"), ["127.0.0.1:80"]);
    world.after(seconds(299));
    assert_eq!(world.serving("a.de"), ["127.0.0.1:80"]);
    world.after(seconds(1));
    assert_eq!(world.pool("a.de"), [""; 0]);
    assert_eq!(world.ask(conn, &format!("PING|{former}")), "ERROR|session not found");
    assert_eq!(world.ask(conn, "PING|"), "PONG");
}

#[test]
fn reconnect_resumes_a_lost_session_with_its_routes_and_its_stage() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", A, "a.de", WEB);
    world.do_all(conn, &["ROUTE_ADD||b.de|/|http://10.2.2.7:80|0"]);
    world.hang_up(conn);
    world.after(seconds(299));
    let again = world.connect(A);
    assert_eq!(world.ask(again, &format!("RECONNECT|{id}")), "OK");
    world.after(seconds(600));
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    assert_eq!(world.ask(again, "CONFIG_APPLY|"), "OK");
    assert_eq!(world.serving("b.de"), ["10.2.2.7:80"]);
}

#[test]
fn reconnect_to_an_unknown_or_expired_session_is_answered_with_reregister() {
    let mut world = World::new();
    let (conn, id) = world.register("web", "web-1", A);
    world.hang_up(conn);
    world.after(seconds(300));
    let again = world.connect(A);
    assert_eq!(world.ask(again, &format!("RECONNECT|{id}")), "REREGISTER");
    assert_eq!(world.ask(again, "RECONNECT|nobody"), "REREGISTER");
}

#[test]
fn a_command_by_id_from_elsewhere_renews_the_grace() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", A, "a.de", WEB);
    world.hang_up(conn);
    for _ in 0..3 {
        world.after(seconds(200));
        let script = world.connect(A);
        assert_eq!(world.ask(script, &format!("PING|{id}")), "PONG");
        world.hang_up(script);
    }
    world.after(seconds(300));
    let script = world.connect(A);
    assert_eq!(world.ask(script, &format!("PING|{id}")), "ERROR|session not found");
}

#[test]
fn nothing_is_removed_before_the_grace_of_a_lost_session_ends() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB);
    world.hang_up(conn);
    world.after(seconds(300) - Duration::from_nanos(1));
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    world.after(Duration::from_nanos(1));
    assert_eq!(world.pool("a.de"), [""; 0]);
    assert!(world.watched.is_empty(), "nobody asks its backend any more");
}

#[test]
fn a_registration_from_the_same_address_replaces_and_makes_before_it_breaks() {
    let mut world = World::new();
    let (old, _) = world.live("web", "web-1", A, "a.de", WEB);
    world.hang_up(old);
    let (new, _) = world.register("web", "web-1", A);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"], "the old routes serve until the new one has applied");
    assert_eq!(world.apply(new, "a.de", "http://10.2.2.7:81"), "OK");
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"], "… and until its backend has answered");
    world.passes("http://10.2.2.7:81");
    assert_eq!(world.pool("a.de"), ["10.2.2.7:81"]);
    world.after(seconds(600));
    assert_eq!(world.pool("a.de"), ["10.2.2.7:81"]);
}

#[test]
fn a_replaced_session_whose_replacer_never_applies_serves_until_its_own_grace_ends() {
    let mut world = World::new();
    let (old, _) = world.live("web", "web-1", A, "a.de", WEB);
    world.hang_up(old);
    world.after(seconds(100));
    let (_new, _) = world.register("web", "web-1", A);
    world.after(seconds(199));
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    world.after(seconds(1));
    assert_eq!(world.pool("a.de"), [""; 0]);
}

#[test]
fn a_replaced_session_outlives_its_replacer_only_until_its_own_grace_ends() {
    let mut world = World::new();
    let (old, id) = world.live("web", "web-1", A, "a.de", WEB);
    world.hang_up(old);
    let (new, _) = world.register("web", "web-1", A);
    world.do_all(new, &["CLIENT_SHUTDOWN|"]);
    let asking = world.connect(B);
    assert_eq!(world.ask(asking, &format!("RECONNECT|{id}")), "REREGISTER");
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    let (third, _) = world.register("web", "web-1", A);
    assert_eq!(world.ask(asking, &format!("RECONNECT|{id}")), "ERROR|session replaced");
    world.do_all(third, &["CLIENT_SHUTDOWN|"]);
    world.after(seconds(300));
    world.hang_up(asking);
    assert_eq!(world.pool("a.de"), [""; 0]);
    world.after(seconds(30));
    assert!(world.registry.is_empty());
}

#[test]
fn make_before_break_holds_for_each_claim() {
    let mut world = World::new();
    let (old, _) = world.live("web", "web-1", A, "a.de", WEB);
    world.do_all(
        old,
        &[
            "ROUTE_ADD||b.de|/|http://10.2.2.7:90|0",
            "ROUTE_ADD||c.de|/|http://10.2.2.7:80|0",
            "CONFIG_APPLY|",
        ],
    );
    world.passes("http://10.2.2.7:90");
    let (new, _) = world.register("web", "web-1", A);
    world.do_all(
        new,
        &[
            "ROUTE_ADD||a.de|/|http://10.2.2.7:81|0",
            "ROUTE_ADD||b.de|/|http://10.2.2.7:91|0",
            "CONFIG_APPLY|",
        ],
    );
    world.passes("http://10.2.2.7:81");
    assert_eq!(world.pool("a.de"), ["10.2.2.7:81"]);
    assert_eq!(world.serving("b.de"), ["10.2.2.7:90"], "whose new backend has not answered yet");
    assert_eq!(world.pool("c.de"), [""; 0], "which the new session does not want");
    world.passes("http://10.2.2.7:91");
    assert_eq!(world.pool("b.de"), ["10.2.2.7:91"]);
}

#[test]
fn a_registration_from_another_address_is_a_sibling_until_the_grace_of_either_ends() {
    let mut world = World::new();
    let (first, _) = world.live("web", "web-1", A, "a.de", WEB);
    let (second, _) = world.live("web", "web-1", B, "a.de", "http://10.2.2.8:80");
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80", "10.2.2.8:80"]);
    assert_eq!(world.ask(first, "PING|"), "PONG");
    world.hang_up(first);
    world.after(seconds(300));
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80"]);
    assert_eq!(world.ask(second, "PING|"), "PONG");
}

#[test]
fn a_replaced_session_that_is_still_connected_is_told_so_for_every_command() {
    let mut world = World::new();
    let (old, id) = world.register("web", "web-1", A);
    let (_new, _) = world.register("web", "web-1", A);
    for line in ["PING|", "ROUTE_LIST|", "CONFIG_APPLY|", "CLIENT_SHUTDOWN|"] {
        assert_eq!(world.ask(old, line), "ERROR|session replaced", "{line}");
        assert_eq!(world.ask(old, &format!("{line}{id}")), "ERROR|session replaced", "{line}");
    }
    let elsewhere = world.connect(B);
    assert_eq!(world.ask(elsewhere, &format!("RECONNECT|{id}")), "ERROR|session replaced");
}

#[test]
fn a_replaced_id_is_answered_as_long_as_the_newest_of_its_replacers_lives() {
    let mut world = World::new();
    let (_, first) = world.register("web", "web-1", A);
    let (_, second) = world.register("web", "web-1", A);
    let (third, _) = world.register("web", "web-1", A);
    world.after(seconds(1000));
    let asking = world.connect(B);
    for id in [&first, &second] {
        assert_eq!(world.ask(asking, &format!("RECONNECT|{id}")), "ERROR|session replaced");
    }
    world.hang_up(third);
    world.after(seconds(300));
    for id in [&first, &second] {
        assert_eq!(world.ask(asking, &format!("RECONNECT|{id}")), "REREGISTER");
        assert_eq!(world.ask(asking, &format!("PING|{id}")), "ERROR|session not found");
    }
}

#[test]
fn an_old_id_whose_replacer_is_the_connections_own_session_counts_as_that_session() {
    let mut world = World::new();
    let (_, first) = world.register("web", "web-1", A);
    let (_, second) = world.register("web", "web-1", A);
    let (conn, third) = world.register("web", "web-1", A);
    for id in [&first, &second, &third] {
        assert_eq!(world.ask(conn, &format!("PING|{id}")), "PONG");
    }
    world.do_all(conn, &[&format!("ROUTE_ADD|{first}|a.de|/|{WEB}|0"), "CONFIG_APPLY|"]);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
}

#[test]
fn an_older_session_never_touches_a_newer_ones_routes() {
    let mut world = World::new();
    let (older, _) = world.live("web", "web-1", A, "a.de", WEB);
    let (_newer, _) = world.live("web", "web-1", B, "a.de", "http://10.2.2.8:80");
    assert_eq!(world.ask(older, "CLIENT_SHUTDOWN|"), "SHUTDOWN_OK");
    assert_eq!(world.pool("a.de"), ["10.2.2.8:80"]);

    let (lost, _) = world.live("web", "web-2", A, "a.de", WEB);
    world.hang_up(lost);
    let (_same_backend, _) = world.live("web", "web-2", A, "a.de", WEB);
    world.after(seconds(300));
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80", "10.2.2.7:80"]);
}

#[test]
fn client_shutdown_takes_the_members_out_before_its_reply_and_ends_the_bound_connection() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", A, "a.de", WEB);
    let script = world.connect(B);
    assert_eq!(world.ask(script, &format!("CLIENT_SHUTDOWN|{id}")), "SHUTDOWN_OK");
    assert_eq!(world.pool("a.de"), [""; 0]);
    assert!(world.closed.contains(&conn) && !world.closed.contains(&script));
    assert_eq!(world.ask(script, &format!("RECONNECT|{id}")), "REREGISTER");
}

#[test]
fn the_server_says_shutdown_to_every_connection_and_then_eof() {
    let mut world = World::new();
    let (bound, _) = world.live("web", "web-1", A, "a.de", WEB);
    let unbound = world.connect(A);
    world.input(Input::Stop);
    for conn in [bound, unbound] {
        assert_eq!(world.read(conn), ["SHUTDOWN"]);
        assert!(world.closed.contains(&conn));
    }
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"], "traffic goes on as long as the proxy does");
}

#[test]
fn a_connection_that_never_sends_a_valid_command_is_closed_after_a_minute() {
    let mut world = World::new();
    let (silent, talking) = (world.connect(A), world.connect(A));
    assert_eq!(world.ask(talking, "PING|x"), "ERROR|session not found");
    assert_eq!(world.ask(silent, "HELO"), "ERROR|unknown command: HELO");
    world.after(seconds(59));
    assert!(world.closed.is_empty());
    world.after(seconds(1));
    assert_eq!(world.read(silent), ["ERROR|no valid command in time"]);
    assert!(world.closed.contains(&silent) && !world.closed.contains(&talking));
}

#[test]
fn a_session_that_comes_back_from_another_address_is_registered_there() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", A, "a.de", WEB);
    world.hang_up(conn);
    let moved = world.connect(B);
    world.say(moved, &format!("RECONNECT|{id}"));
    world.passes(WEB);
    assert_eq!(world.read(moved), ["OK"]);
    let (_, _) = world.register("web", "web-1", A);
    assert_eq!(world.ask(moved, "PING|"), "PONG", "a namesake at its old address is a sibling");
    let (_, _) = world.register("web", "web-1", B);
    assert_eq!(world.ask(moved, "PING|"), "ERROR|session replaced");
}

#[test]
fn whoever_registers_without_the_token_is_refused_and_nothing_is_kept() {
    let mut world = World::with(|config| config.token = Some(crate::server::registry::Token::new("hush")));
    for metadata in ["", "{}", r#"{"token":"hus"}"#, r#"{"token":["hush"]}"#] {
        let conn = world.connect("127.0.0.1");
        let line = format!("REGISTER|web|web-1|0|{metadata}");
        assert_eq!(world.ask(conn, &line), "ERROR|wrong registry token");
        assert!(world.closed.contains(&conn));
    }
    assert!(world.registry.0.sessions().is_empty());
    assert!(!format!("{:?}", world.log).contains("hus"));
    let conn = world.connect(A);
    assert!(world.ask(conn, r#"REGISTER|web|web-1|0|{"token":"hush"}"#).starts_with("ACK|"));
    assert!(!world.ask(conn, "SESSION_INFO|").contains("hush"));
}

#[test]
fn whoever_guesses_waits_ever_longer_and_is_logged_seldom() {
    let mut world = World::with(|config| config.token = Some(crate::server::registry::Token::new("hush")));
    let ask = |world: &mut World, from: &str, token: &str| {
        let conn = world.connect(from);
        let reply = world.ask(conn, &format!(r#"REGISTER|web|web-1|0|{{"token":"{token}"}}"#));
        (reply, world.closed.contains(&conn))
    };
    let (wrong, wait) = ("ERROR|wrong registry token", "ERROR|too many wrong tokens from this address");
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(ask(&mut world, A, "guess"), (wrong.to_owned(), true));
        for _ in 0..100 {
            assert_eq!(ask(&mut world, A, "hush"), (wait.to_owned(), true), "not even the right one counts");
        }
        assert!(ask(&mut world, "10.2.2.8", "hush").0.starts_with("ACK|"), "others do not wait");
        world.after(seconds(pause) - Duration::from_millis(1));
        assert_eq!(ask(&mut world, A, "guess").0, wait);
        world.after(Duration::from_millis(1));
    }
    let unseen: Vec<u64> = world
        .log
        .iter()
        .filter_map(|event| match event {
            LogEvent::WrongToken { unseen, .. } => Some(*unseen),
            _ => None,
        })
        .collect();
    assert_eq!(unseen, [0, 101, 101, 101, 101, 101, 101, 101]);
    assert!(ask(&mut world, A, "hush").0.starts_with("ACK|"), "the pause is over");
    world.after(seconds(60));
    ask(&mut world, A, "guess");
    world.after(seconds(1));
    assert_eq!(
        ask(&mut world, A, "guess").0,
        wrong,
        "after a minute of peace it begins with the first pause"
    );
}

#[test]
fn a_reconnect_that_comes_too_late_takes_the_session_away_for_a_moment_only() {
    let mut world = World::new();
    let (given_up, id) = world.live("web", "web-1", "10.2.2.7", "a.de", "http://10.2.2.7:80");
    let (late, current) = (world.connect("10.2.2.7"), world.connect("10.2.2.7"));
    world.hang_up(given_up);
    assert_eq!(world.ask(current, &format!("RECONNECT|{id}")), "OK");
    // What the client sent on a connection before, and gave up.
    assert_eq!(world.ask(late, &format!("RECONNECT|{id}")), "OK");
    world.hang_up(late);
    world.fails("http://10.2.2.7:80");
    assert_eq!(world.serving("a.de"), [""; 0], "in grace, one failure is enough");
    assert_eq!(world.ask(current, &format!("PING|{id}")), "PONG");
    world.passes("http://10.2.2.7:80");
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"], "its session is back");
}

#[test]
fn a_command_from_elsewhere_still_binds_nothing() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", "10.2.2.7", "a.de", "http://10.2.2.7:80");
    let elsewhere = world.connect("10.2.2.7");
    world.hang_up(conn);
    world.fails("http://10.2.2.7:80");
    assert_eq!(world.ask(elsewhere, &format!("PING|{id}")), "PONG");
    world.passes("http://10.2.2.7:80");
    assert_eq!(world.serving("a.de"), [""; 0]);
}
