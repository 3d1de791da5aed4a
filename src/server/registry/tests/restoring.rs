//! SEMANTICS sections 4 and 7: what is there again after a restart.

use super::*;
use crate::server::registry::persist::{RouteRecord, SavedState};

const A: &str = "10.2.2.7";
const B: &str = "10.2.2.8";
const WEB: &str = "http://10.2.2.7:80";

impl World {
    /// SIGKILL, and a start `after` that, on the boot of this name.
    fn restarted(self, after: Duration, boot: &str) -> World {
        self.restarted_with(after, boot, |_| {})
    }

    /// The same with another configuration.
    pub(super) fn restarted_with(
        self,
        after: Duration,
        boot: &str,
        change: impl FnOnce(&mut RegistryConfig),
    ) -> World {
        let saved = SavedState {
            boot_id: "this boot".to_owned(),
            alive_at: Some(self.now.wall),
            cluster_id: String::new(),
            sessions: self.paper.sessions.clone(),
        };
        // Through the text in which it is kept.
        let json = serde_json::to_string(&saved).unwrap();
        let read: SavedState = serde_json::from_str(&json).unwrap();
        assert_eq!(read, saved, "{json}");
        let mut world = World::with(|config| {
            config.boot_id = boot.to_owned();
            change(config);
        });
        world.now = Now { mono: self.now.mono + after, wall: self.now.wall + after };
        // Connections of the former server are not mistaken for those of this one.
        world.connections = self.connections;
        world.registry.restore(world.now, read);
        assert!(world.perform().is_empty(), "nothing is asked of the store");
        world.paper = self.paper;
        world
    }

    pub(super) fn restart(self) -> World {
        self.restarted(seconds(1), "this boot")
    }
}

#[test]
fn what_was_applied_serves_at_once_and_is_resumed_by_the_id() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", A, "a.de", WEB);
    let settings = [
        "OPTIONS_SET||ALL|timeout|5s",
        "HEALTH_SET||r1|/up|10s|2s",
        "HEADERS_SET||ALL|X-Frame-Options|DENY",
        "RATELIMIT_SET||r1|100|1m",
        "CIRCUIT_BREAKER_SET||ALL|5|30s|3",
        "CONFIG_APPLY|",
    ];
    world.do_all(conn, &settings);
    let (before, table) = (world.ask(conn, "ROUTE_LIST|"), world.shown());
    let mut world = world.restart();

    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    assert_eq!(world.shown(), table, "settings and all");
    assert_eq!(world.questions(WEB), ["GET a.de/up every 1s within 2s"], "as of a session that is lost");
    let conn = world.connect(A);
    assert_eq!(world.ask(conn, &format!("RECONNECT|{id}")), "OK");
    assert_eq!(world.ask(conn, "ROUTE_LIST|"), before);
    let info = world.ask(conn, "SESSION_INFO|");
    for part in [r#""revision":2"#, &id, r#""connected_at":"2023-11-14T22:13:20Z""#, r#""uptime_seconds":1,"#]
    {
        assert!(info.contains(part), "{part} is missing: {info}");
    }
    world.after(seconds(600));
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
}

#[test]
fn a_route_id_that_was_only_staged_is_not_given_again() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", A, "a.de", WEB);
    let staged = world.ask(conn, &format!("ROUTE_ADD||b.de|/|{WEB}|0"));
    let mut world = world.restart();
    let conn = world.connect(A);
    world.do_all(conn, &[&format!("RECONNECT|{id}")]);
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), "OK", "the stage is gone");
    assert_eq!(world.pool("b.de"), [""; 0]);
    let added = world.ask(conn, &format!("ROUTE_ADD||b.de|/|{WEB}|0"));
    assert!(added.starts_with("ROUTE_OK|r") && added != staged, "{added}");
}

#[test]
fn no_restart_gives_a_route_id_again_however_many_were_given_out_without_an_apply() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", A, "a.de", WEB);
    // As many as a line of thought would not expect: staged, thrown away, staged again.
    let (mut conn, mut given) = (conn, HashSet::from(["r1".to_owned()]));
    let bulk = |count: usize| {
        let route = format!(r#"{{"domains":["b.de"],"path":"/","backend_url":"{WEB}"}}"#);
        format!("ROUTE_ADD_BULK||[{}]", vec![route; count].join(","))
    };
    for (restart, count) in [(1, 9_000), (2, 1), (3, 9_999), (4, 3)] {
        for lines in [[&bulk(count), "CONFIG_ROLLBACK|"], [&bulk(2_000), "CONFIG_ROLLBACK|"]] {
            let added = world.ask(conn, lines[0]);
            let ids: Vec<serde_json::Value> =
                serde_json::from_str(added.strip_prefix("ROUTE_BULK_OK|").expect(&added)).unwrap();
            for route in ids {
                let id = route["route_id"].as_str().unwrap().to_owned();
                assert!(given.insert(id.clone()), "{id} was given out before restart {restart}");
            }
            world.do_all(conn, &lines[1..]);
        }
        world = world.restart();
        conn = world.connect(A);
        world.do_all(conn, &[&format!("RECONNECT|{id}")]);
    }
    let info = world.ask(conn, "SESSION_INFO|");
    assert!(info.contains(r#""revision":1"#), "nothing of this was an apply: {info}");
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
}

#[test]
fn route_ids_that_the_store_does_not_hold_are_not_given_out() {
    let mut world = World::new();
    let (_, id) = world.live("web", "web-1", A, "a.de", WEB);
    let mut world = world.restart();
    let conn = world.connect(A);
    world.do_all(conn, &[&format!("RECONNECT|{id}")]);
    world.store_answers = false;
    let add = format!("ROUTE_ADD||b.de|/|{WEB}|0");
    for line in [&add, "PING|", &add, "ROUTE_LIST|"] {
        world.say(conn, line);
    }
    let other = world.connect(A);
    world.say(other, &format!("CONFIG_VALIDATE|{id}"));
    assert_eq!((world.read(conn), world.read(other)), (vec![], vec![]), "they wait for the store");
    world.decides(0, false);
    assert_eq!(world.read(conn), ["ERROR|store unavailable", "PONG"], "and the next one asks again");
    assert_eq!(world.read(other), [""; 0]);
    world.decides(0, true);
    let replies = world.read(conn);
    assert!(replies[0] == "ROUTE_OK|r10002" && replies[1].contains("staged"), "{replies:?}");
    assert_eq!(world.read(other), ["OK"]);
    assert!(world.commits.is_empty());
}

#[test]
fn a_session_that_never_applied_is_not_there() {
    let mut world = World::new();
    let (_, id) = world.register("web", "web-1", A);
    let mut world = world.restart();
    let conn = world.connect(A);
    assert_eq!(world.ask(conn, &format!("RECONNECT|{id}")), "REREGISTER");
    world.hang_up(conn);
    assert!(world.registry.is_empty());
}

#[test]
fn a_session_that_is_over_stays_over() {
    let mut world = World::new();
    let (left, left_id) = world.live("web", "web-1", A, "a.de", WEB);
    world.do_all(left, &["CLIENT_SHUTDOWN|"]);
    let (lost, _) = world.live("web", "web-2", B, "b.de", "http://10.2.2.8:80");
    world.hang_up(lost);
    world.after(seconds(300));
    let mut world = world.restart();
    assert_eq!(world.table.claims().count(), 0);
    let conn = world.connect(A);
    assert_eq!(world.ask(conn, &format!("RECONNECT|{left_id}")), "REREGISTER");
}

#[test]
fn the_grace_starts_anew() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB);
    world.hang_up(conn);
    world.after(seconds(299));
    let mut world = world.restart();
    world.after(seconds(299));
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    world.after(seconds(1));
    assert_eq!(world.pool("a.de"), [""; 0]);
    assert!(world.paper.sessions.is_empty());
    // The claim is held for a successor a while longer.
    world.after(seconds(30));
    assert!(world.registry.is_empty());
}

#[test]
fn on_another_boot_or_after_a_grace_members_wait_for_their_session() {
    for (after, boot) in [(seconds(1), "another"), (seconds(1), ""), (seconds(300), "this boot")] {
        let mut world = World::new();
        let (_, id) = world.live("web", "web-1", A, "a.de", WEB);
        let mut world = world.restarted(after, boot);
        assert_eq!((world.pool("a.de").len(), world.serving("a.de")), (1, vec![]), "{boot} {after:?}");
        assert!(world.watched.is_empty(), "whoever answers there now may be somebody else");
        let conn = world.connect(A);
        assert_eq!(world.ask(conn, &format!("RECONNECT|{id}")), "OK");
        world.passes(WEB);
        assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    }
}

#[test]
fn a_clock_that_was_set_back_a_little_costs_nothing() {
    let mut world = World::new();
    world.live("web", "web-1", A, "a.de", WEB);
    world.now.wall += seconds(10);
    let mut later = world.restart();
    assert_eq!(later.serving("a.de"), ["10.2.2.7:80"]);
    later.now.wall -= seconds(20);
    let world = later.restart();
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
}

#[test]
fn a_dead_backend_is_found_at_once_and_waits_for_its_session() {
    let mut world = World::new();
    let (_, id) = world.live("web", "web-1", A, "a.de", WEB);
    let mut world = world.restart();
    world.fails(WEB);
    assert_eq!(world.serving("a.de"), [""; 0]);
    world.passes(WEB);
    assert_eq!(world.serving("a.de"), [""; 0], "another may have its address by now");
    let conn = world.connect(A);
    world.do_all(conn, &[&format!("RECONNECT|{id}")]);
    world.passes(WEB);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
}

#[test]
fn whom_a_session_replaced_is_still_told_so() {
    let mut world = World::new();
    let (_, first) = world.live("web", "web-1", A, "a.de", WEB);
    let (_, second) = world.live("web", "web-1", A, "a.de", WEB);
    let (new, third) = world.register("web", "web-1", A);
    assert_eq!(world.apply(new, "a.de", "http://10.2.2.7:81"), "OK");
    let mut world = world.restart();
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80", "10.2.2.7:81"], "make before break goes on");
    let conn = world.connect(A);
    for replaced in [&first, &second] {
        assert_eq!(world.ask(conn, &format!("RECONNECT|{replaced}")), "ERROR|session replaced");
    }
    assert_eq!(world.ask(conn, &format!("RECONNECT|{third}")), "OK");
    world.passes("http://10.2.2.7:81");
    assert_eq!(world.pool("a.de"), ["10.2.2.7:81"]);
    assert_eq!(world.ask(conn, &format!("PING|{first}")), "PONG", "its replacement is bound here");
}

#[test]
fn a_claim_that_was_taken_over_stays_with_who_took_it() {
    let mut world = World::new();
    let (lost, id) = world.live("web", "web-1", A, "a.de", WEB);
    world.hang_up(lost);
    world.fails(WEB);
    world.live("shop", "shop-1", B, "a.de", "http://10.2.2.8:80");
    let mut world = world.restart();
    assert_eq!(world.pool("a.de"), ["10.2.2.8:80"]);
    let conn = world.connect(A);
    assert_eq!(world.ask(conn, &format!("RECONNECT|{id}")), "REREGISTER");
}

#[test]
fn an_address_still_belongs_to_who_came_there_last() {
    let mut world = World::new();
    let (lost, _) = world.live("web", "web-1", A, "a.de", WEB);
    world.hang_up(lost);
    world.live("shop", "shop-1", A, "b.de", "http://10.2.2.7:90");
    assert_eq!(world.serving("a.de"), [""; 0]);
    let world = world.restart();
    assert_eq!(world.serving("a.de"), [""; 0]);
    assert_eq!(world.serving("b.de"), ["10.2.2.7:90"]);
}

#[test]
fn an_address_that_two_sessions_share_is_nobodys() {
    let mut world = World::new();
    world.live("web", "web-1", A, "a.de", WEB);
    world.live("shop", "shop-1", A, "b.de", "http://10.2.2.7:90");
    let world = world.restart();
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    assert_eq!(world.serving("b.de"), ["10.2.2.7:90"]);
}

#[test]
fn the_priority_of_a_claim_is_that_of_who_applied_it_last() {
    let mut world = World::new();
    let (one, _) = world.register("web", "web-1", A);
    let (two, _) = world.register("web", "web-2", B);
    world.do_all(one, &["ROUTE_ADD||a.de|/|http://10.2.2.7:80|1", "CONFIG_APPLY|"]);
    world.do_all(two, &["ROUTE_ADD||a.de|/|http://10.2.2.8:80|2", "CONFIG_APPLY|"]);
    world.do_all(one, &["ROUTE_ADD||b.de|/|http://10.2.2.7:80|1", "CONFIG_APPLY|"]);
    let before = world.shown();
    assert_eq!(world.restart().shown(), before);
}

#[test]
fn no_secret_is_in_a_record() {
    let mut world = World::new();
    let conn = world.connect(A);
    let line = r#"REGISTER|web|web-1|8080|{"token":"t0p","service_token":"s3c","version":"1"}"#;
    let reply = world.ask(conn, line);
    let id = reply.strip_prefix("ACK|").unwrap().to_owned();
    assert_eq!(world.apply(conn, "a.de", WEB), "OK");
    let json = serde_json::to_string(&world.paper.sessions).unwrap();
    for secret in ["t0p", "s3c", id.as_str(), id.rsplit('-').next().unwrap()] {
        assert!(!json.contains(secret), "{secret} is in {json}");
    }
    let mut world = world.restart();
    let conn = world.connect(A);
    world.do_all(conn, &[&format!("RECONNECT|{id}")]);
    assert!(world.ask(conn, "SESSION_INFO|").contains(r#""metadata":{"version":"1"}"#));
}

#[test]
fn a_record_of_an_older_version_is_read_and_a_part_that_is_not_known_is_refused() {
    let json = r#"{"domains":["a.de"],"path":"/","backend":"http://10.2.2.7/","priority":0,"applied":1}"#;
    let record: RouteRecord = serde_json::from_str(json).unwrap();
    assert_eq!(serde_json::to_string(&record).unwrap(), json, "what is not set is not written");
    let newer = json.replace("\"applied\"", "\"colour\":\"blue\",\"applied\"");
    let error = serde_json::from_str::<RouteRecord>(&newer).unwrap_err();
    assert!(error.to_string().starts_with("unknown field `colour`"), "{error}");
}

/// A client whose connection broke before it read the reply to an apply asks on another one.
#[test]
fn what_shows_or_changes_a_session_waits_for_an_apply_that_is_on_its_way_to_the_store() {
    for line in ["SESSION_INFO|", "ROUTE_LIST|", "CONFIG_ROLLBACK|", "CONFIG_DIFF|", "CONFIG_VALIDATE|"] {
        let mut world = World::new();
        let (conn, id) = world.register("web", "web-1", A);
        world.do_all(conn, &[&format!("ROUTE_ADD||a.de|/|{WEB}|0")]);
        world.store_answers = false;
        world.say(conn, "CONFIG_APPLY|");
        world.hang_up(conn);
        let again = world.connect(A);
        assert_eq!(world.ask(again, &format!("RECONNECT|{id}")), "OK", "binding changes nothing");
        assert_eq!(world.ask(again, "PING|"), "PONG");
        world.say(again, line);
        world.say(again, "SESSION_INFO|");
        assert_eq!(world.read(again), [""; 0], "{line} waits");
        world.decides(0, true);
        let replies = world.read(again);
        assert_eq!(replies.len(), 2, "{replies:?}");
        assert!(replies[1].contains(r#""revision":1"#), "{replies:?}");
    }
}

#[test]
fn a_store_that_fails_leaves_the_stage_and_what_is_applied() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB);
    world.do_all(conn, &[&format!("ROUTE_ADD||b.de|/|{WEB}|0")]);
    world.store_answers = false;
    world.say(conn, "CONFIG_APPLY|");
    world.decides(0, false);
    assert_eq!(world.read(conn), ["ERROR|store unavailable"]);
    assert_eq!((world.pool("a.de").len(), world.pool("b.de").len()), (1, 0));
    assert!(world.ask(conn, "SESSION_INFO|").contains(r#""revision":1"#));
    world.store_answers = true;
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), "OK");
    assert_eq!(world.serving("b.de"), ["10.2.2.7:80"]);
}

/// Wherever it is killed: what it served is there again.
#[test]
fn random_walks_lose_nothing_by_a_restart() {
    let base = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in base.map_or(0..100, |seed: u64| seed..seed + 1) {
        println!("SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::with(|config| config.boot_id = "this boot".to_owned());
        let mut ids = vec!["nobody".to_owned()];
        for _ in 0..6 {
            super::bounds::steps(&mut world, &mut random, 60, &mut Vec::new(), &mut ids);
            let before = world.shown();
            world = world.restart();
            world.check();
            let after = world.shown();
            for line in &before {
                assert!(after.contains(line), "{line} is missing in {after:#?}");
            }
        }
    }
}

#[test]
fn an_instance_that_registers_from_where_its_backend_moved_is_no_stranger_there() {
    let mut world = World::new();
    // It announced its next address over a connection from the former one, and was then started again there.
    let (lost, _) = world.live("web", "web-1", A, "a.de", "http://10.2.2.8:80");
    world.passes("http://10.2.2.8:80");
    world.hang_up(lost);
    world.register("web", "web-1", B);
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80"]);
    world.register("shop", "shop-1", B);
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80"], "two sessions are connected from there at once");
}
