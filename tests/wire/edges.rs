//! Lines that are not as the table has them: what is forgiven, what is refused, and with which text.

use registry_client::protocol::report::{DrainStatus, SessionInfo};
use registry_client::protocol::{Command, Push, Refusal, Reply, Request, ServerLine, looks_like_http};

/// The line as it would be passed on, or the error that is answered.
fn read(line: &str) -> String {
    match Command::parse(line) {
        Ok(command) => command.encode(),
        Err(refusal) => Reply::Error(refusal).encode(),
    }
}

#[test]
fn names_are_case_sensitive_and_free_of_blanks() {
    assert_eq!(read("ping|S"), "ERROR|unknown command: ping");
    assert_eq!(read("Register|s|i|0"), "ERROR|unknown command: Register");
    assert_eq!(read(" PING|S"), "ERROR|unknown command:  PING");
    assert_eq!(read("PING |S"), "ERROR|unknown command: PING ");
    assert_eq!(read(""), "ERROR|unknown command: ");
    // Documented for clients, and wrong: the server ignores it by this text.
    assert_eq!(read("ACK"), "ERROR|unknown command: ACK");
    assert_eq!(read("ACK|S"), "ERROR|unknown command: ACK");
}

#[test]
fn the_session_field_may_be_empty_or_where_it_is_the_only_one_missing() {
    assert_eq!(read("PING"), "PING|");
    assert_eq!(read("PING|"), "PING|");
    assert_eq!(read("ROUTE_LIST"), "ROUTE_LIST|");
    assert_eq!(read("STATS_GET"), "STATS_GET||ALL");
    assert_eq!(read("ROUTE_REMOVE||r1"), "ROUTE_REMOVE||r1");
    assert_eq!(read("ROUTE_REMOVE|r1"), "ERROR|invalid format");
    assert_eq!(read("DRAIN_START|30s"), "ERROR|invalid format");
}

#[test]
fn each_command_cut_short_has_too_few_fields() {
    // The number of fields after the name that a command needs; the last may be missing where it is one less
    // than the table shows.
    let shortest = [
        "REGISTER|s|i|0",
        "RECONNECT|S",
        "ROUTE_ADD|S|a.de|/|http://h/|10",
        "ROUTE_ADD_BULK|S|[]",
        "ROUTE_UPDATE|S|r1|path|/",
        "ROUTE_REMOVE|S|r1",
        "HEADERS_SET|S|ALL|X-A|b",
        "HEADERS_REMOVE|S|ALL|X-A",
        "OPTIONS_SET|S|ALL|http2|true",
        "OPTIONS_REMOVE|S|ALL|http2",
        "HEALTH_SET|S|r1|/|30s|5s",
        "RATELIMIT_SET|S|r1|5|1m",
        "CIRCUIT_BREAKER_SET|S|r1|5|30s|3",
        "CIRCUIT_BREAKER_STATUS|S|r1",
        "CIRCUIT_BREAKER_RESET|S|r1",
        "CONFIG_APPLY_PARTIAL|S|routes",
        "DRAIN_START|S|30s",
        "MAINT_ENTER|S|ALL",
        "MAINT_EXIT|S|ALL",
        "BACKEND_TEST|S|http://h/",
        "SUBSCRIBE|S|all",
        "UNSUBSCRIBE|S|all",
    ];
    for line in shortest {
        assert!(Command::parse(line).is_ok(), "{line}");
        for (at, _) in line.match_indices('|') {
            assert_eq!(read(&line[..at]), "ERROR|invalid format", "{}", &line[..at]);
        }
    }
}

#[test]
fn too_few_fields_go_before_whatever_is_wrong_with_the_others() {
    assert_eq!(read("NONSENSE"), "ERROR|unknown command: NONSENSE");
    assert_eq!(read(&format!("ROUTE_ADD|{}|", "x".repeat(513))), "ERROR|invalid format");
    assert_eq!(read(&format!("PING|{}", "x".repeat(513))), "ERROR|session not found");
    assert_eq!(read("REGISTER||"), "ERROR|invalid format");
    assert_eq!(read("ROUTE_ADD|S||nonsense|nonsense"), "ERROR|invalid format");
    assert_eq!(read("OPTIONS_SET|S|ALL|nonsense"), "ERROR|invalid format");
    assert_eq!(read("RATELIMIT_SET|S|nonsense|nonsense"), "ERROR|invalid format");
}

#[test]
fn the_first_wrong_field_is_the_one_that_is_named() {
    assert_eq!(read("ROUTE_ADD|S||||"), "ERROR|no domains specified");
    assert_eq!(read("ROUTE_ADD|S|a.de||x|x"), "ERROR|path cannot be empty");
    assert_eq!(read("ROUTE_ADD|S|a.de|/|x|x"), "ERROR|invalid backend url format");
    assert!(read("ROUTE_ADD|S|a.de|/|http://h|x").starts_with("ERROR|invalid priority \"x\""));
    assert_eq!(read("ROUTE_UPDATE|S|x|x|x"), "ERROR|route not found");
    assert_eq!(read("ROUTE_UPDATE|S|r1|x|x"), "ERROR|unknown field");
    assert_eq!(read("HEALTH_SET|S|ALL|/|1s|1s"), "ERROR|route not found");
    assert_eq!(read("MAINT_EXIT|S|r1,no where"), "ERROR|unknown target: no where");
    assert!(read("CONFIG_APPLY_PARTIAL|S|routes,colours").starts_with("ERROR|invalid scope \"colours\""));
    assert!(read("CONFIG_APPLY_PARTIAL|S|").starts_with("ERROR|invalid scope \"\""));
    assert!(read("OPTIONS_SET|S|ALL|colour|red").starts_with("ERROR|invalid option \"colour\""));
    assert!(read("SUBSCRIBE|S|gossip").starts_with("ERROR|invalid event type \"gossip\""));
}

#[test]
fn more_fields_than_a_command_has_are_ignored() {
    assert_eq!(read("PING|S|x|y"), "PING|S");
    assert_eq!(read("RECONNECT|S|x"), "RECONNECT|S");
    assert_eq!(read("ROUTE_REMOVE|S|r1|"), "ROUTE_REMOVE|S|r1");
    assert_eq!(read("ROUTE_ADD|S|a.de|/|http://h/|10|x|y"), "ROUTE_ADD|S|a.de|/|http://h/|10");
    assert_eq!(read("ROUTE_LIST|S||after=r5|x"), "ROUTE_LIST|S||after=r5");
    assert_eq!(read("MAINT_ENTER|S|ALL||x"), "MAINT_ENTER|S|ALL|");
    assert_eq!(read("OPTIONS_SET|S|ALL|http2|true|x"), "OPTIONS_SET|S|ALL|http2|true");
}

#[test]
fn json_and_header_values_take_the_rest_of_the_line() {
    assert_eq!(read(r#"REGISTER|s|i|0|{"a":"b|c"}"#), r#"REGISTER|s|i|0|{"a":"b\u007cc"}"#);
    assert_eq!(read(r#"REGISTER|s|i|0|{"a":1}|x"#), "ERROR|invalid metadata json");
    assert_eq!(read("HEADERS_SET|S|ALL|X-A| a|b |"), "HEADERS_SET|S|ALL|X-A| a|b |");
    assert_eq!(read("HEADERS_SET|S|ALL|X-A|"), "HEADERS_SET|S|ALL|X-A|");
    let bulk = r#"ROUTE_ADD_BULK|S|[{"domains":["a.de"],"path":"/","backend_url":"http://h/","priority":1,"note":"x|y"}]"#;
    assert!(Command::parse(bulk).is_ok(), "unknown keys are ignored, separators in JSON are not");
    assert_eq!(
        ServerLine::parse(r#"EVENT|all|{"a":"b|c"}"#).unwrap().encode(),
        r#"EVENT|all|{"a":"b\u007cc"}"#
    );
}

#[test]
fn only_a_header_s_value_is_unsafe_for_a_reference_server() {
    let safe = |line: &str| match Command::parse(line).unwrap() {
        Command::Request(_, request) => request.is_safe_for_reference(),
        other => panic!("{other:?}"),
    };
    assert!(!safe("HEADERS_SET|S|ALL|X-A|a|b"));
    assert!(safe("HEADERS_SET|S|ALL|X-A|a b"));
    assert!(safe("PING|S"));
}

#[test]
fn registration_forgives_what_the_reference_client_sends() {
    for metadata in ["", "|", "|null", "|{}"] {
        assert_eq!(read(&format!("REGISTER|s|i|0{metadata}")), "REGISTER|s|i|0|{}");
    }
    assert_eq!(read("REGISTER|s|i|"), "REGISTER|s|i|0|{}");
    assert_eq!(read("REGISTER|s|i|00|"), "REGISTER|s|i|0|{}");
    assert_eq!(read("REGISTER|s|i|0|[]"), "ERROR|invalid metadata json");
    assert!(read("REGISTER|s|i|eighty|").starts_with("ERROR|invalid maintenance port \"eighty\""));
    assert!(read("REGISTER||i|0|").starts_with("ERROR|invalid service name \"\""));
    assert!(read("REGISTER|s||0|").starts_with("ERROR|invalid instance name \"\""));
}

#[test]
fn durations_may_be_bare_seconds_and_have_one_spelling_when_passed_on() {
    assert_eq!(read("DRAIN_START|S|30"), "DRAIN_START|S|30s");
    assert_eq!(read("DRAIN_START|S|0"), "DRAIN_START|S|0s");
    assert_eq!(read("DRAIN_START|S|90s"), "DRAIN_START|S|1m30s");
    assert_eq!(read("DRAIN_START|S|-30"), "ERROR|invalid duration: -30");
    assert_eq!(read("DRAIN_START|S|"), "ERROR|invalid duration: ");
    assert_eq!(read("OPTIONS_SET|S|ALL|timeout|0s"), "ERROR|invalid duration: 0s");
    assert_eq!(read("HEALTH_SET|S|r1|/|30s|0"), "ERROR|invalid duration: 0");
}

#[test]
fn zero_takes_a_check_a_limit_or_a_breaker_away() {
    for line in [
        "HEALTH_SET|S|r1|/|0s|5s",
        "HEALTH_SET|S|r1|/|0s|0s",
        "RATELIMIT_SET|S|ALL|0|1m",
        "RATELIMIT_SET|S|r1|0|0s",
        "CIRCUIT_BREAKER_SET|S|r1|0|30s|3",
        "CIRCUIT_BREAKER_SET|S|r1|0|0s|0",
    ] {
        assert_eq!(read(line), line);
    }
    assert!(
        read("CIRCUIT_BREAKER_SET|S|r1|5|30s|0").starts_with("ERROR|invalid number of half-open requests")
    );
    assert!(read("RATELIMIT_SET|S|r1|-1|1m").starts_with("ERROR|invalid number of requests \"-1\""));
}

#[test]
fn lists_forgive_blanks_and_repetition_but_no_holes() {
    assert_eq!(read("ROUTE_ADD|S| A.de , b.de,a.de|/x/|http://h|1"), "ROUTE_ADD|S|a.de,b.de|/x|http://h/|1");
    assert!(read("ROUTE_ADD|S|a.de,,b.de|/|http://h|1").starts_with("ERROR|invalid domain \"\""));
    assert_eq!(read("MAINT_EXIT|S|r1, /a/ ,B.de"), "MAINT_EXIT|S|r1,/a,b.de");
    assert_eq!(read("MAINT_EXIT|S|r1,,r2"), "ERROR|unknown target: ");
    assert_eq!(read("CONFIG_APPLY_PARTIAL|S|routes, health"), "CONFIG_APPLY_PARTIAL|S|routes,health");
}

#[test]
fn a_domain_that_reads_as_a_route_id_is_one() {
    assert_eq!(Command::parse("MAINT_EXIT|S|r1"), Command::parse("MAINT_EXIT|S| r1"));
    assert!(format!("{:?}", Command::parse("MAINT_EXIT|S|r1")).contains("Route(RouteId(1))"));
    assert!(format!("{:?}", Command::parse("MAINT_EXIT|S|r01")).contains("Domain"));
}

#[test]
fn a_page_of_the_route_list_that_is_none_is_an_invalid_format() {
    assert_eq!(read("ROUTE_LIST|S|all"), "ERROR|invalid format");
    assert_eq!(read("ROUTE_LIST|S||r5"), "ERROR|invalid format");
    assert_eq!(read("ROUTE_LIST|S||after=5"), "ERROR|invalid format");
    assert_eq!(read("ROUTE_LIST|S|compressed|"), "ROUTE_LIST|S|compressed");
}

#[test]
fn bulk_routes_that_are_none_are_invalid_json_or_refused_by_their_values() {
    assert_eq!(read("ROUTE_ADD_BULK|S|"), "ERROR|invalid json");
    assert_eq!(read("ROUTE_ADD_BULK|S|{}"), "ERROR|invalid json");
    assert_eq!(read(r#"ROUTE_ADD_BULK|S|[{"path":"/"}]"#), "ERROR|invalid json");
    let one = |route: &str| read(&format!("ROUTE_ADD_BULK|S|[{route}]"));
    assert_eq!(one(r#"{"domains":[],"path":"/","backend_url":"http://h"}"#), "ERROR|no domains specified");
    assert_eq!(
        one(r#"{"domains":["a.de"],"path":"","backend_url":"http://h"}"#),
        "ERROR|path cannot be empty"
    );
    assert_eq!(
        one(r#"{"domains":["a.de"],"path":"/","backend_url":"h"}"#),
        "ERROR|invalid backend url format"
    );
    assert!(
        one(r#"{"domains":["a.de"],"path":"/","backend_url":"http://h"}"#).ends_with(r#""priority":0}]"#)
    );
}

#[test]
fn a_refusal_repeats_a_bounded_and_harmless_part_of_what_was_sent() {
    let reply = read(&format!("X{}\u{1b}[31m\t\u{85}\0|S", "y".repeat(60_000)));
    assert!(reply.len() < 500 && !reply.contains(char::is_control));
    assert!(read("\u{1b}[31m|S").ends_with("?[31m"));
}

#[test]
fn a_server_s_words_may_have_more_fields_than_they_need() {
    let line = |line: &str| ServerLine::parse(line).unwrap();
    assert_eq!(line("PONG|x"), Reply::Pong.into());
    assert_eq!(line("ACK|id|x"), line("ACK|id"));
    assert_eq!(line("ACK|"), Reply::MaintenanceAck.into());
    assert_eq!(line("ROUTE_OK|r1|x"), line("ROUTE_OK|r1"));
    assert_eq!(line("MAINT_OK|ALL|x"), line("MAINT_OK|ALL"));
    assert_eq!(line("SHUTDOWN|x"), Push::Shutdown.into());
    assert_eq!(line("ERROR"), Reply::Error(Refusal::Other(String::new())).into());
}

#[test]
fn what_is_no_reply_is_told_from_one() {
    for line in [
        "",
        "pong",
        "HTTP/1.1 400 Bad Request",
        "MAINT_OK",
        "MAINT_OK|",
        "ROUTE_OK|x",
        "SESSION_OK",
        "SESSION_OK|[]",
        "SESSION_OK|{",
        "STATS_OK|",
        "EVENT|all",
        "EVENT|all|{",
        "EVENT|",
        "EVENT||{}",
        r#"ROUTE_BULK_OK|[{"route_id":"x","status":"ok"}]"#,
        r#"CIRCUIT_STATUS_OK|{"state":"ajar"}"#,
    ] {
        assert!(ServerLine::parse(line).is_err(), "{line:?}");
    }
}

#[test]
fn a_body_that_leaves_fields_out_is_read_and_one_with_more_too() {
    let info = SessionInfo { session_id: "S".to_owned(), uptime_seconds: 2, ..SessionInfo::default() };
    assert_eq!(
        ServerLine::parse(
            r#"SESSION_OK|{"session_id":"S","uptime_seconds":2.7,"colour":"red","metadata":null}"#
        ),
        Ok(Reply::SessionInfo(Box::new(info)).into())
    );
    let drain = r#"DRAIN_STATUS_OK|{"active":false,"duration_seconds":30}"#;
    let Ok(ServerLine::Reply(Reply::DrainStatus(DrainStatus {
        active, duration_seconds, in_flight, ..
    }))) = ServerLine::parse(drain)
    else {
        panic!("{drain}");
    };
    assert_eq!((active, duration_seconds, in_flight), (false, 30.0, None));
    // Recorded: the reference counts where the document has ids.
    let counts = ServerLine::parse(r#"DIFF_OK|{"routes":{"added":1,"removed":0,"modified":2}}"#).unwrap();
    assert!(counts.encode().contains(r#""routes":{"added":1,"removed":0,"modified":2}"#));
}

#[test]
fn the_failure_of_a_backend_test_is_read_from_json_or_as_it_stands() {
    for (line, error) in [
        (r#"BACKEND_FAIL|{"reachable":false,"error":"connection refused"}"#, "connection refused"),
        ("BACKEND_FAIL|connection refused", "connection refused"),
        ("BACKEND_FAIL", ""),
    ] {
        assert_eq!(ServerLine::parse(line), Ok(Reply::BackendFail(error.to_owned()).into()));
    }
}

#[test]
fn a_verdict_is_asynchronous_and_its_neighbours_are_replies() {
    let is_push = |line: &str| matches!(ServerLine::parse(line), Ok(ServerLine::Push(_)));
    assert!(is_push("ERROR|timeout waiting for backend to become reachable"));
    assert!(!is_push("ERROR|timeout waiting for backend"));
    assert!(!is_push("ERROR|timeout waiting for backend to become reachable|r1"));
    assert!(!is_push("ERROR|Maintenance request superseded"));
    assert!(is_push("SHUTDOWN"));
    assert!(!is_push("SHUTDOWN_OK"));
}

#[test]
fn every_request_says_its_own_name() {
    for line in ["PING|S", "CONFIG_APPLY|S", "DRAIN_CANCEL|S"] {
        let Ok(Command::Request(_, request)) = Command::parse(line) else { panic!("{line}") };
        assert_eq!(format!("{}|S", request.name()), line);
    }
    assert_eq!(Request::Ping.name(), "PING");
}

#[test]
fn a_peer_that_speaks_http_is_recognised_and_no_command_is_taken_for_it() {
    for line in ["GET / HTTP/1.1", "POST /x HTTP/1.0", "HTTP/1.1 200 OK", "HTTP/1.0 400 Bad Request"] {
        assert!(looks_like_http(line));
        assert!(Command::parse(line).is_err() && ServerLine::parse(line).is_err());
    }
    for line in ["PING|S", "REGISTER|http|HTTP/1|0|{}", "PONG", ""] {
        assert!(!looks_like_http(line), "{line}");
    }
}
