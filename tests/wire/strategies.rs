//! Any value of the protocol: each strategy covers every variant, which a test of the properties checks.
//! Most are boxed, because strategies that hold each other by value outgrow the stack.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use registry_client::protocol::report::{
    BackendReport, CircuitState, CircuitStatus, Diff, DrainStatus, HeaderDiff, IdsOrCount, MaintenanceStatus,
    Modified, RouteDiff, RouteEntry, RouteStatus, SessionInfo, Stats,
};
use registry_client::protocol::{
    BackendUrl, CircuitBreaker, Command, Domain, Domains, EventKind, GoDuration, HeaderName, HeaderValue,
    HealthCheck, HealthPath, InstanceName, Metadata, OptionKey, PathPrefix, Push, RateLimit, Refusal,
    Registration, Reply, Request, RouteChange, RouteId, RouteOption, RouteOrAll, RouteSpec, Scope,
    ServerLine, ServiceName, SessionId, SessionRef, Target, TargetItem,
};
use serde_json::{Map, Value};

/// `cases` of a property, or PROPTEST_CASES if that is more. The seed of one that fails is kept beside the test, and tried first from then on.
pub(super) fn cases(cases: u32) -> ProptestConfig {
    let persistence = FileFailurePersistence::WithSource("regressions");
    let default = ProptestConfig::default();
    let more = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 0 };
    ProptestConfig { cases: cases.max(more), failure_persistence: Some(Box::new(persistence)), ..default }
}

fn parsed<T>(text: impl Strategy<Value = String>) -> impl Strategy<Value = T>
where
    T: std::str::FromStr + std::fmt::Debug,
    T::Err: std::fmt::Debug,
{
    text.prop_map(|text| text.parse().unwrap())
}

/// Text that may stand in a field.
pub(super) fn field_text() -> impl Strategy<Value = String> {
    "[^|\\p{Cc}]{0,40}"
}

fn name_text() -> impl Strategy<Value = String> {
    field_text().prop_filter("a name is not blank", |text| !text.trim().is_empty())
}

pub(super) fn service() -> impl Strategy<Value = ServiceName> {
    parsed(name_text())
}

pub(super) fn instance() -> impl Strategy<Value = InstanceName> {
    parsed(name_text())
}

pub(super) fn session_id() -> impl Strategy<Value = SessionId> {
    parsed(prop_oneof!["[a-z0-9]{1,9}-[0-9]{13}-[0-9a-f]{32}", name_text()])
}

pub(super) fn domain() -> BoxedStrategy<Domain> {
    parsed("(\\*\\.)?([a-z0-9_]([a-z0-9_-]{0,9}[a-z0-9_])?\\.){0,3}[a-z0-9_]{1,9}").boxed()
}

pub(super) fn domains() -> impl Strategy<Value = Domains> {
    vec(domain(), 1..5).prop_map(|domains| Domains::new(domains).unwrap())
}

fn path_text(segment: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![1 => Just("/".to_owned()), 4 => vec(segment, 1..4).prop_map(|segments| segments.concat())]
}

/// No segment is a dot or two, because each starts with a letter; no escape is needless.
pub(super) fn path() -> BoxedStrategy<PathPrefix> {
    parsed(path_text("/[a-zA-Z][a-zA-Z0-9._~!$&'()*+,;=:@-]{0,9}(%2[Ff]|%[Ff]0)?")).boxed()
}

pub(super) fn backend() -> BoxedStrategy<BackendUrl> {
    let host = prop_oneof![
        "([a-zA-Z0-9_-]{1,9}\\.){0,2}[a-z_][a-z0-9_-]{0,9}\\.?",
        any::<Ipv4Addr>().prop_map(|ip| ip.to_string()),
        any::<Ipv6Addr>().prop_map(|ip| format!("[{ip}]")),
    ];
    let scheme = prop_oneof![Just("http"), Just("https"), Just("ws"), Just("wss"), Just("h2c")];
    let port = option::of(prop_oneof![1..=u16::MAX, Just(80), Just(443)]);
    let path = prop_oneof![Just(String::new()), path_text("/[a-zA-Z0-9._~,;=%-]{0,9}")];
    (scheme, host, port, path)
        .prop_map(|(scheme, host, port, path)| {
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            format!("{scheme}://{host}{port}{path}").parse().unwrap()
        })
        .boxed()
}

pub(super) fn duration() -> BoxedStrategy<GoDuration> {
    let nanos = prop_oneof![
        0..=i64::MAX as u64,
        0..5_000_000_000u64,
        (0..100_000u64).prop_map(|seconds| seconds * 1_000_000_000),
        Just(i64::MAX as u64),
    ];
    nanos.prop_map(|nanos| GoDuration::try_from(Duration::from_nanos(nanos)).unwrap()).boxed()
}

fn non_zero() -> impl Strategy<Value = GoDuration> {
    duration().prop_filter("more than zero", |duration| !duration.is_zero())
}

pub(super) fn route_id() -> impl Strategy<Value = RouteId> {
    prop_oneof![1..20u32, 1..=u32::MAX].prop_map(RouteId)
}

fn route_or_all() -> impl Strategy<Value = RouteOrAll> {
    prop_oneof![Just(RouteOrAll::All), route_id().prop_map(RouteOrAll::Route)]
}

fn target_item() -> impl Strategy<Value = TargetItem> {
    let path = path().prop_filter("a comma separates targets", |path| !path.as_str().contains(','));
    let domain = domain()
        .prop_filter("a route id is read as one", |domain| domain.as_str().parse::<RouteId>().is_err());
    prop_oneof![
        route_id().prop_map(TargetItem::Route),
        path.prop_map(TargetItem::Path),
        domain.prop_map(TargetItem::Domain),
        Just(TargetItem::Service),
    ]
}

pub(super) fn target() -> BoxedStrategy<Target> {
    prop_oneof![1 => Just(Target::All), 3 => vec(target_item(), 1..4).prop_map(Target::Some)].boxed()
}

pub(super) fn header_name() -> impl Strategy<Value = HeaderName> {
    parsed("[A-Za-z0-9!#$%&'*+.^_`~-]{1,20}")
}

/// With separators and blanks anywhere.
pub(super) fn header_value() -> impl Strategy<Value = HeaderValue> {
    parsed("[ -~\t]{0,30}")
}

pub(super) fn health_path() -> impl Strategy<Value = HealthPath> {
    parsed("/[!-\"$-{}~]{0,20}")
}

pub(super) fn option_key() -> impl Strategy<Value = OptionKey> {
    proptest::sample::select(OptionKey::ALL.to_vec())
}

pub(super) fn route_option() -> BoxedStrategy<RouteOption> {
    (option_key(), any::<bool>(), non_zero(), duration(), any::<usize>())
        .prop_map(|(key, flag, time, any_time, count)| match key {
            OptionKey::Timeout => RouteOption::Timeout(time),
            OptionKey::HealthCheckInterval => RouteOption::HealthCheckInterval(any_time),
            OptionKey::HealthCheckTimeout => RouteOption::HealthCheckTimeout(time),
            OptionKey::Websocket => RouteOption::Websocket(flag),
            OptionKey::PreserveHost => RouteOption::PreserveHost(flag),
            OptionKey::Compression => RouteOption::Compression(flag),
            OptionKey::Http2 => RouteOption::Http2(flag),
            OptionKey::Http3 => RouteOption::Http3(flag),
            OptionKey::Hold => RouteOption::Hold(any_time),
            OptionKey::StripPrefix => RouteOption::StripPrefix(flag),
            OptionKey::Sticky => RouteOption::Sticky(flag),
            OptionKey::HealthHost
            | OptionKey::HealthStatus
            | OptionKey::HealthRise
            | OptionKey::HealthFall
            | OptionKey::Redirect
            | OptionKey::AllowFrom
            | OptionKey::BodyLimit
            | OptionKey::Weight
            | OptionKey::Auth => {
                let text = option_texts(key)[count % option_texts(key).len()];
                RouteOption::parse(key, text).unwrap()
            }
        })
        .boxed()
}

/// Values of options that are neither booleans nor durations.
fn option_texts(key: OptionKey) -> &'static [&'static str] {
    match key {
        OptionKey::HealthHost | OptionKey::Redirect => &["example.com", "www.example.com"],
        OptionKey::HealthStatus => &["200", "200-299,404", "100-599"],
        OptionKey::HealthRise | OptionKey::HealthFall => &["1", "2", "100"],
        OptionKey::AllowFrom => &["10.0.0.0/8", "192.0.2.1/32,2001:db8::/32"],
        OptionKey::BodyLimit => &["0", "1000", "10m", "3g"],
        OptionKey::Auth => &[
            "forward http://auth:9091/api/verify?rd=https://login.example.com/",
            "forward https://auth/x X-User,X-Groups",
            "basic alice:$2y$05$UVcTx/RVmOCf4kSBDI3CBe0xhVl2kDXl.NeOn4xCmCl.nCgmG3g6C",
        ],
        OptionKey::Weight => &["0", "5", "1000"],
        _ => &[],
    }
}

/// A setting, or its removal: then the other fields may be zero too.
fn health_check() -> BoxedStrategy<HealthCheck> {
    let times = prop_oneof![(non_zero(), non_zero()), (Just(GoDuration::ZERO), duration())];
    (health_path(), times)
        .prop_map(|(path, (interval, timeout))| HealthCheck { path, interval, timeout })
        .boxed()
}

fn rate_limit() -> BoxedStrategy<RateLimit> {
    prop_oneof![(1..=u32::MAX, non_zero()), (Just(0), duration())]
        .prop_map(|(requests, window)| RateLimit { requests, window })
        .boxed()
}

fn circuit_breaker() -> BoxedStrategy<CircuitBreaker> {
    prop_oneof![(1..=u32::MAX, non_zero(), 1..=u32::MAX), (Just(0), duration(), any::<u32>())]
        .prop_map(|(threshold, timeout, half_open_requests)| CircuitBreaker {
            threshold,
            timeout,
            half_open_requests,
        })
        .boxed()
}

fn json() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        fraction().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a|]{1,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((any::<String>(), inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
    .boxed()
}

fn json_object() -> impl Strategy<Value = Map<String, Value>> {
    let key = prop_oneof![any::<String>(), Just("token".to_owned()), Just("service_token".to_owned())];
    vec((key, json()), 0..4).prop_map(|entries| entries.into_iter().collect())
}

/// Any number that JSON can hold.
fn fraction() -> impl Strategy<Value = f64> {
    use proptest::num::f64::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    prop_oneof![
        POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO,
        (0..1_000_000u32).prop_map(|n| f64::from(n) / 8.0)
    ]
}

pub(super) fn metadata() -> BoxedStrategy<Metadata> {
    json_object().prop_map(Metadata::new).boxed()
}

pub(super) fn registration() -> BoxedStrategy<Registration> {
    (service(), instance(), option::of(1..=u16::MAX), metadata())
        .prop_map(|(service, instance, maintenance_port, metadata)| Registration {
            service,
            instance,
            maintenance_port,
            metadata,
        })
        .boxed()
}

fn route_spec() -> BoxedStrategy<RouteSpec> {
    (domains(), path(), backend(), any::<i32>())
        .prop_map(|(domains, path, backend, priority)| RouteSpec { domains, path, backend, priority })
        .boxed()
}

fn route_change() -> BoxedStrategy<RouteChange> {
    prop_oneof![
        backend().prop_map(RouteChange::Backend),
        any::<i32>().prop_map(RouteChange::Priority),
        domains().prop_map(RouteChange::Domains),
        path().prop_map(RouteChange::Path),
    ]
    .boxed()
}

fn scopes() -> impl Strategy<Value = Vec<Scope>> {
    vec(proptest::sample::select(Scope::ALL_KEYWORDS), 1..7)
}

pub(super) fn event_kind() -> impl Strategy<Value = EventKind> {
    proptest::sample::select(EventKind::ALL_KEYWORDS)
}

pub(super) fn request() -> BoxedStrategy<Request> {
    let bare = proptest::sample::select(vec![
        Request::Ping,
        Request::SessionInfo,
        Request::ClientShutdown,
        Request::ConfigValidate,
        Request::ConfigApply,
        Request::ConfigRollback,
        Request::ConfigDiff,
        Request::DrainStatus,
        Request::DrainCancel,
        Request::MaintStatus,
    ]);
    prop_oneof![8 => bare, 8 => route_request(), 9 => setting_request(), 8 => running_request()].boxed()
}

fn route_request() -> BoxedStrategy<Request> {
    prop_oneof![
        route_spec().prop_map(Request::RouteAdd),
        vec(route_spec(), 0..4).prop_map(Request::RouteAddBulk),
        (route_id(), route_change()).prop_map(|(route, change)| Request::RouteUpdate { route, change }),
        route_id().prop_map(Request::RouteRemove),
        (any::<bool>(), option::of(route_id()))
            .prop_map(|(compressed, after)| Request::RouteList { compressed, after }),
    ]
    .boxed()
}

fn setting_request() -> BoxedStrategy<Request> {
    prop_oneof![
        (target(), header_name(), header_value()).prop_map(|(target, name, value)| Request::HeadersSet {
            target,
            name,
            value
        }),
        (target(), header_name()).prop_map(|(target, name)| Request::HeadersRemove { target, name }),
        (target(), route_option()).prop_map(|(target, option)| Request::OptionsSet { target, option }),
        (target(), option_key()).prop_map(|(target, key)| Request::OptionsRemove { target, key }),
        (route_id(), health_check()).prop_map(|(route, check)| Request::HealthSet { route, check }),
        (route_or_all(), rate_limit()).prop_map(|(target, limit)| Request::RateLimitSet { target, limit }),
        (route_or_all(), circuit_breaker())
            .prop_map(|(target, breaker)| Request::CircuitBreakerSet { target, breaker }),
        route_id().prop_map(Request::CircuitBreakerStatus),
        route_id().prop_map(Request::CircuitBreakerReset),
    ]
    .boxed()
}

fn running_request() -> BoxedStrategy<Request> {
    prop_oneof![
        scopes().prop_map(Request::ConfigApplyPartial),
        duration().prop_map(Request::DrainStart),
        (target(), option::of(backend())).prop_map(|(target, page)| Request::MaintEnter { target, page }),
        target().prop_map(Request::MaintExit),
        route_or_all().prop_map(Request::StatsGet),
        route_id().prop_map(|after| Request::StatsPage { after }),
        route_id().prop_map(|after| Request::MaintStatusPage { after }),
        backend().prop_map(Request::BackendTest),
        event_kind().prop_map(Request::Subscribe),
        event_kind().prop_map(Request::Unsubscribe),
    ]
    .boxed()
}

pub(super) fn command() -> BoxedStrategy<Command> {
    let session = prop_oneof![1 => Just(SessionRef::Own), 3 => session_id().prop_map(SessionRef::Id)];
    prop_oneof![
        1 => registration().prop_map(Command::Register),
        1 => session_id().prop_map(Command::Reconnect),
        16 => (session, request()).prop_map(|(session, request)| Command::Request(session, request)),
    ]
    .boxed()
}

pub(super) fn refusal() -> BoxedStrategy<Refusal> {
    let fixed = proptest::sample::select(vec![
        Refusal::NoSession,
        Refusal::SessionNotFound,
        Refusal::SessionReplaced,
        Refusal::InvalidFormat,
        Refusal::InvalidMetadataJson,
        Refusal::InvalidJson,
        Refusal::RouteNotFound,
        Refusal::UnknownField,
        Refusal::NoDomains,
        Refusal::EmptyPath,
        Refusal::InvalidBackendUrl,
        Refusal::CircuitBreakerNotFound,
        Refusal::NoDrain,
        Refusal::StoreUnavailable,
        Refusal::LineTooLong,
        Refusal::ResponseTooLarge,
    ]);
    prop_oneof![
        16 => fixed,
        1 => field_text().prop_map(Refusal::UnknownCommand),
        1 => field_text().prop_map(Refusal::UnknownTarget),
        1 => field_text().prop_map(Refusal::InvalidDuration),
        1 => field_text().prop_map(Refusal::NotAllowed),
        1 => field_text().prop_map(|text| Refusal::Other(format!("route r2: {text}"))),
    ]
    .boxed()
}

pub(super) fn session_info() -> BoxedStrategy<SessionInfo> {
    let texts = (any::<String>(), any::<String>(), any::<String>(), field_text());
    let ours = (
        option::of(any::<u64>()),
        option::of(field_text()),
        option::of(field_text()),
        option::of(any::<u64>()),
        vec(field_text(), 0..3),
    );
    (texts, any::<[u64; 3]>(), any::<[String; 2]>(), json_object(), ours)
        .prop_map(
            |((session_id, service_name, instance_name, connected_at), counts, times, metadata, ours)| {
                let [uptime_seconds, routes_active, routes_staged] = counts;
                let [last_activity, last_apply] = times;
                let (revision, server, cluster_id, siblings, capabilities) = ours;
                SessionInfo {
                    session_id,
                    service_name,
                    instance_name,
                    connected_at,
                    uptime_seconds,
                    routes_active,
                    routes_staged,
                    last_activity,
                    last_apply,
                    metadata,
                    revision,
                    server,
                    cluster_id,
                    siblings,
                    capabilities,
                }
            },
        )
        .boxed()
}

fn route_entry() -> BoxedStrategy<RouteEntry> {
    let status =
        proptest::sample::select(vec![RouteStatus::Active, RouteStatus::Staged, RouteStatus::PendingRemoval]);
    (route_id(), vec(any::<String>(), 0..3), any::<[String; 2]>(), any::<i32>(), status)
        .prop_map(|(route_id, domains, [path, backend], priority, status)| RouteEntry {
            route_id,
            domains,
            path,
            backend,
            priority,
            status,
        })
        .boxed()
}

fn diff() -> BoxedStrategy<Diff> {
    let part = || {
        prop_oneof![
            vec(route_id(), 0..4).prop_map(|ids| ids.into_iter().collect::<IdsOrCount>()),
            any::<u64>().prop_map(IdsOrCount::Count),
        ]
    };
    (part(), part(), part(), any::<[u64; 6]>())
        .prop_map(|(added, removed, modified, n)| Diff {
            routes: RouteDiff { added, removed, modified },
            headers: HeaderDiff { added: n[0], removed: n[1] },
            options: Modified { modified: n[2] },
            health: Modified { modified: n[3] },
            ratelimit: Modified { modified: n[4] },
            circuit: Modified { modified: n[5] },
        })
        .boxed()
}

fn circuit_status() -> BoxedStrategy<CircuitStatus> {
    let state =
        proptest::sample::select(vec![CircuitState::Closed, CircuitState::Open, CircuitState::HalfOpen]);
    (state, any::<[u64; 2]>(), any::<[String; 2]>(), any::<[bool; 3]>())
        .prop_map(
            |(
                state,
                [failures, successes],
                [last_failure, next_attempt],
                [healthy, in_maintenance, draining],
            )| {
                CircuitStatus {
                    state,
                    failures,
                    successes,
                    last_failure,
                    next_attempt,
                    healthy,
                    in_maintenance,
                    draining,
                }
            },
        )
        .boxed()
}

fn drain_status() -> impl Strategy<Value = DrainStatus> {
    let seconds = (fraction(), fraction(), fraction(), fraction());
    let ours = (option::of(any::<u64>()), option::of(any::<u64>()));
    (any::<bool>(), any::<String>(), seconds, ours).prop_map(|(active, started_at, seconds, ours)| {
        DrainStatus {
            active,
            started_at,
            duration_seconds: seconds.0,
            elapsed_seconds: seconds.1,
            remaining_seconds: seconds.2,
            traffic_percent: seconds.3,
            in_flight: ours.0,
            upgraded: ours.1,
        }
    })
}

fn maintenance_status() -> impl Strategy<Value = MaintenanceStatus> {
    (vec(any::<String>(), 0..3), any::<[String; 2]>()).prop_map(
        |(in_maintenance, [maintenance_backend, entered_at])| MaintenanceStatus {
            in_maintenance,
            maintenance_backend,
            entered_at,
        },
    )
}

fn stats() -> BoxedStrategy<Stats> {
    let latencies = (fraction(), fraction(), fraction());
    let codes = vec(("[1-5][0-9]{2}", any::<u64>().prop_map(Value::from)), 0..4);
    (route_id(), any::<[u64; 4]>(), latencies, codes)
        .prop_map(|(route_id, counts, latencies, codes)| Stats {
            route_id,
            requests: counts[0],
            errors: counts[1],
            avg_latency_ms: latencies.0,
            p95_latency_ms: latencies.1,
            p99_latency_ms: latencies.2,
            bytes_sent: counts[2],
            bytes_received: counts[3],
            status_codes: codes.into_iter().collect(),
        })
        .boxed()
}

fn backend_report() -> impl Strategy<Value = BackendReport> {
    (any::<bool>(), fraction(), any::<u16>(), any::<bool>()).prop_map(
        |(reachable, response_time_ms, status_code, tls_valid)| BackendReport {
            reachable,
            response_time_ms,
            status_code,
            tls_valid,
        },
    )
}

pub(super) fn reply() -> BoxedStrategy<Reply> {
    let words = proptest::sample::select(vec![
        Reply::MaintenanceAck,
        Reply::Ok,
        Reply::Reregister,
        Reply::Pong,
        Reply::ShutdownOk,
        Reply::RouteOk,
        Reply::HeadersOk,
        Reply::OptionsOk,
        Reply::HealthOk,
        Reply::RateLimitOk,
        Reply::CircuitOk,
        Reply::DrainOk,
        Reply::SubscribeOk,
        Reply::UnsubscribeOk,
    ]);
    let small = prop_oneof![
        session_id().prop_map(Reply::Registered),
        route_id().prop_map(Reply::RouteAdded),
        vec(route_id(), 0..5).prop_map(Reply::RoutesAdded),
        "20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z".prop_map(Reply::DrainStarted),
        "H4sI([A-Za-z0-9+/]{4}){1,9}".prop_map(Reply::RouteListCompressed),
        any::<String>().prop_map(Reply::BackendFail),
    ];
    let bodies = prop_oneof![
        session_info().prop_map(|info| Reply::SessionInfo(Box::new(info))),
        vec(route_entry(), 0..3).prop_map(Reply::RouteList),
        circuit_status().prop_map(Reply::CircuitStatus),
        diff().prop_map(|diff| Reply::Diff(Box::new(diff))),
        drain_status().prop_map(Reply::DrainStatus),
        maintenance_status().prop_map(Reply::MaintenanceStatus),
        stats().prop_map(|stats| Reply::Stats(Box::new(stats))),
        vec(stats(), 0..3).prop_map(Reply::StatsAll),
        backend_report().prop_map(Reply::BackendOk),
    ];
    prop_oneof![words, small, bodies, refusal().prop_map(Reply::Error)].boxed()
}

pub(super) fn push() -> BoxedStrategy<Push> {
    prop_oneof![
        target().prop_map(Push::MaintenanceOk),
        Just(Push::PageTimeout),
        Just(Push::BackendTimeout),
        Just(Push::MaintenanceSuperseded),
        (event_kind(), json()).prop_map(|(kind, body)| Push::Event(kind, body)),
        Just(Push::OtherEvent("gossip|{\"a\": 1}|x".to_owned())),
        Just(Push::Shutdown),
    ]
    .boxed()
}

pub(super) fn server_line() -> BoxedStrategy<ServerLine> {
    prop_oneof![3 => reply().prop_map(ServerLine::from), 1 => push().prop_map(ServerLine::from)].boxed()
}

/// One change to a line. Positions wrap around, so that every one is in it.
#[derive(Debug, Clone)]
pub(super) enum Edit {
    Delete(usize),
    Insert(usize, char),
    Replace(usize, char),
    Truncate(usize),
    Repeat(usize, usize),
}

/// `line` with up to four changes, of the kind that has broken parsers before.
pub(super) fn mutated(line: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let at = any::<usize>;
    let odd = || {
        let chars = "|,:;./*\\\"'{}[]()0123456789 rR-+?#%@\t\0\u{7f}\u{85}\u{2028}äµΩ😀";
        proptest::sample::select(chars.chars().collect::<Vec<_>>())
    };
    let edit = prop_oneof![
        at().prop_map(Edit::Delete),
        (at(), odd()).prop_map(|(at, c)| Edit::Insert(at, c)),
        (at(), odd()).prop_map(|(at, c)| Edit::Replace(at, c)),
        at().prop_map(Edit::Truncate),
        (at(), 1..30usize).prop_map(|(at, length)| Edit::Repeat(at, length)),
    ];
    (line, vec(edit, 1..5)).prop_map(|(line, edits)| {
        let mut chars: Vec<char> = line.chars().collect();
        edits.into_iter().for_each(|edit| apply(&mut chars, edit));
        chars.into_iter().collect()
    })
}

fn apply(chars: &mut Vec<char>, edit: Edit) {
    let size = chars.len().max(1);
    match edit {
        Edit::Insert(at, c) => chars.insert(at % size % (chars.len() + 1), c),
        _ if chars.is_empty() => {}
        Edit::Delete(at) => drop(chars.remove(at % size)),
        Edit::Replace(at, c) => chars[at % size] = c,
        Edit::Truncate(at) => chars.truncate(at % size),
        Edit::Repeat(at, length) => {
            let from = at % size;
            let part: Vec<char> = chars[from..(from + length).min(size)].to_vec();
            chars.splice(from..from, part);
        }
    }
}
