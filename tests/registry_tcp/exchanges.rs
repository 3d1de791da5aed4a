//! What one peer says and reads for each row of PROTOCOL section 3, on a real socket.

use crate::server;

/// What one peer says and reads, a row of PROTOCOL section 3 after the other. `S` is the session's id.
const EXCHANGES: &[(&str, &str)] = &[
    (r#"REGISTER|web|web-1|3001|{"version":"1"}"#, "ACK|"),
    ("RECONNECT|S", "OK"),
    ("RECONNECT|web-1-1700000000000-00000000000000000000000000000000", "REREGISTER"),
    ("PING|S", "PONG"),
    (
        "SESSION_INFO|S",
        r#"SESSION_OK|{"session_id":"S","service_name":"web","instance_name":"web-1","connected_at":""#,
    ),
    ("ROUTE_ADD|S|a.de,b.de|/|http://127.0.0.1:8080|10", "ROUTE_OK|r1"),
    (
        r#"ROUTE_ADD_BULK|S|[{"domains":["c.de"],"path":"/","backend_url":"http://127.0.0.1:8080","priority":1}]"#,
        r#"ROUTE_BULK_OK|[{"route_id":"r2","status":"ok"}]"#,
    ),
    ("ROUTE_UPDATE|S|r1|priority|20", "ROUTE_OK"),
    ("ROUTE_UPDATE|S|r1|backend_url|http://127.0.0.1:8081", "ROUTE_OK"),
    ("ROUTE_UPDATE|S|r1|domains|a.de", "ROUTE_OK"),
    ("ROUTE_UPDATE|S|r1|path|/api", "ROUTE_OK"),
    ("ROUTE_UPDATE|S|r1|colour|blue", "ERROR|unknown field"),
    ("ROUTE_REMOVE|S|r2", "ROUTE_OK"),
    (
        "ROUTE_LIST|S|",
        r#"ROUTE_LIST_OK|[{"route_id":"r1","domains":["a.de"],"path":"/api","backend":"http://127.0.0.1:8081/","priority":20,"status":"staged"}]"#,
    ),
    ("ROUTE_LIST|S|compressed", "ROUTE_LIST_OK|H4sI"),
    ("HEADERS_SET|S|ALL|X-Frame-Options|DENY", "HEADERS_OK"),
    ("HEADERS_SET|S|r1|X-Served-By|web|1", "HEADERS_OK"),
    ("HEADERS_REMOVE|S|r1|X-Served-By", "HEADERS_OK"),
    ("OPTIONS_SET|S|ALL|compression|true", "OPTIONS_OK"),
    ("OPTIONS_REMOVE|S|ALL|compression", "OPTIONS_OK"),
    ("HEALTH_SET|S|r1|/health|30s|5s", "HEALTH_OK"),
    ("RATELIMIT_SET|S|r1|100|1m", "RATELIMIT_OK"),
    ("CIRCUIT_BREAKER_SET|S|ALL|5|30s|3", "CIRCUIT_OK"),
    ("CIRCUIT_BREAKER_STATUS|S|r1", "ERROR|circuit breaker not found"),
    (
        "CONFIG_DIFF|S",
        r#"DIFF_OK|{"routes":{"added":["r1"],"removed":[],"modified":[]},"headers":{"added":1,"removed":0},"options":{"modified":0},"health":{"modified":1},"ratelimit":{"modified":1},"circuit":{"modified":1}}"#,
    ),
    ("ROUTE_ADD|S|taken.de|/|http://127.0.0.1:8080|10", "ROUTE_OK|r3"),
    ("CONFIG_VALIDATE|S", "ERROR|route r3: taken.de/ belongs to service shop"),
    ("CONFIG_APPLY|S", "ERROR|route r3: taken.de/ belongs to service shop"),
    ("ROUTE_REMOVE|S|r3", "ROUTE_OK"),
    ("CONFIG_VALIDATE|S", "OK"),
    ("CONFIG_APPLY_PARTIAL|S|routes,health", "OK"),
    ("CONFIG_APPLY|S", "OK"),
    (
        "CIRCUIT_BREAKER_STATUS|S|r1",
        r#"CIRCUIT_STATUS_OK|{"state":"closed","failures":0,"successes":0,"last_failure":"","next_attempt":"","healthy":true,"in_maintenance":false,"draining":false}"#,
    ),
    ("CIRCUIT_BREAKER_RESET|S|r1", "CIRCUIT_OK"),
    ("ROUTE_REMOVE|S|r1", "ROUTE_OK"),
    ("CONFIG_ROLLBACK|S", "OK"),
    ("DRAIN_STATUS|S", "ERROR|no drain in progress"),
    ("DRAIN_START|S|30", "DRAIN_OK|20"),
    ("DRAIN_STATUS|S", r#"DRAIN_STATUS_OK|{"active":true,"started_at":"20"#),
    ("DRAIN_CANCEL|S", "DRAIN_OK"),
    ("DRAIN_CANCEL|S", "ERROR|no drain in progress"),
    ("MAINT_ENTER|S|ALL|", "ACK"),
    ("", "MAINT_OK|ALL"),
    (
        "MAINT_STATUS|S",
        r#"MAINT_STATUS_OK|{"in_maintenance":["r1"],"maintenance_backend":"","entered_at":"20"#,
    ),
    ("MAINT_STATUS|S|after=r1", r#"MAINT_STATUS_OK|{"in_maintenance":[],"#),
    ("MAINT_EXIT|S|r1", "ACK"),
    ("", "MAINT_OK|r1"),
    ("STATS_GET|S|r1", r#"STATS_OK|{"route_id":"r1","requests":0,"errors":0,"avg_latency_ms":0.0,"#),
    ("STATS_GET|S|ALL", r#"STATS_OK|[{"route_id":"r1","#),
    ("STATS_GET|S||after=r1", "STATS_OK|[]"),
    ("BACKEND_TEST|S|http://127.0.0.1:80", r#"BACKEND_OK|{"reachable":true,"response_time_ms":"#),
    ("BACKEND_TEST|S|http://127.0.0.1:9", r#"BACKEND_FAIL|{"error":"connection refused","reachable":false}"#),
    ("SUBSCRIBE|S|all", "SUBSCRIBE_OK"),
    ("UNSUBSCRIBE|S|all", "UNSUBSCRIBE_OK"),
    ("CLIENT_SHUTDOWN|S", "SHUTDOWN_OK"),
];

/// Answers that say all there is, as against those of which the rest is times or random.
const WHOLE: [&str; 19] = [
    "OK",
    "REREGISTER",
    "PONG",
    "SHUTDOWN_OK",
    "ROUTE_OK",
    "ROUTE_OK|r1",
    "ROUTE_OK|r3",
    "HEADERS_OK",
    "OPTIONS_OK",
    "HEALTH_OK",
    "RATELIMIT_OK",
    "CIRCUIT_OK",
    "DRAIN_OK",
    "ACK",
    "MAINT_OK|ALL",
    "MAINT_OK|r1",
    "STATS_OK|[]",
    "SUBSCRIBE_OK",
    "UNSUBSCRIBE_OK",
];

#[tokio::test]
async fn every_row_of_the_protocols_commands_is_answered_as_it_says_on_a_real_socket() {
    let server = server().await;
    let mut other = server.connect().await;
    other.register("shop").await;
    assert_eq!(other.ask("ROUTE_ADD||taken.de|/|http://127.0.0.1:80|0").await, "ROUTE_OK|r1");
    assert_eq!(other.ask("CONFIG_APPLY|").await, "OK");
    let mut peer = server.connect().await;
    let mut id = "S".to_owned();
    for (command, expected) in EXCHANGES {
        let line = command.replacen("|S", &format!("|{id}"), 1);
        let reply = if line.is_empty() { peer.line().await } else { peer.ask(&line).await };
        if let Some(given) = reply.strip_prefix("ACK|") {
            id = given.to_owned();
        }
        let shown = reply.replace(&id, "S");
        let is_right = match expected {
            whole if WHOLE.contains(whole) || whole.starts_with("ERROR|") => shown == *whole,
            beginning => shown.starts_with(beginning),
        };
        assert!(is_right, "{command}\n  was answered {shown}\n  and not      {expected}");
    }
    assert_eq!(peer.rest().await, "", "EOF behind SHUTDOWN_OK");
}

/// The names and the replies in the table of docs/PROTOCOL.md, section 3, against those above.
#[test]
fn every_row_of_the_protocols_commands_has_an_exchange_for_each_of_its_replies() {
    let page = include_str!("../../docs/PROTOCOL.md").replace("\\|", "|");
    let section = page.split("\n## 3. Commands").nth(1).unwrap().split("\n## 4.").next().unwrap();
    let mut rows = 0;
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let quoted: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let name = quoted[0].split('|').next().unwrap();
        let is_command = name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        if !is_command {
            continue;
        }
        rows += 1;
        // The second column: the first reply, and the others behind an `or`.
        let replies = row.split(" | ").nth(1).unwrap();
        for reply in replies.split('`').skip(1).step_by(2) {
            let word = reply.split('|').next().unwrap();
            let is_for = |(command, expected): &&(&str, &str)| {
                command.split('|').next() == Some(name) && expected.split('|').next() == Some(word)
            };
            // Why an apply is refused has tests of its own; it needs a second service.
            let is_elsewhere = word == "ERROR" && name.starts_with("CONFIG_");
            assert!(
                is_elsewhere || EXCHANGES.iter().any(|e| is_for(&e)),
                "{name} with {word} is never asked"
            );
        }
    }
    assert_eq!(rows, 34, "every command of the protocol has a row");
}
