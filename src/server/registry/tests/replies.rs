//! PROTOCOL sections 1 and 3: replies, their order, and what they hold.

use base64::Engine as _;
use std::io::Read as _;

use registry_client::protocol::{MAX_LINE, Refusal};

use super::*;

const A: &str = "10.2.2.7";
const WEB: &str = "http://10.2.2.7:80";

#[test]
fn the_opening_of_the_reference_client_is_served() {
    let mut world = World::new();
    let conn = world.connect(A);
    let id = world.register_on(conn, "app", "10.2.2.7");
    assert_eq!(world.ask(conn, &format!("ROUTE_LIST|{id}")), "ROUTE_LIST_OK|[]");
    for (line, reply) in [
        (format!("ROUTE_ADD|{id}|app.de|/|http://10.2.2.7:3000|10"), "ROUTE_OK|r1"),
        (format!("HEALTH_SET|{id}|r1|/|30s|5s"), "HEALTH_OK"),
        (format!("OPTIONS_SET|{id}|ALL|compression|true"), "OPTIONS_OK"),
        (format!("CONFIG_APPLY|{id}"), "OK"),
        (format!("PING|{id}"), "PONG"),
    ] {
        assert_eq!(world.ask(conn, &line), reply, "{line}");
    }
}

#[test]
fn session_info_says_what_there_is_and_no_secret() {
    let mut world = World::new();
    let conn = world.connect(A);
    let registered = world.ask(conn, r#"REGISTER|web|web-1|3001|{"token":"t0p","note":"a|b"}"#);
    let id = registered.strip_prefix("ACK|").unwrap().to_owned();
    world.after(seconds(90));
    assert_eq!(world.apply(conn, "a.de", WEB), "OK");
    world.do_all(conn, &["ROUTE_ADD||b.de|/|http://10.2.2.7:80|0"]);
    let reply = world.ask(conn, "SESSION_INFO|");
    let info: serde_json::Value = serde_json::from_str(reply.strip_prefix("SESSION_OK|").unwrap()).unwrap();
    let expected = serde_json::json!({
        "session_id": id, "service_name": "web", "instance_name": "web-1",
        "connected_at": "2023-11-14T22:13:20Z", "uptime_seconds": 90, "routes_active": 1, "routes_staged": 1,
        "last_activity": "2023-11-14T22:14:50Z", "last_apply": "2023-11-14T22:14:50Z",
        "metadata": { "note": "a|b" }, "revision": 1, "cluster_id": "c1",
        "server": concat!("registry-server/", env!("CARGO_PKG_VERSION")),
        "capabilities": ["allow_from", "auth", "body_limit", "breaker_off", "bulk", "compressed", "drain", "events", "h2c", "health_off", "health_options", "hold", "maintenance", "pages", "ratelimit_off", "redirect", "sticky", "strip_prefix", "targets", "weight"],
    });
    assert_eq!(info, expected);
}

#[test]
fn route_list_is_ordered_by_id_and_says_what_is_in_force() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(
        conn,
        &[
            "ROUTE_ADD||a.de|/|http://10.2.2.7:80|1",
            "ROUTE_ADD||b.de|/|http://10.2.2.7:80|2",
            "ROUTE_ADD||c.de|/c/|http://10.2.2.7:80|3",
            "ROUTE_REMOVE||r2",
            "CONFIG_APPLY|",
            "ROUTE_REMOVE||r1",
            "ROUTE_ADD||d.de,*.d.de|/|http://10.2.2.7:80|4",
        ],
    );
    let entry = |id, domains, path, priority, status| {
        format!(
            r#"{{"route_id":"{id}","domains":[{domains}],"path":"{path}","backend":"http://10.2.2.7/","priority":{priority},"status":"{status}"}}"#
        )
    };
    let expected = [
        entry("r1", r#""a.de""#, "/", 1, "pending_removal"),
        entry("r3", r#""c.de""#, "/c", 3, "active"),
        entry("r4", r#""d.de","*.d.de""#, "/", 4, "staged"),
    ];
    assert_eq!(world.ask(conn, "ROUTE_LIST|"), format!("ROUTE_LIST_OK|[{}]", expected.join(",")));
}

#[test]
fn a_list_that_is_too_long_for_a_line_comes_compressed_or_in_pages() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    for number in 0..2000 {
        world.do_all(conn, &[&format!("ROUTE_ADD||d{number}.de|/|{WEB}|0")]);
    }
    assert_eq!(world.ask(conn, "ROUTE_LIST|"), "ERROR|response too large");

    let compressed = world.ask(conn, "ROUTE_LIST||compressed");
    let zipped = base64::engine::general_purpose::STANDARD
        .decode(compressed.strip_prefix("ROUTE_LIST_OK|").unwrap())
        .unwrap();
    let mut json = String::new();
    flate2::read::GzDecoder::new(&zipped[..]).read_to_string(&mut json).unwrap();
    let all: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(all.len(), 2000);

    let (mut paged, mut after) = (Vec::new(), "r0".to_owned());
    loop {
        let reply = world.ask(conn, &format!("ROUTE_LIST|||after={after}"));
        assert!(reply.len() <= MAX_LINE);
        let page: Vec<serde_json::Value> =
            serde_json::from_str(reply.strip_prefix("ROUTE_LIST_OK|").unwrap()).unwrap();
        let Some(last) = page.last() else { break };
        after = last["route_id"].as_str().unwrap().to_owned();
        paged.extend(page);
    }
    assert_eq!(paged, all);
}

#[test]
fn a_bulk_is_added_whole_or_not_at_all() {
    let mut world = World::with(|config| config.limits.routes = 3);
    let (conn, _) = world.register("web", "web-1", A);
    let route =
        |domain: &str| format!(r#"{{"domains":["{domain}"],"path":"/","backend_url":"{WEB}","priority":1}}"#);
    let bulk = |domains: &[&str]| {
        let routes: Vec<String> = domains.iter().map(|domain| route(domain)).collect();
        format!("ROUTE_ADD_BULK||[{}]", routes.join(","))
    };
    assert_eq!(
        world.ask(conn, &bulk(&["a.de", "b.de"])),
        r#"ROUTE_BULK_OK|[{"route_id":"r1","status":"ok"},{"route_id":"r2","status":"ok"}]"#
    );
    assert_eq!(world.ask(conn, &bulk(&["c.de", "d.de"])), "ERROR|too many routes");
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), "OK");
    assert_eq!((world.serving("a.de").len(), world.pool("c.de").len()), (1, 0));
}

#[test]
fn route_update_changes_each_field_and_only_of_routes_that_there_are() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB);
    world.do_all(
        conn,
        &[
            "ROUTE_UPDATE||r1|domains|b.de",
            "ROUTE_UPDATE||r1|backend_url|http://10.2.2.7:81",
            "ROUTE_UPDATE||r1|priority|5",
        ],
    );
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"], "as it was until the apply");
    world.do_all(conn, &["CONFIG_APPLY|"]);
    assert_eq!((world.pool("a.de").len(), world.serving("b.de")), (0, vec!["10.2.2.7:81".to_owned()]));
    world.do_all(conn, &["ROUTE_UPDATE||r1|path|/x", "ROUTE_REMOVE||r1"]);
    for line in
        ["ROUTE_UPDATE||r1|priority|1", "ROUTE_REMOVE||r1", "HEALTH_SET||r1|/|1s|1s", "ROUTE_REMOVE||r7"]
    {
        assert_eq!(world.ask(conn, line), "ERROR|route not found", "{line}");
    }
    assert_eq!(world.ask(conn, "ROUTE_UPDATE||r1|colour|red"), "ERROR|unknown field");
}

#[test]
fn config_diff_says_what_an_apply_would_change() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(
        conn,
        &[
            "ROUTE_ADD||a.de|/|http://10.2.2.7:80|0",
            "ROUTE_ADD||b.de|/|http://10.2.2.7:80|0",
            "ROUTE_ADD||c.de|/|http://10.2.2.7:80|0",
            "CONFIG_APPLY|",
            "ROUTE_ADD||d.de|/|http://10.2.2.7:80|0",
            "ROUTE_REMOVE||r2",
            "ROUTE_UPDATE||r3|priority|9",
            "ROUTE_UPDATE||r1|priority|0",
            "OPTIONS_SET||ALL|compression|true",
            "OPTIONS_SET||r1|http2|false",
            "HEALTH_SET||r1|/|30s|5s",
        ],
    );
    let reply = world.ask(conn, "CONFIG_DIFF|");
    let diff: serde_json::Value = serde_json::from_str(reply.strip_prefix("DIFF_OK|").unwrap()).unwrap();
    assert_eq!(diff["routes"], serde_json::json!({"added": ["r4"], "removed": ["r2"], "modified": ["r3"]}));
    assert_eq!((&diff["options"]["modified"], &diff["health"]["modified"]), (&2.into(), &1.into()));
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), "OK");
    let reply = world.ask(conn, "CONFIG_DIFF|");
    assert!(reply.starts_with(r#"DIFF_OK|{"routes":{"added":[],"removed":[],"modified":[]}"#), "{reply}");
}

#[test]
fn a_backend_test_says_what_was_seen_and_holds_up_only_replies_of_its_own_connection() {
    let mut world = World::new();
    let (conn, id) = world.register("web", "web-1", A);
    world.say(conn, "BACKEND_TEST||http://10.2.2.7:80");
    world.say(conn, "PING|");
    world.say(conn, "ROUTE_ADD||a.de|/|http://10.2.2.7:80|0");
    assert_eq!(world.read(conn), [""; 0], "replies come in the order of the commands");
    let other = world.connect(A);
    assert_eq!(world.ask(other, &format!("PING|{id}")), "PONG");
    let report = registry_client::protocol::report::BackendReport {
        reachable: true,
        response_time_ms: 1.5,
        status_code: 204,
        tls_valid: false,
    };
    let test = world.tests.remove(0);
    world.input(Input::Tested(test, Ok(report)));
    let ok = r#"BACKEND_OK|{"reachable":true,"response_time_ms":1.5,"status_code":204,"tls_valid":false}"#;
    assert_eq!(world.read(conn), [ok, "PONG", "ROUTE_OK|r1"]);
}

/// A drain, a page, a change of routes and the end of a session are in force at once, whatever backends do.
#[test]
fn what_comes_behind_a_backend_test_is_carried_out_at_once() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", A, "a.de", "http://10.2.2.7:80");
    world.say(conn, "BACKEND_TEST||http://10.2.2.7:80");
    world.say(conn, "DRAIN_START||0s");
    let other = world.connect(A);
    let status = |world: &mut World| world.ask(other, &format!("DRAIN_STATUS|{id}"));
    assert!(status(&mut world).contains(r#""active":true"#));
    world.say(conn, "DRAIN_CANCEL|");
    assert_eq!(status(&mut world), "ERROR|no drain in progress");
    world.say(conn, "BACKEND_TEST||http://10.2.2.7:81");
    world.say(conn, "MAINT_ENTER||ALL");
    assert!(world.ask(other, &format!("MAINT_STATUS|{id}")).contains(r#"["r1"]"#));
    world.say(conn, "ROUTE_REMOVE||r1");
    world.say(conn, "CONFIG_APPLY|");
    assert!(world.pool("a.de").is_empty());
    assert_eq!(world.read(conn), [""; 0], "replies come in the order of the commands");

    let second = world.tests.remove(1);
    world.input(Input::Tested(second, Err("refused".to_owned())));
    assert_eq!(world.read(conn), [""; 0]);
    let first = world.tests.remove(0);
    world.input(Input::Tested(first, Err("refused".to_owned())));
    let failed = r#"BACKEND_FAIL|{"error":"refused","reachable":false}"#;
    let lines = world.read(conn);
    assert!(lines[1].starts_with("DRAIN_OK|"), "{lines:?}");
    let rest: Vec<&str> =
        lines.iter().map(String::as_str).filter(|line| !line.starts_with("DRAIN_OK|")).collect();
    assert_eq!(rest, [failed, "DRAIN_OK", failed, "ACK", "MAINT_OK|ALL", "ROUTE_OK", "OK"]);
}

#[test]
fn the_end_of_a_session_does_not_wait_for_a_backend() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", "http://10.2.2.7:80");
    for line in ["BACKEND_TEST||http://10.2.2.7:80", "PING|", "CLIENT_SHUTDOWN|"] {
        world.say(conn, line);
    }
    let given_up = r#"BACKEND_FAIL|{"error":"the connection ends","reachable":false}"#;
    assert_eq!(world.read(conn), [given_up, "PONG", "SHUTDOWN_OK"]);
    assert!(world.closed.contains(&conn));
    let late = world.tests.remove(0);
    world.input(Input::Tested(late, Err("too late".to_owned())));
    world.after(seconds(31));
    assert!(world.registry.next_deadline().is_none());
}

#[test]
fn a_backend_test_is_answered_within_five_seconds() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.say(conn, "BACKEND_TEST||http://10.2.2.7:80");
    world.say(conn, "PING|");
    world.after(seconds(5));
    assert_eq!(world.read(conn), [r#"BACKEND_FAIL|{"error":"no answer in time","reachable":false}"#, "PONG"]);
    let late = world.tests.remove(0);
    world.input(Input::Tested(late, Err("too late".to_owned())));
    assert_eq!(world.read(conn), [""; 0], "a late answer answers nothing");
}

#[test]
fn lines_that_are_no_commands_are_answered() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    assert_eq!(world.ask(conn, "NONSENSE|"), "ERROR|unknown command: NONSENSE");
    world.input(Input::Line(conn, Err(Refusal::LineTooLong)));
    world.input(Input::Line(conn, Err(Refusal::InvalidFormat)));
    assert_eq!(world.read(conn), ["ERROR|line too long", "ERROR|invalid format"]);
    assert_eq!(world.ask(conn, "PING|"), "PONG");
}

/// The lists of route ids or objects in pages, as a client reads them that always asks behind the last one it has.
fn pages(
    world: &mut World,
    conn: ConnId,
    command: &str,
    ids: impl Fn(&serde_json::Value) -> Vec<String>,
) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    loop {
        let after = all.last().cloned().unwrap_or_else(|| "r0".to_owned());
        let reply = world.ask(conn, &format!("{command}|after={after}"));
        assert!(reply.len() <= registry_client::protocol::MAX_LINE, "{}", reply.len());
        let (word, json) = reply.split_once('|').unwrap();
        assert!(word.ends_with("_OK"), "{reply}");
        let page = ids(&serde_json::from_str(json).unwrap());
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

#[test]
fn what_does_not_fit_into_a_line_can_be_had_in_pages() {
    let mut world = World::with(|config| config.limits.routes = 20_000);
    let (conn, _) = world.register("web", "web-1", A);
    for number in 0..10_000 {
        world.say(conn, &format!("ROUTE_ADD||d{number}.de|/|http://10.2.2.7:80|0"));
    }
    world.read(conn);
    let diff = world.ask(conn, "CONFIG_DIFF|");
    assert!(diff.starts_with(r#"DIFF_OK|{"routes":{"added":10000,"removed":0,"modified":0}"#), "{diff}");
    world.do_all(conn, &["CONFIG_APPLY|"]);
    world.say(conn, "MAINT_ENTER||ALL");
    assert_eq!(world.read(conn), ["ACK", "MAINT_OK|ALL"]);
    let too_large = "ERROR|response too large";
    for command in ["STATS_GET||ALL", "STATS_GET|", "MAINT_STATUS|", "ROUTE_LIST|"] {
        assert_eq!(world.ask(conn, command), too_large, "{command}");
    }
    let expected: Vec<String> = (1..=10_000).map(|number| format!("r{number}")).collect();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let objects = |page: &serde_json::Value| {
        page.as_array().unwrap().iter().map(|object| text(&object["route_id"])).collect()
    };
    assert_eq!(pages(&mut world, conn, "STATS_GET||ALL", objects), expected);
    assert_eq!(pages(&mut world, conn, "STATS_GET||", objects), expected);
    assert_eq!(pages(&mut world, conn, "ROUTE_LIST||", objects), expected);
    let listed = |page: &serde_json::Value| {
        assert_eq!(page["entered_at"], "2023-11-14T22:13:20Z");
        page["in_maintenance"].as_array().unwrap().iter().map(text).collect()
    };
    assert_eq!(pages(&mut world, conn, "MAINT_STATUS|", listed), expected);
    assert_eq!(world.ask(conn, "STATS_GET||r1|after=r2"), "ERROR|invalid format");
    assert_eq!(world.ask(conn, "MAINT_STATUS||r2"), "ERROR|invalid format");
}
