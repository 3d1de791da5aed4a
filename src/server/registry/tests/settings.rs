//! PROTOCOL sections 3 and 4: headers, limits and breakers, from the stage to the members.

use super::*;
use crate::server::routing::{Admission, Member};

const A: &str = "10.2.2.7";

fn member(world: &World, domain: &str) -> Member {
    let claim = world.table.get(&domain.parse().unwrap(), &"/".parse().unwrap()).unwrap();
    claim.members[0].clone()
}

fn headers(world: &World, domain: &str) -> Vec<String> {
    let mut map = http::HeaderMap::new();
    if let Some(headers) = member(world, domain).terms.extras.headers() {
        headers.put_into(&mut map);
    }
    map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
}

/// A session with the routes r1 (`a.de`) and r2 (`b.de`, `/`), applied.
fn world() -> (World, ConnId) {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(
        conn,
        &[
            "ROUTE_ADD||a.de|/|http://10.2.2.7:80|0",
            "ROUTE_ADD||b.de|/|http://10.2.2.7:81|0",
            "CONFIG_APPLY|",
        ],
    );
    (world, conn)
}

/// What CONFIG_DIFF says of one kind.
fn diff(world: &mut World, conn: ConnId, kind: &str) -> serde_json::Value {
    let reply = world.ask(conn, "CONFIG_DIFF|");
    let diff: serde_json::Value = serde_json::from_str(reply.strip_prefix("DIFF_OK|").unwrap()).unwrap();
    diff[kind].clone()
}

#[test]
fn headers_are_staged_for_targets_and_persist_across_later_applies() {
    let (mut world, conn) = world();
    world
        .do_all(conn, &["HEADERS_SET||ALL|X-All|1", "HEADERS_SET||a.de,r2|X-Some|2", "HEADERS_SET||/|X-P|3"]);
    assert_eq!(headers(&world, "a.de"), [""; 0]);
    assert_eq!(diff(&mut world, conn, "headers"), serde_json::json!({"added": 5, "removed": 0}));
    world.do_all(
        conn,
        &[
            "CONFIG_APPLY|",
            "ROUTE_ADD||c.de|/|http://10.2.2.7:82|0",
            "HEADERS_SET||r1|X-ALL|own",
            "CONFIG_APPLY|",
        ],
    );
    assert_eq!(headers(&world, "a.de"), ["x-all: own", "x-p: 3", "x-some: 2"]);
    assert_eq!(headers(&world, "b.de"), ["x-all: 1", "x-p: 3", "x-some: 2"]);
    assert_eq!(headers(&world, "c.de"), ["x-all: 1"], "a default is one for later routes too");
    world.do_all(conn, &["HEADERS_REMOVE||r1|x-all", "HEADERS_REMOVE||r1|X-Never"]);
    assert_eq!(diff(&mut world, conn, "headers"), serde_json::json!({"added": 0, "removed": 1}));
    world.do_all(conn, &["CONFIG_APPLY|"]);
    assert_eq!(headers(&world, "a.de"), ["x-all: 1", "x-p: 3", "x-some: 2"]);
    assert_eq!(world.ask(conn, "HEADERS_SET||r9|X|1"), "ERROR|unknown target: r9");
}

#[test]
fn headers_that_frame_a_message_or_belong_to_a_connection_are_refused() {
    let (mut world, conn) = world();
    for name in ["Content-Length", "transfer-encoding", "CONNECTION", "Upgrade", "Trailer"] {
        let refusal = format!("ERROR|header not allowed: {}", name.to_lowercase());
        assert_eq!(world.ask(conn, &format!("HEADERS_SET||ALL|{name}|0")), refusal);
    }
    assert_eq!(diff(&mut world, conn, "headers"), serde_json::json!({"added": 0, "removed": 0}));
}

#[test]
fn the_headers_of_a_route_are_bounded_in_number_and_bytes_whatever_is_staged_or_applied() {
    let mut world = World::with(|config| {
        config.limits.headers = 2;
        config.limits.header_bytes = 20;
    });
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(conn, &["HEADERS_SET||ALL|a|1", "CONFIG_APPLY|", "HEADERS_SET||ALL|b|1"]);
    assert_eq!(world.ask(conn, "HEADERS_SET||ALL|c|1"), "ERROR|too many headers");
    let long = "x".repeat(18);
    assert_eq!(world.ask(conn, &format!("HEADERS_SET||ALL|a|{long}")), "ERROR|too many headers");
    world.do_all(conn, &["HEADERS_SET||ALL|A|another", "HEADERS_REMOVE||ALL|a", "HEADERS_SET||ALL|c|1"]);
}

fn limit(world: &World, domain: &str) -> Option<u32> {
    let claim = world.table.get(&domain.parse().unwrap(), &"/".parse().unwrap()).unwrap();
    claim.limit.as_ref().map(|limit| limit.figure().requests)
}

#[test]
fn a_limit_is_the_routes_own_or_the_sessions_and_that_of_the_member_applied_last() {
    let (mut world, conn) = world();
    world.do_all(conn, &["RATELIMIT_SET||ALL|10|1m", "RATELIMIT_SET||r2|5|1m"]);
    assert_eq!(diff(&mut world, conn, "ratelimit"), serde_json::json!({"modified": 2}));
    assert_eq!(limit(&world, "a.de"), None);
    world.do_all(conn, &["CONFIG_APPLY|"]);
    assert_eq!((limit(&world, "a.de"), limit(&world, "b.de")), (Some(10), Some(5)));
    let (sibling, _) = world.register("web", "web-2", "10.2.2.8");
    world.do_all(
        sibling,
        &["ROUTE_ADD||a.de|/|http://10.2.2.8:80|0", "RATELIMIT_SET||r1|7|1m", "CONFIG_APPLY|"],
    );
    assert_eq!(limit(&world, "a.de"), Some(7));
    world.do_all(conn, &["RATELIMIT_SET||r2|0|0s", "CONFIG_APPLY|"]);
    assert_eq!((limit(&world, "a.de"), limit(&world, "b.de")), (Some(7), None));
    world.do_all(sibling, &["CLIENT_SHUTDOWN|"]);
    assert_eq!(limit(&world, "a.de"), Some(10));
    world.do_all(conn, &["RATELIMIT_SET||ALL|10|1m", "CONFIG_VALIDATE|"]);
    assert_eq!(diff(&mut world, conn, "ratelimit"), serde_json::json!({"modified": 0}), "it is so already");
    assert_eq!(world.ask(conn, "RATELIMIT_SET||r9|5|1m"), "ERROR|route not found");
    assert_eq!(
        world.ask(conn, "RATELIMIT_SET||ALL|1000001|1m"),
        "ERROR|number of requests 1000001 is too large: at most 1000000"
    );
}

#[test]
fn the_status_of_a_route_tells_whether_its_check_passes() {
    let backend = "http://10.2.2.7:80";
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(conn, &["ROUTE_ADD||a.de|/|http://10.2.2.7:80|0", "HEALTH_SET||r1|/health|30s|5s"]);
    assert_eq!(world.ask(conn, "CIRCUIT_BREAKER_STATUS||r1"), "ERROR|circuit breaker not found");
    world.do_all(conn, &["CONFIG_APPLY|"]);
    let is_healthy = |world: &mut World| {
        let status = world.ask(conn, "CIRCUIT_BREAKER_STATUS||r1");
        assert!(status.starts_with(r#"CIRCUIT_STATUS_OK|{"state":"closed""#), "{status}");
        status.contains(r#""healthy":true"#)
    };
    // It gets requests, as the first of its claim, but nobody knows what the check says.
    assert_eq!((world.serving("a.de").len(), is_healthy(&mut world)), (1, false));
    world.passes(backend);
    assert!(is_healthy(&mut world));
    for _ in 0..3 {
        assert!(is_healthy(&mut world));
        world.fails(backend);
    }
    assert!(!is_healthy(&mut world));
    world.passes(backend);
    assert!(is_healthy(&mut world));
}

#[test]
fn a_breaker_belongs_to_a_route_and_starts_anew_with_another_backend() {
    let (mut world, conn) = world();
    world.do_all(conn, &["CIRCUIT_BREAKER_SET||ALL|1|10s|1"]);
    assert_eq!(diff(&mut world, conn, "circuit"), serde_json::json!({"modified": 1}));
    world.do_all(conn, &["ROUTE_ADD||c.de|/|http://10.2.2.7:82|0"]);
    assert_eq!(world.ask(conn, "CIRCUIT_BREAKER_STATUS||r3"), "ERROR|circuit breaker not found");
    assert_eq!(world.ask(conn, "CIRCUIT_BREAKER_STATUS||r4"), "ERROR|route not found");
    world.do_all(conn, &["CONFIG_APPLY|"]);
    let fail = |world: &World, domain: &str| {
        let member = member(world, domain);
        let rule = member.terms.extras.breaker().unwrap();
        let admission = Admission::ask(&member.route, rule, world.now.mono).unwrap();
        assert!(admission.failed(world.now.mono));
    };
    fail(&world, "a.de");
    let open = r#"CIRCUIT_STATUS_OK|{"state":"open","failures":1,"successes":0,"last_failure":"2023-11-14T22:13:20Z","next_attempt":"2023-11-14T22:13:30Z","healthy":false,"in_maintenance":false,"draining":false}"#;
    assert_eq!(world.ask(conn, "CIRCUIT_BREAKER_STATUS||r1"), open);
    assert!(world.ask(conn, "CIRCUIT_BREAKER_STATUS||r2").contains("closed"));
    world.after(seconds(4));
    world.do_all(conn, &["HEADERS_SET||r1|X-A|1", "CONFIG_APPLY|"]);
    assert_eq!(
        world.ask(conn, "CIRCUIT_BREAKER_STATUS||r1"),
        open,
        "an apply of something else changes nothing"
    );
    world.do_all(conn, &["ROUTE_UPDATE||r1|backend_url|http://10.2.2.7:90", "CONFIG_APPLY|"]);
    assert!(world.ask(conn, "CIRCUIT_BREAKER_STATUS||r1").contains("closed"));
    fail(&world, "a.de");
    world.do_all(conn, &["CIRCUIT_BREAKER_SET||ALL|0|0s|0", "CONFIG_APPLY|"]);
    assert!(world.ask(conn, "CIRCUIT_BREAKER_STATUS||r1").contains("closed"), "an active route without one");
    assert_eq!(world.ask(conn, "CIRCUIT_BREAKER_RESET||r1"), "ERROR|circuit breaker not found");
    let staged = world.ask(conn, "ROUTE_ADD||b.de|/|http://10.2.2.7:90|0").replace("ROUTE_OK|", "");
    let of_staged = format!("CIRCUIT_BREAKER_STATUS||{staged}");
    assert_eq!(world.ask(conn, &of_staged), "ERROR|circuit breaker not found", "one that is only staged");
    world.do_all(conn, &["CONFIG_ROLLBACK|", "CIRCUIT_BREAKER_SET||r1|1|10s|1", "CONFIG_APPLY|"]);
    assert!(
        world.ask(conn, "CIRCUIT_BREAKER_STATUS||r1").contains("closed"),
        "one that is set again begins anew"
    );
}

/// A session with r1 applied, r2 staged, and a setting of every kind staged for each of the two and for all.
fn everything_staged() -> (World, ConnId) {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(
        conn,
        &[
            "ROUTE_ADD||a.de|/|http://10.2.2.7:80|0",
            "CONFIG_APPLY|",
            "ROUTE_ADD||b.de|/|http://10.2.2.7:81|0",
        ],
    );
    for target in ["ALL", "r1", "r2"] {
        world.do_all(
            conn,
            &[
                &format!("HEADERS_SET||{target}|X-{target}|1"),
                &format!("OPTIONS_SET||{target}|timeout|7s"),
                &format!("RATELIMIT_SET||{target}|9|1m"),
                &format!("CIRCUIT_BREAKER_SET||{target}|9|1m|1"),
            ],
        );
    }
    world.do_all(conn, &["HEALTH_SET||r1|/health|30s|5s", "HEALTH_SET||r2|/health|30s|5s"]);
    (world, conn)
}

/// How many changes of each kind wait: routes, headers, options, health, ratelimit, circuit.
fn staged(world: &mut World, conn: ConnId) -> [u64; 6] {
    let reply = world.ask(conn, "CONFIG_DIFF|");
    let diff: serde_json::Value = serde_json::from_str(reply.strip_prefix("DIFF_OK|").unwrap()).unwrap();
    let routes = diff["routes"].as_object().unwrap().values().map(|ids| ids.as_array().unwrap().len() as u64);
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let headers = number(&diff["headers"]["added"]) + number(&diff["headers"]["removed"]);
    let modified = |kind: &str| number(&diff[kind]["modified"]);
    [
        routes.sum(),
        headers,
        modified("options"),
        modified("health"),
        modified("ratelimit"),
        modified("circuit"),
    ]
}

/// What each of the scopes decides, as it is in force: whether r2 serves, and what r1 is set to.
fn in_force(world: &World) -> [(&'static str, String); 6] {
    let web = member(world, "a.de");
    [
        ("routes", format!("{:?}", world.serving("b.de"))),
        ("headers", format!("{:?}", headers(world, "a.de"))),
        ("options", format!("{:?}", web.terms.settings.timeout)),
        ("health", format!("{:?}", world.questions("http://10.2.2.7:80"))),
        ("ratelimit", format!("{:?}", limit(world, "a.de"))),
        ("circuit", format!("{:?}", web.terms.extras.breaker())),
    ]
}

#[test]
fn a_partial_apply_of_a_scope_puts_that_in_force_and_nothing_else() {
    let world = || {
        let (mut world, conn) = everything_staged();
        world.passes("http://10.2.2.7:80");
        (world, conn)
    };
    let (mut whole, conn) = world();
    let before = in_force(&whole);
    whole.do_all(conn, &["CONFIG_APPLY|"]);
    let after = in_force(&whole);
    for (at, (scope, _)) in before.iter().enumerate() {
        assert_ne!(before[at], after[at], "it shows");
        let (mut world, conn) = world();
        world.do_all(conn, &[&format!("CONFIG_APPLY_PARTIAL||{scope}")]);
        for (other, now) in in_force(&world).iter().enumerate() {
            let expected = if other == at { &after[other] } else { &before[other] };
            assert_eq!(now, expected, "with the scope {scope}");
        }
        // What was left is complete: nothing that was staged is lost on the way.
        world.do_all(conn, &["CONFIG_APPLY|"]);
        assert_eq!(in_force(&world), after, "after the scope {scope}");
        assert_eq!(world.shown(), whole.shown(), "after the scope {scope}");
    }
}

#[test]
fn a_scope_without_anything_staged_is_an_apply_that_changes_nothing() {
    let (mut world, conn) = world();
    let before = world.shown();
    for scopes in ["routes", "headers, options", "circuit,circuit"] {
        world.do_all(conn, &[&format!("CONFIG_APPLY_PARTIAL||{scopes}")]);
    }
    assert_eq!(world.shown(), before);
    for unknown in ["", "routes,", "ROUTES", "all"] {
        let refusal = world.ask(conn, &format!("CONFIG_APPLY_PARTIAL||{unknown}"));
        assert!(refusal.starts_with("ERROR|invalid scope"), "{unknown}: {refusal}");
    }
    let info = world.ask(conn, "SESSION_INFO|");
    assert!(info.contains(r#""revision":4"#), "{info}");
}

#[test]
fn config_diff_is_exact() {
    let (mut world, conn) = world();
    let whole = |world: &mut World, conn| world.ask(conn, "CONFIG_DIFF|").replacen("DIFF_OK|", "", 1);
    let diff = |routes: &str, headers: (u8, u8), [options, health, ratelimit, circuit]: [u8; 4]| {
        let (added, removed) = headers;
        format!(
            r#"{{"routes":{routes},"headers":{{"added":{added},"removed":{removed}}},"options":{{"modified":{options}}},"health":{{"modified":{health}}},"ratelimit":{{"modified":{ratelimit}}},"circuit":{{"modified":{circuit}}}}}"#
        )
    };
    let no_routes = r#"{"added":[],"removed":[],"modified":[]}"#;
    let nothing = diff(no_routes, (0, 0), [0; 4]);
    assert_eq!(whole(&mut world, conn), nothing);

    // What is staged and taken back, or is so already, would change nothing.
    world.do_all(
        conn,
        &[
            "ROUTE_ADD||c.de|/|http://10.2.2.7:82|0",
            "OPTIONS_SET||r3|timeout|9s",
            "ROUTE_REMOVE||r3",
            "ROUTE_UPDATE||r1|priority|7",
            "ROUTE_UPDATE||r1|priority|0",
            "ROUTE_UPDATE||r2|backend_url|http://10.2.2.7:81/",
            "HEADERS_SET||r1|X-A|1",
            "HEADERS_REMOVE||r1|x-a",
            "OPTIONS_SET||ALL|timeout|9s",
            "OPTIONS_REMOVE||ALL|timeout",
            "RATELIMIT_SET||ALL|5|1m",
            "CONFIG_APPLY|",
            "RATELIMIT_SET||ALL|6|1m",
            "RATELIMIT_SET||ALL|5|1m",
            "HEADERS_REMOVE||ALL|X-Never",
        ],
    );
    assert_eq!(whole(&mut world, conn), nothing);

    world.do_all(
        conn,
        &[
            "HEADERS_SET||ALL|X-A|1",
            "HEADERS_SET||r1|X-B|1",
            "OPTIONS_SET||r1|hold|5s",
            "CIRCUIT_BREAKER_SET||r1|5|1m|1",
            "CONFIG_APPLY|",
            // A header that changes is added; one that goes is removed.
            "HEADERS_SET||ALL|x-a|2",
            "HEADERS_REMOVE||r1|X-B",
            "HEADERS_SET||r1,r2|X-C|1",
            // Several of one kind count, each in each place; check and time-out are one check.
            "OPTIONS_REMOVE||r1|hold",
            "OPTIONS_SET||ALL|websocket|false",
            "OPTIONS_SET||ALL|preserve_host|false",
            "OPTIONS_SET||r2|http2|true",
            "HEALTH_SET||r1|/up|9s|1s",
            "OPTIONS_SET||r2|health_check_timeout|1s",
            "RATELIMIT_SET||ALL|0|0s",
            "CIRCUIT_BREAKER_SET||r1|0|0s|0",
            "CIRCUIT_BREAKER_SET||ALL|5|1m|1",
            "ROUTE_UPDATE||r2|domains|b.de,*.b.de",
            "ROUTE_ADD||d.de|/|http://10.2.2.7:83|0",
            "OPTIONS_SET||r4|compression|true",
            "ROUTE_ADD||e.de|/|http://10.2.2.7:83|0",
        ],
    );
    let routes = r#"{"added":["r4","r5"],"removed":[],"modified":["r2"]}"#;
    assert_eq!(whole(&mut world, conn), diff(routes, (3, 1), [5, 2, 1, 2]));
    world.do_all(conn, &["CONFIG_APPLY|", "ROUTE_REMOVE||r2", "ROUTE_REMOVE||r4"]);
    let routes = r#"{"added":[],"removed":["r2","r4"],"modified":[]}"#;
    assert_eq!(whole(&mut world, conn), diff(routes, (0, 0), [0; 4]), "settings go with their route");
    world.do_all(conn, &["CONFIG_ROLLBACK|"]);
    assert_eq!(whole(&mut world, conn), nothing);
}

#[test]
fn a_partial_apply_takes_its_scope_and_leaves_the_rest_staged() {
    for (scope, left) in [
        ("headers", [1, 1, 3, 2, 3, 3]),
        ("options", [1, 3, 1, 2, 3, 3]),
        ("health", [1, 3, 3, 1, 3, 3]),
        ("ratelimit", [1, 3, 3, 2, 1, 3]),
        ("circuit", [1, 3, 3, 2, 3, 1]),
        ("routes", [0, 3, 3, 2, 3, 3]),
        ("routes,headers", [0, 0, 3, 2, 3, 3]),
        ("health,headers,circuit", [1, 1, 3, 1, 3, 1]),
        ("routes,headers,options,health,ratelimit,circuit", [0; 6]),
    ] {
        let (mut world, conn) = everything_staged();
        assert_eq!(staged(&mut world, conn), [1, 3, 3, 2, 3, 3]);
        world.do_all(conn, &[&format!("CONFIG_APPLY_PARTIAL||{scope}")]);
        assert_eq!(staged(&mut world, conn), left, "{scope}: what a route needs that is not active stays");
        let sets_headers = scope.contains("headers");
        assert_eq!(headers(&world, "a.de").len(), if sets_headers { 2 } else { 0 }, "{scope}");
        assert_eq!(!world.pool("b.de").is_empty(), scope.contains("routes"), "{scope}");
        world.do_all(conn, &["CONFIG_APPLY|"]);
        assert_eq!(staged(&mut world, conn), [0; 6]);
        assert_eq!((headers(&world, "b.de").len(), limit(&world, "b.de")), (2, Some(9)), "{scope}");
    }
    let (mut world, conn) = everything_staged();
    let refusal = world.ask(conn, "CONFIG_APPLY_PARTIAL||headers,colours");
    assert!(refusal.starts_with("ERROR|") && refusal.contains("colours"), "{refusal}");
    assert_eq!(staged(&mut world, conn), [1, 3, 3, 2, 3, 3]);
}

#[test]
fn what_a_partial_apply_left_expires_like_any_stage_and_a_rejected_one_left_everything() {
    let (mut world, conn) = everything_staged();
    world.store_answers = false;
    world.say(conn, "CONFIG_APPLY_PARTIAL||headers");
    let (tx, _) = world.commits.remove(0);
    world.input(Input::Rejected(tx));
    assert_eq!(world.read(conn), ["ERROR|store unavailable"]);
    assert_eq!(staged(&mut world, conn), [1, 3, 3, 2, 3, 3]);
    world.store_answers = true;
    world.do_all(conn, &["CONFIG_APPLY_PARTIAL||headers"]);
    world.after(seconds(1801));
    assert_eq!(staged(&mut world, conn), [0; 6]);
}
