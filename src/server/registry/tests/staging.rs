//! PROTOCOL section 4: staging; and the store, which is asked before anything changes.

use super::*;

const A: &str = "10.2.2.7";
const WEB: &str = "http://10.2.2.7:80";

#[test]
fn nothing_that_is_staged_does_anything_before_the_apply() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(
        conn,
        &[
            "ROUTE_ADD||a.de|/|http://10.2.2.7:80|0",
            "HEALTH_SET||r1|/health|30s|5s",
            "OPTIONS_SET||ALL|compression|true",
            "CONFIG_VALIDATE|",
        ],
    );
    assert_eq!(world.pool("a.de"), [""; 0]);
    assert!(world.watched.is_empty());
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), "OK");
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
}

#[test]
fn a_refused_apply_changes_nothing_and_keeps_the_stage() {
    let mut world = World::new();
    let (owner, _) = world.live("shop", "shop-1", "10.2.2.9", "taken.de", "http://10.2.2.9:80");
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(
        conn,
        &["ROUTE_ADD||a.de|/|http://10.2.2.7:80|0", "ROUTE_ADD||b.de,taken.de|/|http://10.2.2.7:80|0"],
    );
    let refusal = "ERROR|route r2: taken.de/ belongs to service shop";
    assert_eq!(world.ask(conn, "CONFIG_VALIDATE|"), refusal);
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), refusal);
    assert_eq!(world.pool("a.de"), [""; 0]);
    assert_eq!(world.pool("taken.de"), ["10.2.2.9:80"]);
    assert!(world.log.iter().any(|event| matches!(event, LogEvent::Conflict { .. })));

    assert_eq!(world.ask(owner, "CLIENT_SHUTDOWN|"), "SHUTDOWN_OK");
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), "OK");
    assert_eq!(world.serving("taken.de"), ["10.2.2.7:80"]);
}

#[test]
fn an_apply_is_one_swap_of_the_table() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    for number in 0..10 {
        world.do_all(conn, &[&format!("ROUTE_ADD||d{number}.de|/|{WEB}|0")]);
    }
    world.registry.handle(world.now, Input::Line(conn, Command::parse("CONFIG_APPLY|")));
    let tx = world.registry.effects().find_map(|effect| match effect {
        Effect::Commit(tx, _) => Some(tx),
        _ => None,
    });
    world.registry.handle(world.now, Input::Committed(tx.unwrap()));
    let effects: Vec<Effect> = world.registry.effects().collect();
    let published = effects.iter().position(|effect| matches!(effect, Effect::Publish(_))).unwrap();
    let answered = effects.iter().position(|effect| matches!(effect, Effect::Send(..))).unwrap();
    assert!(published < answered, "who is told OK can rely on it");
    assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Publish(_))).count(), 1);
}

#[test]
fn staged_changes_expire_half_an_hour_after_the_last_one() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(conn, &["ROUTE_ADD||a.de|/|http://10.2.2.7:80|0"]);
    world.after(seconds(1799));
    world.do_all(conn, &["ROUTE_ADD||b.de|/|http://10.2.2.7:80|0"]);
    world.after(seconds(1799));
    assert!(world.ask(conn, "ROUTE_LIST|").contains("a.de"));
    world.after(seconds(1));
    assert_eq!(world.ask(conn, "ROUTE_LIST|"), "ROUTE_LIST_OK|[]");
    assert_eq!(
        world.ask(conn, "ROUTE_ADD||c.de|/|http://10.2.2.7:80|0"),
        "ROUTE_OK|r3",
        "ids are not reused"
    );
}

#[test]
fn a_stage_does_not_expire_while_the_store_decides_on_it() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(conn, &["ROUTE_ADD||a.de|/|http://10.2.2.7:80|0"]);
    world.after(seconds(1799));
    world.store_answers = false;
    world.say(conn, "CONFIG_APPLY|");
    world.after(seconds(4));
    world.decides(0, false);
    assert_eq!(world.read(conn), ["ERROR|store unavailable"]);
    world.say(conn, "CONFIG_APPLY|");
    world.decides(0, true);
    assert_eq!(world.read(conn), ["OK"], "none of it was in force, and the stage was as before");
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    world.do_all(conn, &["ROUTE_ADD||b.de|/|http://10.2.2.7:80|0"]);
    world.say(conn, "CONFIG_APPLY|");
    world.decides(0, false);
    world.read(conn);
    world.after(seconds(1806));
    assert!(!world.ask(conn, "ROUTE_LIST|").contains("b.de"), "later it does");
}

#[test]
fn what_was_applied_persists_across_later_applies() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(
        conn,
        &[
            "ROUTE_ADD||a.de|/|http://10.2.2.7:80|0",
            "OPTIONS_SET||ALL|compression|true",
            "OPTIONS_SET||r1|timeout|5s",
            "HEALTH_SET||r1|/health|10s|1s",
            "CONFIG_APPLY|",
            "ROUTE_ADD||b.de|/|http://10.2.2.7:81|0",
            "CONFIG_APPLY|",
            "ROUTE_UPDATE||r1|priority|7",
            "CONFIG_APPLY|",
        ],
    );
    let settings = settings(&world, "a.de");
    assert!(settings.compression && settings.timeout == seconds(5));
    world.passes(WEB);
    assert_eq!(world.questions(WEB), ["GET a.de/health every 10s within 1s"]);
}

#[test]
fn all_is_the_default_for_later_routes_and_a_routes_own_setting_overrides_it() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(
        conn,
        &[
            "ROUTE_ADD||a.de|/|http://10.2.2.7:80|0",
            "OPTIONS_SET||r1|timeout|5s",
            "OPTIONS_SET||ALL|timeout|10s",
            "CONFIG_APPLY|",
            "ROUTE_ADD||b.de|/|http://10.2.2.7:80|0",
            "CONFIG_APPLY|",
        ],
    );
    assert_eq!(settings(&world, "a.de").timeout, seconds(5));
    assert_eq!(settings(&world, "b.de").timeout, seconds(10));
    world.do_all(conn, &["OPTIONS_REMOVE||r1|timeout", "OPTIONS_SET||ALL|timeout|20s", "CONFIG_APPLY|"]);
    assert_eq!(settings(&world, "a.de").timeout, seconds(20));
    assert_eq!(settings(&world, "b.de").timeout, seconds(20));
    world.do_all(conn, &["OPTIONS_REMOVE||ALL|timeout", "CONFIG_APPLY|"]);
    assert_eq!(settings(&world, "b.de").timeout, seconds(60));
}

#[test]
fn the_check_of_health_set_and_of_the_options_is_one_cell() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(
        conn,
        &[
            "ROUTE_ADD||*.a.de,a.de|/|http://10.2.2.7:80|0",
            "OPTIONS_SET||r1|health_check_interval|9s",
            "HEALTH_SET||r1|/up|10s|2s",
            "OPTIONS_SET||r1|health_check_timeout|3s",
            "CONFIG_APPLY|",
        ],
    );
    world.passes(WEB);
    assert_eq!(world.questions(WEB), ["GET a.de/up every 10s within 3s"]);
    world.do_all(conn, &["HEALTH_SET||r1|/up|0s|2s", "CONFIG_APPLY|"]);
    assert_eq!(world.questions(WEB), [""; 0], "an interval of zero removes it");
}

#[test]
fn options_may_be_set_for_paths_and_domains() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(
        conn,
        &[
            "ROUTE_ADD||a.de|/|http://10.2.2.7:80|0",
            "ROUTE_ADD||b.de|/|http://10.2.2.7:80|0",
            "OPTIONS_SET||/|http2|true",
            "OPTIONS_SET||b.de|websocket|false",
            "CONFIG_APPLY|",
        ],
    );
    assert!(settings(&world, "a.de").http2 && settings(&world, "b.de").http2);
    assert!(settings(&world, "a.de").websocket && !settings(&world, "b.de").websocket);
    for (target, unknown) in [("r9", "r9"), ("/x", "/x"), ("r1,c.de", "c.de"), ("SERVICE", "SERVICE")] {
        let reply = world.ask(conn, &format!("OPTIONS_SET||{target}|http2|false"));
        assert_eq!(reply, format!("ERROR|unknown target: {unknown}"));
    }
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), "OK");
    assert!(settings(&world, "a.de").http2, "a refused command changed nothing");
}

#[test]
fn rollback_drops_the_stage_and_nothing_else() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB);
    world.do_all(
        conn,
        &[
            "ROUTE_REMOVE||r1",
            "ROUTE_ADD||b.de|/|http://10.2.2.7:80|0",
            "OPTIONS_SET||ALL|http2|true",
            "CONFIG_ROLLBACK|",
            "CONFIG_APPLY|",
        ],
    );
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    assert_eq!(world.pool("b.de"), [""; 0]);
    assert!(!settings(&world, "a.de").http2);
}

#[test]
fn revision_counts_successful_applies() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB);
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), "OK");
    world.store_answers = false;
    world.say(conn, "CONFIG_APPLY|");
    let (tx, _) = world.commits.remove(0);
    world.input(Input::Rejected(tx));
    assert_eq!(world.read(conn), ["ERROR|store unavailable"]);
    let info = world.ask(conn, "SESSION_INFO|");
    assert!(info.contains(r#""revision":2"#), "{info}");
}

#[test]
fn an_apply_is_in_force_and_answered_when_the_store_holds_it() {
    let mut world = World::new();
    world.store_answers = false;
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(conn, &["ROUTE_ADD||a.de|/|http://10.2.2.7:80|0"]);
    world.say(conn, "CONFIG_APPLY|");
    assert_eq!(world.read(conn), [""; 0]);
    assert_eq!(world.pool("a.de"), [""; 0]);
    let (tx, _) = world.commits.remove(0);
    world.input(Input::Committed(tx));
    assert_eq!(world.read(conn), ["OK"]);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
}

#[test]
fn an_apply_that_the_store_rejects_leaves_stage_and_applied_state_as_they_were() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB);
    world.do_all(conn, &["ROUTE_REMOVE||r1", "ROUTE_ADD||b.de|/|http://10.2.2.7:80|0"]);
    let before = world.ask(conn, "ROUTE_LIST|");
    world.store_answers = false;
    world.say(conn, "CONFIG_APPLY|");
    let (tx, _) = world.commits.remove(0);
    world.input(Input::Rejected(tx));
    assert_eq!(world.read(conn), ["ERROR|store unavailable"]);
    assert_eq!(world.ask(conn, "ROUTE_LIST|"), before);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    world.store_answers = true;
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), "OK");
    assert_eq!((world.pool("a.de"), world.serving("b.de")), (vec![], vec!["10.2.2.7:80".to_owned()]));
}

#[test]
fn a_claim_that_is_on_its_way_to_the_store_is_taken_already() {
    let mut world = World::new();
    world.store_answers = false;
    let (first, _) = world.register("web", "web-1", A);
    let (second, _) = world.register("shop", "shop-1", "10.2.2.8");
    for conn in [first, second] {
        world.do_all(conn, &["ROUTE_ADD||a.de|/|http://10.2.2.7:80|0"]);
        world.say(conn, "CONFIG_APPLY|");
    }
    assert_eq!(world.read(second), ["ERROR|route r1: a.de/ belongs to service web"]);
    let (tx, _) = world.commits.remove(0);
    world.input(Input::Rejected(tx));
    world.say(second, "CONFIG_APPLY|");
    assert_eq!(world.commits.len(), 1, "and free again when the store refuses");
}

#[test]
fn an_owner_that_returns_while_the_store_decides_is_told_to_register_afresh() {
    let mut world = World::new();
    let (owner, id) = world.live("shop", "shop-1", "10.2.2.8", "a.de", "http://10.2.2.8:80");
    world.hang_up(owner);
    world.fails("http://10.2.2.8:80");
    world.store_answers = false;
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(conn, &["ROUTE_ADD||a.de|/|http://10.2.2.7:80|0"]);
    world.say(conn, "CONFIG_APPLY|");
    let back = world.connect("10.2.2.8");
    assert_eq!(world.ask(back, &format!("RECONNECT|{id}")), "OK");
    let (tx, _) = world.commits.remove(0);
    world.input(Input::Committed(tx));
    assert_eq!(world.pool("a.de"), ["10.2.2.7:80"]);
    assert!(world.closed.contains(&back));
    let again = world.connect("10.2.2.8");
    assert_eq!(world.ask(again, &format!("RECONNECT|{id}")), "REREGISTER");
}

#[test]
fn a_session_that_the_store_is_forgetting_does_not_come_back() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", A, "a.de", WEB);
    world.hang_up(conn);
    world.store_answers = false;
    world.after(seconds(300));
    let back = world.connect(A);
    world.say(back, &format!("RECONNECT|{id}"));
    assert_eq!(world.read(back), [""; 0]);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"], "nothing changes before the store agrees");
    let (tx, _) = world.commits.remove(0);
    world.input(Input::Committed(tx));
    assert_eq!(world.read(back), ["REREGISTER"]);
    assert_eq!(world.pool("a.de"), [""; 0]);
}

#[test]
fn a_session_that_the_store_cannot_forget_is_asked_about_again() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB);
    world.store_answers = false;
    world.say(conn, "CLIENT_SHUTDOWN|");
    let (tx, _) = world.commits.remove(0);
    world.input(Input::Rejected(tx));
    assert_eq!(world.read(conn), ["ERROR|store unavailable"]);
    world.hang_up(conn);
    world.after(seconds(300));
    let (tx, _) = world.commits.remove(0);
    world.input(Input::Rejected(tx));
    world.store_answers = true;
    world.after(seconds(5));
    assert_eq!(world.pool("a.de"), [""; 0]);
    world.after(seconds(30));
    assert!(world.registry.is_empty());
}

#[test]
fn a_slow_store_is_answered_for_within_five_seconds_and_its_verdict_still_counts() {
    let mut world = World::new();
    world.store_answers = false;
    let (conn, id) = world.register("web", "web-1", A);
    world.do_all(conn, &["ROUTE_ADD||a.de|/|http://10.2.2.7:80|0"]);
    world.say(conn, "CONFIG_APPLY|");
    let other = world.connect(A);
    assert_eq!(world.ask(other, &format!("PING|{id}")), "PONG", "a slow store costs nobody a PONG");
    world.say(other, &format!("ROUTE_REMOVE|{id}|r1"));
    assert_eq!(world.read(other), [""; 0], "changes for the session wait for it wherever they come from");
    world.after(seconds(5));
    assert_eq!(world.read(conn), ["ERROR|store unavailable"]);
    assert_eq!(world.read(other), ["ERROR|store unavailable"]);
    let (tx, _) = world.commits.remove(0);
    world.input(Input::Committed(tx));
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    assert!(
        world.ask(conn, "SESSION_INFO|").contains(r#""revision":1"#),
        "which is how the client finds out"
    );
}

#[test]
fn a_backend_that_is_not_allowed_is_refused_when_it_is_staged() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB);
    for line in [
        "ROUTE_ADD||b.de|/|http://127.0.0.1:8080|0",
        r#"ROUTE_ADD_BULK||[{"domains":["b.de"],"path":"/","backend_url":"http://127.0.0.1:8080"}]"#,
        "ROUTE_UPDATE||r1|backend_url|http://127.0.0.1:8080",
        "BACKEND_TEST||http://127.0.0.1:8080",
    ] {
        assert_eq!(world.ask(conn, line), "ERROR|not allowed: http://127.0.0.1:8080/", "{line}");
    }
    assert!(world.ask(conn, "CONFIG_DIFF|").contains(r#""added":[],"removed":[],"modified":[]"#));
}

#[test]
fn an_apply_costs_what_changed() {
    let mut world = World::with(|config| config.limits.routes = 30_000);
    let (conn, _) = world.register("web", "web-1", A);
    for number in 0..20_000 {
        world.say(conn, &format!("ROUTE_ADD||d{number}.de|/|{WEB}|0"));
    }
    assert_eq!(world.read(conn).len(), 20_000);
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), "OK");
    let (other, _) = world.register("shop", "shop-1", "10.2.2.8");
    world.do_all(other, &["ROUTE_ADD||shop.de|/|http://10.2.2.8:80|0"]);
    world.registry.handle(world.now, Input::Line(other, Command::parse("CONFIG_APPLY|")));
    let tx = world.registry.effects().find_map(|effect| match effect {
        Effect::Commit(tx, _) => Some(tx),
        _ => None,
    });
    world.registry.handle(world.now, Input::Committed(tx.unwrap()));
    assert!(world.registry.effects().count() < 6, "one probe, one table, one line of log, one reply");
}

fn settings(world: &World, domain: &str) -> crate::server::routing::Settings {
    let claim = world.table.get(&domain.parse().unwrap(), &"/".parse().unwrap());
    claim.expect("a claim").members[0].terms.settings
}
