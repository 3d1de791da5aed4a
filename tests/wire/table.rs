//! PROTOCOL section 3, row by row, and the lines of section 6: what the document says beside the line and
//! the value it is. The document is read too, so that neither can change without the other.

use registry_client::protocol::report::{
    BackendReport, CircuitState, CircuitStatus, Diff, DrainStatus, HeaderDiff, MaintenanceStatus, Modified,
    RouteDiff, RouteEntry, RouteStatus, SessionInfo, Stats,
};
use registry_client::protocol::{
    CircuitBreaker, Command, Domains, EventKind, GoDuration, HealthCheck, Metadata, OptionKey, Push,
    RateLimit, Refusal, Registration, Reply, Request, RouteChange, RouteId, RouteOption, RouteOrAll,
    RouteSpec, Scope, ServerLine, SessionRef, Target, TargetItem,
};
use serde_json::json;

use super::variants;

const DOCUMENT: &str = include_str!("../../docs/PROTOCOL.md");

/// The rows of the first table in a section, as their cells.
fn document_rows(section: &str, header: &str) -> Vec<Vec<String>> {
    let start = DOCUMENT.find(section).unwrap();
    let table = &DOCUMENT[start + DOCUMENT[start..].find(header).unwrap()..];
    let rows = table.lines().take_while(|line| line.starts_with('|')).skip(2);
    // In a Markdown table a `|` within a cell is written `\|`.
    rows.map(|row| {
        let cells = row.replace("\\|", "\u{0}");
        cells.trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
    })
    .collect()
}

struct Row {
    /// The first two cells of the document's row.
    document: [&'static str; 2],
    commands: Vec<(&'static str, Command)>,
    replies: Vec<(&'static str, Reply)>,
}

fn s(request: Request) -> Command {
    Command::Request(SessionRef::Id("S".parse().unwrap()), request)
}

fn r(number: u32) -> RouteId {
    RouteId(number)
}

fn secs(seconds: u32) -> GoDuration {
    GoDuration::from_secs(seconds)
}

fn domains(list: &[&str]) -> Domains {
    Domains::new(list.iter().map(|domain| domain.parse().unwrap())).unwrap()
}

fn shop() -> RouteSpec {
    RouteSpec {
        domains: domains(&["shop.example.com", "*.shop.example.com"]),
        path: "/api".parse().unwrap(),
        backend: "http://10.2.2.7:8080".parse().unwrap(),
        priority: 10,
    }
}

fn targets() -> Target {
    Target::Some(vec![
        TargetItem::Route(r(1)),
        TargetItem::Path("/admin".parse().unwrap()),
        TargetItem::Domain("admin.example.com".parse().unwrap()),
        TargetItem::Service,
    ])
}

fn session_rows() -> Vec<Row> {
    let registration = Registration {
        service: "shop".parse().unwrap(),
        instance: "shop-1".parse().unwrap(),
        maintenance_port: Some(3001),
        metadata: Metadata::parse(r#"{"version":"1.2"}"#).unwrap(),
    };
    let bare = Registration { maintenance_port: None, metadata: Metadata::default(), ..registration.clone() };
    let info = SessionInfo {
        session_id: "shop-1-1734690123456-77aa".to_owned(),
        service_name: "shop".to_owned(),
        instance_name: "shop-1".to_owned(),
        connected_at: "2025-01-01T00:00:00Z".to_owned(),
        uptime_seconds: 60,
        routes_active: 1,
        routes_staged: 2,
        last_activity: "2025-01-01T00:01:00Z".to_owned(),
        last_apply: "2025-01-01T00:00:01Z".to_owned(),
        metadata: json!({ "version": "1.2" }).as_object().unwrap().clone(),
        ..SessionInfo::default()
    };
    let ours = SessionInfo {
        revision: Some(7),
        server: Some("registry-server/0.1.0".to_owned()),
        cluster_id: Some("c1".to_owned()),
        capabilities: vec!["route_list.after".to_owned()],
        ..info.clone()
    };
    vec![
        Row {
            document: ["`REGISTER|service|instance|maintenance_port|[metadata]`", "`ACK|S`"],
            commands: vec![
                (r#"REGISTER|shop|shop-1|3001|{"version":"1.2"}"#, Command::Register(registration)),
                ("REGISTER|shop|shop-1|0|{}", Command::Register(bare)),
            ],
            replies: vec![(
                "ACK|shop-1-1734690123456-77aa",
                Reply::Registered("shop-1-1734690123456-77aa".parse().unwrap()),
            )],
        },
        Row {
            document: ["`RECONNECT|S`", "`OK` or `REREGISTER`"],
            commands: vec![("RECONNECT|S", Command::Reconnect("S".parse().unwrap()))],
            replies: vec![("OK", Reply::Ok), ("REREGISTER", Reply::Reregister)],
        },
        Row {
            document: ["`PING|S`", "`PONG`"],
            commands: vec![
                ("PING|S", s(Request::Ping)),
                ("PING|", Command::Request(SessionRef::Own, Request::Ping)),
            ],
            replies: vec![("PONG", Reply::Pong)],
        },
        Row {
            document: [
                "`SESSION_INFO|S`",
                "`SESSION_OK|{session_id,service_name,instance_name,connected_at,uptime_seconds,routes_active,routes_staged,last_activity,last_apply,metadata}`",
            ],
            commands: vec![("SESSION_INFO|S", s(Request::SessionInfo))],
            replies: vec![
                (
                    r#"SESSION_OK|{"session_id":"shop-1-1734690123456-77aa","service_name":"shop","instance_name":"shop-1","connected_at":"2025-01-01T00:00:00Z","uptime_seconds":60,"routes_active":1,"routes_staged":2,"last_activity":"2025-01-01T00:01:00Z","last_apply":"2025-01-01T00:00:01Z","metadata":{"version":"1.2"}}"#,
                    Reply::SessionInfo(Box::new(info)),
                ),
                (
                    r#"SESSION_OK|{"session_id":"shop-1-1734690123456-77aa","service_name":"shop","instance_name":"shop-1","connected_at":"2025-01-01T00:00:00Z","uptime_seconds":60,"routes_active":1,"routes_staged":2,"last_activity":"2025-01-01T00:01:00Z","last_apply":"2025-01-01T00:00:01Z","metadata":{"version":"1.2"},"revision":7,"server":"registry-server/0.1.0","cluster_id":"c1","capabilities":["route_list.after"]}"#,
                    Reply::SessionInfo(Box::new(ours)),
                ),
            ],
        },
        Row {
            document: ["`CLIENT_SHUTDOWN|S`", "`SHUTDOWN_OK`"],
            commands: vec![("CLIENT_SHUTDOWN|S", s(Request::ClientShutdown))],
            replies: vec![("SHUTDOWN_OK", Reply::ShutdownOk)],
        },
    ]
}

fn route_rows() -> Vec<Row> {
    let update = |change| s(Request::RouteUpdate { route: r(1), change });
    let list = |compressed, after| s(Request::RouteList { compressed, after });
    let entry = RouteEntry {
        route_id: r(1),
        domains: vec!["shop.example.com".to_owned()],
        path: "/api".to_owned(),
        backend: "http://10.2.2.7:8080/".to_owned(),
        priority: 10,
        status: RouteStatus::Active,
    };
    let staged = RouteEntry { route_id: r(2), status: RouteStatus::Staged, ..entry.clone() };
    let going = RouteEntry { route_id: r(3), status: RouteStatus::PendingRemoval, ..entry.clone() };
    vec![
        Row {
            document: ["`ROUTE_ADD|S|d1,d2|path|backend_url|priority`", "`ROUTE_OK|r1`"],
            commands: vec![(
                "ROUTE_ADD|S|shop.example.com,*.shop.example.com|/api|http://10.2.2.7:8080/|10",
                s(Request::RouteAdd(shop())),
            )],
            replies: vec![("ROUTE_OK|r1", Reply::RouteAdded(r(1)))],
        },
        Row {
            document: [
                "`ROUTE_ADD_BULK|S|[{domains,path,backend_url,priority}]`",
                "`ROUTE_BULK_OK|[{route_id,status}]`",
            ],
            commands: vec![(
                r#"ROUTE_ADD_BULK|S|[{"domains":["shop.example.com","*.shop.example.com"],"path":"/api","backend_url":"http://10.2.2.7:8080/","priority":10}]"#,
                s(Request::RouteAddBulk(vec![shop()])),
            )],
            replies: vec![(
                r#"ROUTE_BULK_OK|[{"route_id":"r1","status":"ok"},{"route_id":"r2","status":"ok"}]"#,
                Reply::RoutesAdded(vec![r(1), r(2)]),
            )],
        },
        Row {
            document: ["`ROUTE_UPDATE|S|r1|field|value`", "`ROUTE_OK`"],
            commands: vec![
                (
                    "ROUTE_UPDATE|S|r1|backend_url|http://10.2.2.7:8080/",
                    update(RouteChange::Backend(shop().backend)),
                ),
                ("ROUTE_UPDATE|S|r1|priority|-5", update(RouteChange::Priority(-5))),
                (
                    "ROUTE_UPDATE|S|r1|domains|a.de,b.de",
                    update(RouteChange::Domains(domains(&["a.de", "b.de"]))),
                ),
                ("ROUTE_UPDATE|S|r1|path|/api", update(RouteChange::Path(shop().path))),
            ],
            replies: vec![("ROUTE_OK", Reply::RouteOk)],
        },
        Row {
            document: ["`ROUTE_REMOVE|S|r1`", "`ROUTE_OK`"],
            commands: vec![("ROUTE_REMOVE|S|r1", s(Request::RouteRemove(r(1))))],
            replies: vec![("ROUTE_OK", Reply::RouteOk)],
        },
        Row {
            document: [
                "`ROUTE_LIST|S|[compressed]`",
                "`ROUTE_LIST_OK|[{route_id,domains,path,backend,priority,status}]`",
            ],
            commands: vec![
                ("ROUTE_LIST|S", list(false, None)),
                ("ROUTE_LIST|S|compressed", list(true, None)),
                ("ROUTE_LIST|S||after=r500", list(false, Some(r(500)))),
                ("ROUTE_LIST|S|compressed|after=r500", list(true, Some(r(500)))),
            ],
            replies: vec![
                ("ROUTE_LIST_OK|[]", Reply::RouteList(vec![])),
                (
                    r#"ROUTE_LIST_OK|[{"route_id":"r1","domains":["shop.example.com"],"path":"/api","backend":"http://10.2.2.7:8080/","priority":10,"status":"active"},{"route_id":"r2","domains":["shop.example.com"],"path":"/api","backend":"http://10.2.2.7:8080/","priority":10,"status":"staged"},{"route_id":"r3","domains":["shop.example.com"],"path":"/api","backend":"http://10.2.2.7:8080/","priority":10,"status":"pending_removal"}]"#,
                    Reply::RouteList(vec![entry, staged, going]),
                ),
                (
                    "ROUTE_LIST_OK|H4sIAAAAAAAA/4uOBQApu0wNAgAAAA==",
                    Reply::RouteListCompressed("H4sIAAAAAAAA/4uOBQApu0wNAgAAAA==".to_owned()),
                ),
            ],
        },
    ]
}

fn setting_rows() -> Vec<Row> {
    let option = |option| s(Request::OptionsSet { target: Target::All, option });
    let of = |key, text| option(RouteOption::parse(key, text).unwrap());
    let without = |key| s(Request::OptionsRemove { target: Target::All, key });
    let check = |interval| {
        let check = HealthCheck { path: "/health?deep=1".parse().unwrap(), interval, timeout: secs(5) };
        s(Request::HealthSet { route: r(1), check })
    };
    let limit = |target, requests| {
        s(Request::RateLimitSet { target, limit: RateLimit { requests, window: secs(60) } })
    };
    let breaker = |target, threshold| {
        let breaker = CircuitBreaker { threshold, timeout: secs(30), half_open_requests: 3 };
        s(Request::CircuitBreakerSet { target, breaker })
    };
    let status = |state| {
        Reply::CircuitStatus(CircuitStatus {
            state,
            failures: 5,
            successes: 1,
            last_failure: "2025-01-01T00:00:00Z".to_owned(),
            next_attempt: "2025-01-01T00:00:30Z".to_owned(),
            healthy: true,
            in_maintenance: false,
            draining: false,
        })
    };
    let one = RouteOrAll::Route(r(1));
    vec![
        Row {
            document: ["`HEADERS_SET|S|T|name|value`", "`HEADERS_OK`"],
            commands: vec![
                (
                    "HEADERS_SET|S|ALL|X-Frame-Options|SAMEORIGIN",
                    s(Request::HeadersSet {
                        target: Target::All,
                        name: "X-Frame-Options".parse().unwrap(),
                        value: "SAMEORIGIN".parse().unwrap(),
                    }),
                ),
                (
                    "HEADERS_SET|S|r1,/admin,admin.example.com,SERVICE|X-A|b | c",
                    s(Request::HeadersSet {
                        target: targets(),
                        name: "X-A".parse().unwrap(),
                        value: "b | c".parse().unwrap(),
                    }),
                ),
            ],
            replies: vec![("HEADERS_OK", Reply::HeadersOk)],
        },
        Row {
            document: ["`HEADERS_REMOVE|S|T|name`", "`HEADERS_OK`"],
            commands: vec![(
                "HEADERS_REMOVE|S|r1|X-A",
                s(Request::HeadersRemove { target: Target::route(r(1)), name: "X-A".parse().unwrap() }),
            )],
            replies: vec![("HEADERS_OK", Reply::HeadersOk)],
        },
        Row {
            document: ["`OPTIONS_SET|S|T|key|value`", "`OPTIONS_OK`"],
            commands: vec![
                ("OPTIONS_SET|S|ALL|timeout|1m30s", option(RouteOption::Timeout(secs(90)))),
                (
                    "OPTIONS_SET|S|ALL|health_check_interval|30s",
                    option(RouteOption::HealthCheckInterval(secs(30))),
                ),
                (
                    "OPTIONS_SET|S|ALL|health_check_timeout|5s",
                    option(RouteOption::HealthCheckTimeout(secs(5))),
                ),
                ("OPTIONS_SET|S|ALL|websocket|false", option(RouteOption::Websocket(false))),
                ("OPTIONS_SET|S|ALL|preserve_host|true", option(RouteOption::PreserveHost(true))),
                ("OPTIONS_SET|S|ALL|compression|true", option(RouteOption::Compression(true))),
                ("OPTIONS_SET|S|ALL|http2|true", option(RouteOption::Http2(true))),
                ("OPTIONS_SET|S|ALL|http3|true", option(RouteOption::Http3(true))),
                ("OPTIONS_SET|S|ALL|hold|0s", option(RouteOption::Hold(GoDuration::ZERO))),
                ("OPTIONS_SET|S|ALL|health_host|a.example", of(OptionKey::HealthHost, "a.example")),
                ("OPTIONS_SET|S|ALL|health_status|200-299,404", of(OptionKey::HealthStatus, "200-299,404")),
                ("OPTIONS_SET|S|ALL|health_rise|2", of(OptionKey::HealthRise, "2")),
                ("OPTIONS_SET|S|ALL|health_fall|5", of(OptionKey::HealthFall, "5")),
                ("OPTIONS_SET|S|ALL|strip_prefix|true", option(RouteOption::StripPrefix(true))),
                ("OPTIONS_SET|S|ALL|sticky|true", option(RouteOption::Sticky(true))),
                ("OPTIONS_SET|S|ALL|redirect|a.example", of(OptionKey::Redirect, "a.example")),
                ("OPTIONS_SET|S|ALL|allow_from|10.0.0.0/8", of(OptionKey::AllowFrom, "10.0.0.0/8")),
                ("OPTIONS_SET|S|ALL|body_limit|10m", of(OptionKey::BodyLimit, "10m")),
                ("OPTIONS_SET|S|ALL|weight|5", of(OptionKey::Weight, "5")),
                ("OPTIONS_SET|S|ALL|auth|forward http://a/", of(OptionKey::Auth, "forward http://a/")),
            ],
            replies: vec![("OPTIONS_OK", Reply::OptionsOk)],
        },
        Row {
            document: ["`OPTIONS_REMOVE|S|T|key`", "`OPTIONS_OK`"],
            commands: vec![
                ("OPTIONS_REMOVE|S|ALL|timeout", without(OptionKey::Timeout)),
                ("OPTIONS_REMOVE|S|ALL|hold", without(OptionKey::Hold)),
            ],
            replies: vec![("OPTIONS_OK", Reply::OptionsOk)],
        },
        Row {
            document: ["`HEALTH_SET|S|r1|path|interval|timeout`", "`HEALTH_OK`"],
            commands: vec![
                ("HEALTH_SET|S|r1|/health?deep=1|30s|5s", check(secs(30))),
                ("HEALTH_SET|S|r1|/health?deep=1|0s|5s", check(GoDuration::ZERO)),
            ],
            replies: vec![("HEALTH_OK", Reply::HealthOk)],
        },
        Row {
            document: ["`RATELIMIT_SET|S|r1 or ALL|requests|window`", "`RATELIMIT_OK`"],
            commands: vec![
                ("RATELIMIT_SET|S|r1|100|1m", limit(one, 100)),
                ("RATELIMIT_SET|S|ALL|0|1m", limit(RouteOrAll::All, 0)),
            ],
            replies: vec![("RATELIMIT_OK", Reply::RateLimitOk)],
        },
        Row {
            document: [
                "`CIRCUIT_BREAKER_SET|S|r1 or ALL|threshold|timeout|half_open_requests`",
                "`CIRCUIT_OK`",
            ],
            commands: vec![
                ("CIRCUIT_BREAKER_SET|S|ALL|5|30s|3", breaker(RouteOrAll::All, 5)),
                ("CIRCUIT_BREAKER_SET|S|r1|0|30s|3", breaker(one, 0)),
            ],
            replies: vec![("CIRCUIT_OK", Reply::CircuitOk)],
        },
        Row {
            document: [
                "`CIRCUIT_BREAKER_STATUS|S|r1`",
                "`CIRCUIT_STATUS_OK|{state,failures,successes,last_failure,next_attempt,healthy,in_maintenance,draining}`",
            ],
            commands: vec![("CIRCUIT_BREAKER_STATUS|S|r1", s(Request::CircuitBreakerStatus(r(1))))],
            replies: vec![
                (
                    r#"CIRCUIT_STATUS_OK|{"state":"closed","failures":5,"successes":1,"last_failure":"2025-01-01T00:00:00Z","next_attempt":"2025-01-01T00:00:30Z","healthy":true,"in_maintenance":false,"draining":false}"#,
                    status(CircuitState::Closed),
                ),
                (
                    r#"CIRCUIT_STATUS_OK|{"state":"open","failures":5,"successes":1,"last_failure":"2025-01-01T00:00:00Z","next_attempt":"2025-01-01T00:00:30Z","healthy":true,"in_maintenance":false,"draining":false}"#,
                    status(CircuitState::Open),
                ),
                (
                    r#"CIRCUIT_STATUS_OK|{"state":"half_open","failures":5,"successes":1,"last_failure":"2025-01-01T00:00:00Z","next_attempt":"2025-01-01T00:00:30Z","healthy":true,"in_maintenance":false,"draining":false}"#,
                    status(CircuitState::HalfOpen),
                ),
            ],
        },
        Row {
            document: ["`CIRCUIT_BREAKER_RESET|S|r1`", "`CIRCUIT_OK`"],
            commands: vec![("CIRCUIT_BREAKER_RESET|S|r1", s(Request::CircuitBreakerReset(r(1))))],
            replies: vec![("CIRCUIT_OK", Reply::CircuitOk)],
        },
    ]
}

fn config_rows() -> Vec<Row> {
    let why = || {
        let text = "route r2: example.com/ belongs to service X";
        ("ERROR|route r2: example.com/ belongs to service X", Reply::Error(Refusal::Other(text.to_owned())))
    };
    let every_scope =
        vec![Scope::Routes, Scope::Headers, Scope::Options, Scope::Health, Scope::RateLimit, Scope::Circuit];
    let diff = Diff {
        routes: RouteDiff {
            added: [r(3), r(4)].into_iter().collect(),
            removed: [r(1)].into_iter().collect(),
            modified: [].into_iter().collect(),
        },
        headers: HeaderDiff { added: 1, removed: 2 },
        options: Modified { modified: 3 },
        health: Modified { modified: 4 },
        ratelimit: Modified { modified: 5 },
        circuit: Modified { modified: 6 },
    };
    vec![
        Row {
            document: ["`CONFIG_VALIDATE|S`", "`OK` or `ERROR|route r2: why`"],
            commands: vec![("CONFIG_VALIDATE|S", s(Request::ConfigValidate))],
            replies: vec![("OK", Reply::Ok), why()],
        },
        Row {
            document: ["`CONFIG_APPLY|S`", "`OK` or `ERROR|route r2: why`"],
            commands: vec![("CONFIG_APPLY|S", s(Request::ConfigApply))],
            replies: vec![("OK", Reply::Ok), why()],
        },
        Row {
            document: ["`CONFIG_APPLY_PARTIAL|S|scopes`", "`OK`"],
            commands: vec![(
                "CONFIG_APPLY_PARTIAL|S|routes,headers,options,health,ratelimit,circuit",
                s(Request::ConfigApplyPartial(every_scope)),
            )],
            replies: vec![("OK", Reply::Ok)],
        },
        Row {
            document: ["`CONFIG_ROLLBACK|S`", "`OK`"],
            commands: vec![("CONFIG_ROLLBACK|S", s(Request::ConfigRollback))],
            replies: vec![("OK", Reply::Ok)],
        },
        Row {
            document: [
                "`CONFIG_DIFF|S`",
                "`DIFF_OK|{routes:{added,removed,modified},headers:{added,removed},options:{modified},health:{modified},ratelimit:{modified},circuit:{modified}}`",
            ],
            commands: vec![("CONFIG_DIFF|S", s(Request::ConfigDiff))],
            replies: vec![(
                r#"DIFF_OK|{"routes":{"added":["r3","r4"],"removed":["r1"],"modified":[]},"headers":{"added":1,"removed":2},"options":{"modified":3},"health":{"modified":4},"ratelimit":{"modified":5},"circuit":{"modified":6}}"#,
                Reply::Diff(Box::new(diff)),
            )],
        },
    ]
}

fn drain_and_maintenance_rows() -> Vec<Row> {
    let none = || ("ERROR|no drain in progress", Reply::Error(Refusal::NoDrain));
    let reference = DrainStatus {
        active: true,
        started_at: "2025-01-01T00:00:00Z".to_owned(),
        duration_seconds: 30.0,
        elapsed_seconds: 7.5,
        remaining_seconds: 22.5,
        traffic_percent: 75.0,
        in_flight: None,
        upgraded: None,
    };
    let ours = DrainStatus { in_flight: Some(4), upgraded: Some(1), ..reference.clone() };
    let maintenance = MaintenanceStatus {
        in_maintenance: vec!["r1".to_owned(), "r2".to_owned()],
        maintenance_backend: "http://10.2.2.7:3001/".to_owned(),
        entered_at: "2025-01-01T00:00:00Z".to_owned(),
    };
    let enter = |target, page: Option<&str>| {
        s(Request::MaintEnter { target, page: page.map(|page| page.parse().unwrap()) })
    };
    vec![
        Row {
            document: ["`DRAIN_START|S|duration`", "`DRAIN_OK|<RFC 3339>`"],
            commands: vec![
                ("DRAIN_START|S|30s", s(Request::DrainStart(secs(30)))),
                ("DRAIN_START|S|0s", s(Request::DrainStart(GoDuration::ZERO))),
            ],
            replies: vec![(
                "DRAIN_OK|2025-01-01T00:00:30Z",
                Reply::DrainStarted("2025-01-01T00:00:30Z".to_owned()),
            )],
        },
        Row {
            document: [
                "`DRAIN_STATUS|S`",
                "`DRAIN_STATUS_OK|{active,started_at,duration_seconds,elapsed_seconds,remaining_seconds,traffic_percent}` or `ERROR|no drain in progress`",
            ],
            commands: vec![("DRAIN_STATUS|S", s(Request::DrainStatus))],
            replies: vec![
                (
                    r#"DRAIN_STATUS_OK|{"active":true,"started_at":"2025-01-01T00:00:00Z","duration_seconds":30.0,"elapsed_seconds":7.5,"remaining_seconds":22.5,"traffic_percent":75.0}"#,
                    Reply::DrainStatus(reference),
                ),
                (
                    r#"DRAIN_STATUS_OK|{"active":true,"started_at":"2025-01-01T00:00:00Z","duration_seconds":30.0,"elapsed_seconds":7.5,"remaining_seconds":22.5,"traffic_percent":75.0,"in_flight":4,"upgraded":1}"#,
                    Reply::DrainStatus(ours),
                ),
                none(),
            ],
        },
        Row {
            document: ["`DRAIN_CANCEL|S`", "`DRAIN_OK` or `ERROR|no drain in progress`"],
            commands: vec![("DRAIN_CANCEL|S", s(Request::DrainCancel))],
            replies: vec![("DRAIN_OK", Reply::DrainOk), none()],
        },
        Row {
            document: ["`MAINT_ENTER|S|T|[page_url]`", "`ACK`"],
            commands: vec![
                ("MAINT_ENTER|S|ALL|", enter(Target::All, None)),
                (
                    "MAINT_ENTER|S|r1|http://10.2.2.7:3001/",
                    enter(Target::route(r(1)), Some("http://10.2.2.7:3001")),
                ),
            ],
            replies: vec![("ACK", Reply::MaintenanceAck)],
        },
        Row {
            document: ["`MAINT_EXIT|S|T`", "`ACK`"],
            commands: vec![(
                "MAINT_EXIT|S|r1,/admin,admin.example.com,SERVICE",
                s(Request::MaintExit(targets())),
            )],
            replies: vec![("ACK", Reply::MaintenanceAck)],
        },
        Row {
            document: [
                "`MAINT_STATUS|S|[after=r500]`",
                "`MAINT_STATUS_OK|{in_maintenance,maintenance_backend,entered_at}`",
            ],
            commands: vec![
                ("MAINT_STATUS|S", s(Request::MaintStatus)),
                ("MAINT_STATUS|S|after=r500", s(Request::MaintStatusPage { after: r(500) })),
            ],
            replies: vec![(
                r#"MAINT_STATUS_OK|{"in_maintenance":["r1","r2"],"maintenance_backend":"http://10.2.2.7:3001/","entered_at":"2025-01-01T00:00:00Z"}"#,
                Reply::MaintenanceStatus(maintenance),
            )],
        },
    ]
}

fn observing_rows() -> Vec<Row> {
    let stats = Stats {
        route_id: r(1),
        requests: 100,
        errors: 2,
        avg_latency_ms: 12.5,
        p95_latency_ms: 40.0,
        p99_latency_ms: 80.25,
        bytes_sent: 4096,
        bytes_received: 512,
        status_codes: json!({ "200": 98, "502": 2 }).as_object().unwrap().clone(),
    };
    let backend =
        BackendReport { reachable: true, response_time_ms: 1.5, status_code: 200, tls_valid: false };
    let kinds = [
        EventKind::BackendHealthChanged,
        EventKind::GlobalConfigChanged,
        EventKind::CertRenewed,
        EventKind::All,
    ];
    let subscribe = [
        "SUBSCRIBE|S|backend_health_changed",
        "SUBSCRIBE|S|global_config_changed",
        "SUBSCRIBE|S|cert_renewed",
        "SUBSCRIBE|S|all",
    ];
    vec![
        Row {
            document: [
                "`STATS_GET|S|[r1 or ALL]|[after=r500]`",
                "`STATS_OK|{route_id,requests,errors,avg_latency_ms,p95_latency_ms,p99_latency_ms,bytes_sent,bytes_received,status_codes}`",
            ],
            commands: vec![
                ("STATS_GET|S|r1", s(Request::StatsGet(RouteOrAll::Route(r(1))))),
                ("STATS_GET|S|ALL", s(Request::StatsGet(RouteOrAll::All))),
                ("STATS_GET|S||after=r500", s(Request::StatsPage { after: r(500) })),
            ],
            replies: vec![
                (
                    r#"STATS_OK|{"route_id":"r1","requests":100,"errors":2,"avg_latency_ms":12.5,"p95_latency_ms":40.0,"p99_latency_ms":80.25,"bytes_sent":4096,"bytes_received":512,"status_codes":{"200":98,"502":2}}"#,
                    Reply::Stats(Box::new(stats.clone())),
                ),
                (
                    r#"STATS_OK|[{"route_id":"r1","requests":100,"errors":2,"avg_latency_ms":12.5,"p95_latency_ms":40.0,"p99_latency_ms":80.25,"bytes_sent":4096,"bytes_received":512,"status_codes":{"200":98,"502":2}}]"#,
                    Reply::StatsAll(vec![stats]),
                ),
            ],
        },
        Row {
            document: [
                "`BACKEND_TEST|S|url`",
                "`BACKEND_OK|{reachable,response_time_ms,status_code,tls_valid}` or `BACKEND_FAIL|{reachable,error}`",
            ],
            commands: vec![(
                "BACKEND_TEST|S|https://app:8443/",
                s(Request::BackendTest("https://app:8443".parse().unwrap())),
            )],
            replies: vec![
                (
                    r#"BACKEND_OK|{"reachable":true,"response_time_ms":1.5,"status_code":200,"tls_valid":false}"#,
                    Reply::BackendOk(backend),
                ),
                (
                    r#"BACKEND_FAIL|{"error":"connection refused","reachable":false}"#,
                    Reply::BackendFail("connection refused".to_owned()),
                ),
            ],
        },
        Row {
            document: ["`SUBSCRIBE|S|type`", "`SUBSCRIBE_OK`"],
            commands: subscribe.into_iter().zip(kinds.map(|kind| s(Request::Subscribe(kind)))).collect(),
            replies: vec![("SUBSCRIBE_OK", Reply::SubscribeOk)],
        },
        Row {
            document: ["`UNSUBSCRIBE|S|type`", "`UNSUBSCRIBE_OK`"],
            commands: vec![("UNSUBSCRIBE|S|all", s(Request::Unsubscribe(EventKind::All)))],
            replies: vec![("UNSUBSCRIBE_OK", Reply::UnsubscribeOk)],
        },
    ]
}

fn rows() -> Vec<Row> {
    [
        session_rows(),
        route_rows(),
        setting_rows(),
        config_rows(),
        drain_and_maintenance_rows(),
        observing_rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn every_row_of_section_3_is_what_the_document_says() {
    let document = document_rows("## 3.", "| command | reply | notes |");
    let rows = rows();
    assert_eq!(document.len(), rows.len());
    for (cells, row) in document.iter().zip(&rows) {
        assert_eq!(cells[..2], row.document);
    }
}

#[test]
fn every_command_line_is_the_value_beside_it() {
    for (line, command) in rows().into_iter().flat_map(|row| row.commands) {
        assert_eq!(Command::parse(line).as_ref(), Ok(&command), "{line}");
        assert_eq!(command.encode(), line);
    }
}

#[test]
fn every_reply_line_is_the_value_beside_it() {
    for (line, reply) in rows().into_iter().flat_map(|row| row.replies) {
        assert_eq!(reply.encode(), line);
        assert_eq!(ServerLine::parse(line), Ok(reply.into()), "{line}");
    }
}

#[test]
fn all_34_commands_and_every_reply_are_in_the_table() {
    let rows = rows();
    let names: Vec<_> = rows.iter().map(|row| variants::command(&row.commands[0].1)).collect();
    assert_eq!(names, variants::COMMANDS);
    for row in &rows {
        assert!(row.document[0].trim_matches('`').starts_with(variants::command(&row.commands[0].1)));
        assert!(
            row.commands.iter().all(|(_, c)| variants::command(c) == variants::command(&row.commands[0].1))
        );
    }
    let shown: Vec<_> = rows.iter().flat_map(|row| &row.replies).map(|(_, r)| variants::reply(r)).collect();
    for reply in variants::REPLIES {
        assert!(shown.contains(reply), "{reply} is in no row");
    }
}

#[test]
fn every_error_text_of_section_3_is_the_value_beside_it() {
    let x = || "X".to_owned();
    let errors = [
        ("no session", Refusal::NoSession),
        ("session not found", Refusal::SessionNotFound),
        ("session replaced", Refusal::SessionReplaced),
        ("unknown command: X", Refusal::UnknownCommand(x())),
        ("invalid format", Refusal::InvalidFormat),
        ("invalid metadata json", Refusal::InvalidMetadataJson),
        ("invalid json", Refusal::InvalidJson),
        ("route not found", Refusal::RouteNotFound),
        ("unknown field", Refusal::UnknownField),
        ("no domains specified", Refusal::NoDomains),
        ("path cannot be empty", Refusal::EmptyPath),
        ("invalid backend url format", Refusal::InvalidBackendUrl),
        ("circuit breaker not found", Refusal::CircuitBreakerNotFound),
        ("no drain in progress", Refusal::NoDrain),
        ("unknown target: X", Refusal::UnknownTarget(x())),
        ("invalid duration: X", Refusal::InvalidDuration(x())),
        ("not allowed: X", Refusal::NotAllowed(x())),
        ("store unavailable", Refusal::StoreUnavailable),
        ("line too long", Refusal::LineTooLong),
        ("response too large", Refusal::ResponseTooLarge),
    ];
    let document = document_rows("## 3.", "| text | when |");
    assert_eq!(document.len(), errors.len());
    for (cells, (text, refusal)) in document.iter().zip(&errors) {
        assert_eq!(cells[0].trim_matches('`'), *text);
        let line = format!("ERROR|{text}");
        assert_eq!(Reply::Error(refusal.clone()).encode(), line);
        assert_eq!(ServerLine::parse(&line), Ok(Reply::Error(refusal.clone()).into()));
    }
    // One that the document does not have is kept as it is.
    let other = Reply::Error(Refusal::Other("backend status unavailable".to_owned()));
    assert_eq!(ServerLine::parse("ERROR|backend status unavailable"), Ok(other.into()));
    assert_eq!(errors.len() + 1, variants::REFUSALS.len());
}

#[test]
fn every_asynchronous_line_of_section_6_is_the_value_beside_it() {
    let event = Push::Event(EventKind::BackendHealthChanged, json!({ "route_id": "r1", "healthy": false }));
    let pushes = [
        ("`MAINT_OK|T`", "MAINT_OK|r1,/admin,admin.example.com,SERVICE", Push::MaintenanceOk(targets())),
        (
            "`ERROR|timeout waiting for maintenance page to become reachable`",
            "ERROR|timeout waiting for maintenance page to become reachable",
            Push::PageTimeout,
        ),
        (
            "`ERROR|timeout waiting for backend to become reachable`",
            "ERROR|timeout waiting for backend to become reachable",
            Push::BackendTimeout,
        ),
        (
            "`ERROR|maintenance request superseded`",
            "ERROR|maintenance request superseded",
            Push::MaintenanceSuperseded,
        ),
        ("`EVENT|type|{json}`", r#"EVENT|backend_health_changed|{"healthy":false,"route_id":"r1"}"#, event),
        ("`SHUTDOWN`", "SHUTDOWN", Push::Shutdown),
    ];
    let document = document_rows("## 6.", "| line | when |");
    assert_eq!(document.len(), pushes.len());
    for (cells, (quoted, line, push)) in document.iter().zip(pushes) {
        assert_eq!(cells[0], quoted);
        assert_eq!(push.encode(), line);
        assert_eq!(ServerLine::parse(line), Ok(push.into()), "{line}");
    }
    // One whose type the document does not have is kept as it is.
    let other = Push::OtherEvent("gossip|{}".to_owned());
    assert_eq!(ServerLine::parse("EVENT|gossip|{}"), Ok(other.into()));
    assert_eq!(document.len() + 1, variants::PUSHES.len());
}

#[test]
fn every_option_of_section_5_is_in_the_document() {
    let document = document_rows("## 5.", "| key | default | meaning |");
    let keys: Vec<_> = document.iter().flat_map(|cells| cells[0].split(", ")).collect();
    assert_eq!(keys, OptionKey::ALL.map(|key| format!("`{key}`")));
}
