//! What can happen to a registry, at random.

use std::fmt;
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// One thing that happens. Connections are places: whoever speaks at an empty one connects first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Connect(usize, usize),
    HangUp(usize),
    /// Lines that are sent at once. `@n` stands for the id of the session of this number, `@n~` for its first half.
    Say(usize, Vec<String>),
    /// Seconds.
    Wait(u64),
    /// One of the probes that are being asked is answered this many times.
    Probe {
        which: usize,
        answer: Answer,
        times: usize,
    },
    /// From now on the store answers like this at once, or not.
    Store(StoreMode),
    /// It answers what it was given.
    StoreAnswers(bool),
    /// The oldest BACKEND_TEST is over.
    Test(bool),
}

/// What comes of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Passes,
    Refuses,
    /// The port accepts the connection, and no answer comes in time.
    IsSlow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreMode {
    Holds,
    Refuses,
    Waits,
}

/// How many connections there are at once.
pub(crate) const PLACES: usize = 6;

/// Where they come from; `PEERS[place % PEERS.len()]` unless said otherwise.
pub(crate) const PEERS: [&str; 4] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "127.0.0.1"];

pub(crate) fn peer(index: usize) -> IpAddr {
    PEERS[index % PEERS.len()].parse().expect("it is an address")
}

/// Requests whose way through the table is compared.
pub(crate) const HOSTS: [&str; 7] =
    ["a.test", "b.test", "x.test", "x.b.test", "A.TEST:8080", "test", "other.org"];
pub(crate) const PATHS: [&str; 5] = ["/", "/api", "/api/x", "/apixyz", "/api/v1/z"];

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Connect(place, from) => write!(f, "#{place} connects from {}", peer(*from)),
            Step::HangUp(place) => write!(f, "#{place} hangs up"),
            Step::Say(place, lines) => write!(f, "#{place} says {}", lines.join("\n          and ")),
            Step::Wait(seconds) => write!(f, "{seconds} s pass"),
            Step::Probe { which, answer, times } => write!(f, "probe {which} {answer:?} {times} times"),
            Step::Store(mode) => write!(f, "the store {mode:?} from now on"),
            Step::StoreAnswers(holds) => write!(f, "the store answers: {holds}"),
            Step::Test(works) => write!(f, "the oldest BACKEND_TEST ends: {works}"),
        }
    }
}

pub(crate) fn story() -> impl Strategy<Value = Vec<Step>> {
    let live = (0..PLACES, script()).prop_map(|(place, lines)| Step::Say(place, lines));
    (vec(live, 1..4), vec(step(), 1..50)).prop_map(|(mut first, then)| {
        first.extend(then);
        first
    })
}

fn step() -> impl Strategy<Value = Step> {
    let place = 0..PLACES;
    prop_oneof![
        1 => (place.clone(), 0..PEERS.len()).prop_map(|(place, from)| Step::Connect(place, from)),
        3 => place.clone().prop_map(Step::HangUp),
        30 => (place.clone(), line()).prop_map(|(place, line)| Step::Say(place, vec![line])),
        12 => (place.clone(), vec(line(), 1..5)).prop_map(|(place, lines)| Step::Say(place, lines)),
        6 => (place.clone(), script()).prop_map(|(place, lines)| Step::Say(place, lines)),
        12 => (place, apply_something()).prop_map(|(place, lines)| Step::Say(place, lines)),
        4 => (0..PLACES, habit()).prop_map(|(place, lines)| Step::Say(place, lines)),
        8 => select(vec![0, 1, 2, 4, 5, 15, 20, 30, 61, 150, 299, 301, 1801]).prop_map(Step::Wait),
        14 => (0..64_usize, answer(), 1..4_usize)
            .prop_map(|(which, answer, times)| Step::Probe { which, answer, times }),
        1 => select(vec![StoreMode::Holds, StoreMode::Holds, StoreMode::Refuses, StoreMode::Waits])
            .prop_map(Step::Store),
        2 => prop::bool::weighted(0.8).prop_map(Step::StoreAnswers),
        2 => any::<bool>().prop_map(Step::Test),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![6 => Just(Answer::Passes), 2 => Just(Answer::Refuses), 2 => Just(Answer::IsSlow)]
}

/// A session that is on its way to being live.
fn script() -> impl Strategy<Value = Vec<String>> {
    (register(), vec(route_add(own()), 1..3), apply()).prop_map(|(register, routes, apply)| {
        let mut lines = vec![register];
        lines.extend(routes);
        lines.push(apply);
        lines
    })
}

fn apply_something() -> impl Strategy<Value = Vec<String>> {
    (vec(staging(own()), 1..4), apply()).prop_map(|(mut lines, apply)| {
        lines.push(apply);
        lines
    })
}

/// What belongs together and chance brings together too rarely.
fn habit() -> impl Strategy<Value = Vec<String>> {
    let habits: [&[&str]; 5] = [
        &[
            "CIRCUIT_BREAKER_SET||ALL|5|10s|3",
            "CONFIG_APPLY|",
            "CIRCUIT_BREAKER_STATUS||r1",
            "CIRCUIT_BREAKER_RESET||r1",
        ],
        &["SUBSCRIBE||all"],
        &["DRAIN_START||10s", "DRAIN_STATUS|"],
        &["MAINT_ENTER||ALL|http://10.0.0.2:3001", "MAINT_EXIT||ALL"],
        &["ROUTE_ADD||a.test|/|http://10.0.0.3:8080|0", "MAINT_ENTER||r2", "CONFIG_APPLY|", "MAINT_STATUS|"],
    ];
    select(habits.to_vec()).prop_map(|lines| lines.iter().map(|line| (*line).to_owned()).collect())
}

fn apply() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => Just("CONFIG_APPLY|".to_owned()),
        1 => scopes().prop_map(|scopes| format!("CONFIG_APPLY_PARTIAL||{scopes}")),
    ]
}

fn own() -> BoxedStrategy<String> {
    Just(String::new()).boxed()
}

/// Mostly something that makes sense.
fn mostly(
    sense: &'static [&'static str],
    nonsense: &'static [&'static str],
) -> impl Strategy<Value = String> + Clone {
    prop_oneof![14 => text(sense), 1 => text(nonsense)]
}

fn text(choices: &'static [&'static str]) -> impl Strategy<Value = String> + Clone {
    select(choices).prop_map(str::to_owned)
}

/// A session's field: mostly the connection's own, often another one's, sometimes nobody's.
fn session() -> BoxedStrategy<String> {
    prop_oneof![
        24 => Just(String::new()),
        14 => (0..8_usize).prop_map(|n| format!("@{n}")),
        1 => (0..8_usize).prop_map(|n| format!("@{n}~")),
        1 => text(&["nobody", "@", "%long"]),
    ]
    .boxed()
}

fn route() -> impl Strategy<Value = String> {
    mostly(&["r1", "r1", "r1", "r2", "r2", "r3"], &["r4", "r9", "r0", "R1", "", "12"])
}

fn target() -> impl Strategy<Value = String> {
    mostly(
        &["ALL", "ALL", "r1", "r1", "r2", "r1,r2", "/api", "a.test", "*.test", "SERVICE"],
        &["r2,r9", "", "r1,", "x y", "/none", "none.test"],
    )
}

fn domains() -> impl Strategy<Value = String> {
    mostly(
        &[
            "a.test",
            "a.test",
            "a.test",
            "b.test",
            "*.test",
            "a.test,b.test",
            "*.b.test,b.test",
            "A.Test,a.test",
        ],
        &["", "a.test,,b.test", "http://a.test", "-a.test", "a.test,b.test,c.test,d.test"],
    )
}

fn path() -> impl Strategy<Value = String> {
    mostly(&["/", "/", "/", "/api", "/api", "/api/", "/api/v1"], &["", "api", "/a//b", "/a/../b"])
}

fn backend() -> impl Strategy<Value = String> {
    mostly(
        &[
            "http://10.0.0.1:8080",
            "http://10.0.0.1:8080",
            "http://10.0.0.1:8080/",
            "http://10.0.0.2:8080",
            "http://10.0.0.2:8080",
            "http://10.0.0.3:8080/base",
            "https://10.0.0.2",
            "h2c://10.0.0.1:50",
            "ws://app:8080",
        ],
        &[
            "http://127.0.0.1:9",
            "http://169.254.1.1:80",
            "http://8.8.8.8:80",
            "nonsense",
            "http://",
            "http://h:0",
            "",
        ],
    )
}

fn duration() -> impl Strategy<Value = String> {
    mostly(&["10s", "10s", "30", "500ms", "1m30s", "0s"], &["0", "0ms", "-5s", "soon", ""])
}

fn register() -> BoxedStrategy<String> {
    (text(&["web", "web", "web", "api"]), text(&["one", "one", "two"]))
        .prop_map(|(service, instance)| format!("REGISTER|{service}|{instance}|0|"))
        .boxed()
}

fn odd_register() -> BoxedStrategy<String> {
    let metadata = text(&[
        "null",
        r#"{"v":1,"token":"t","service_token":"s","note":"a|b"}"#,
        r#"{"token":"wrong"}"#,
        "[]",
        "{",
        "{\"long\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}",
    ]);
    (
        text(&["web", "api", "", " "]),
        text(&["one", "two", ""]),
        text(&["0", "", "3001", "99999", "x"]),
        metadata,
    )
        .prop_map(|(service, instance, port, metadata)| {
            format!("REGISTER|{service}|{instance}|{port}|{metadata}")
        })
        .boxed()
}

fn route_add(session: BoxedStrategy<String>) -> BoxedStrategy<String> {
    (session, domains(), path(), backend(), mostly(&["0", "10", "10", "-1"], &["x", ""]))
        .prop_map(|(s, domains, path, backend, priority)| {
            format!("ROUTE_ADD|{s}|{domains}|{path}|{backend}|{priority}")
        })
        .boxed()
}

fn route_add_bulk(session: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let route = (
        text(&[r#"["a.test"]"#, r#"["b.test","*.test"]"#, "[]", r#"[""]"#, r#"["a.test",1]"#]),
        path(),
        backend(),
        text(&[r#","priority":5"#, "", r#","priority":"x""#]),
    )
        .prop_map(|(domains, path, backend, priority)| {
            format!(r#"{{"domains":{domains},"path":"{path}","backend_url":"{backend}"{priority}}}"#)
        });
    let good = text(&["http://10.0.0.1:8080", "ws://app:8080"]).prop_map(|backend| {
        format!(r#"{{"domains":["b.test"],"path":"/api","backend_url":"{backend}","priority":1}}"#)
    });
    let list = prop_oneof![
        4 => vec(good, 0..4).prop_map(|routes| format!("[{}]", routes.join(","))),
        2 => vec(route, 0..3).prop_map(|routes| format!("[{}]", routes.join(","))),
        1 => text(&["{}", "null", "[1]", ""]),
    ];
    (session, list).prop_map(|(s, list)| format!("ROUTE_ADD_BULK|{s}|{list}")).boxed()
}

fn route_update(session: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let change = prop_oneof![
        backend().prop_map(|value| format!("backend_url|{value}")),
        domains().prop_map(|value| format!("domains|{value}")),
        path().prop_map(|value| format!("path|{value}")),
        text(&["priority|20", "priority|x", "colour|red", "priority|0"]),
    ];
    (session, route(), change).prop_map(|(s, id, change)| format!("ROUTE_UPDATE|{s}|{id}|{change}")).boxed()
}

fn header() -> impl Strategy<Value = String> {
    mostly(&["X-One", "x-one", "X-Two", "X-Three"], &["Content-Length", "", "X One"])
}

fn option() -> impl Strategy<Value = String> {
    prop_oneof![
        10 => (text(&["timeout", "hold", "health_check_interval", "health_check_timeout"]), duration())
            .prop_map(|(key, value)| format!("{key}|{value}")),
        10 => (
            text(&["websocket", "preserve_host", "compression", "http2", "http3", "strip_prefix", "sticky"]),
            mostly(&["true", "false", "ON", "0"], &["maybe", ""])
        )
            .prop_map(|(key, value)| format!("{key}|{value}")),
        4 => (text(&["health_rise", "health_fall"]), mostly(&["1", "2", "3"], &["0", "101", "x"]))
            .prop_map(|(key, value)| format!("{key}|{value}")),
        2 => text(&["health_host|a.de", "health_host|*.a.de", "health_status|200-299,404", "health_status|2xx"]),
        4 => text(&[
            "redirect|a.de",
            "redirect|*.a.de",
            "allow_from|10.0.0.0/8,2001:db8::/32",
            "allow_from|10.0.0.0/33",
            "body_limit|10m",
            "body_limit|0",
            "body_limit|many",
            "auth|forward http://10.0.0.9/ask",
            "auth|digest x",
            "weight|0",
            "weight|5",
            "weight|1001",
        ]),
        1 => Just("colour|red".to_owned()),
    ]
}

fn option_key() -> impl Strategy<Value = String> {
    mostly(
        &[
            "timeout",
            "hold",
            "health_check_interval",
            "websocket",
            "compression",
            "health_rise",
            "health_host",
        ],
        &["colour"],
    )
}

/// Commands that stage something.
fn staging(session: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let s = || session.clone();
    let count = || mostly(&["5", "5", "0"], &["2000000", "-1", "x"]);
    let route_or_all = || prop_oneof![2 => Just("ALL".to_owned()), 3 => route()];
    prop_oneof![
        4 => route_add(s()),
        1 => route_add_bulk(s()),
        3 => route_update(s()),
        2 => (s(), route()).prop_map(|(s, id)| format!("ROUTE_REMOVE|{s}|{id}")),
        2 => (s(), target(), header(), mostly(&["one", "two", "a|b", ""], &["ä"]))
            .prop_map(|(s, target, name, value)| format!("HEADERS_SET|{s}|{target}|{name}|{value}")),
        1 => (s(), target(), header()).prop_map(|(s, target, name)| format!("HEADERS_REMOVE|{s}|{target}|{name}")),
        3 => (s(), target(), option()).prop_map(|(s, target, option)| format!("OPTIONS_SET|{s}|{target}|{option}")),
        1 => (s(), target(), option_key())
            .prop_map(|(s, target, key)| format!("OPTIONS_REMOVE|{s}|{target}|{key}")),
        3 => (s(), route(), mostly(&["/", "/health"], &["health"]), duration(), duration())
            .prop_map(|(s, id, path, every, within)| format!("HEALTH_SET|{s}|{id}|{path}|{every}|{within}")),
        1 => (s(), route_or_all(), count(), duration())
            .prop_map(|(s, id, requests, window)| format!("RATELIMIT_SET|{s}|{id}|{requests}|{window}")),
        1 => (s(), route_or_all(), mostly(&["5", "0"], &["x"]), duration(), mostly(&["3", "1"], &["0"]))
            .prop_map(|(s, id, n, time, trials)| format!("CIRCUIT_BREAKER_SET|{s}|{id}|{n}|{time}|{trials}")),
    ]
    .boxed()
}

fn scopes() -> impl Strategy<Value = String> {
    mostly(
        &[
            "routes",
            "routes,options",
            "headers",
            "options, health",
            "ratelimit,circuit",
            "routes,headers,health",
        ],
        &["routes,colours", ""],
    )
}

fn line() -> BoxedStrategy<String> {
    prop_oneof![
        4 => register(),
        1 => odd_register(),
        8 => session().prop_map(|s| format!("RECONNECT|{s}")),
        30 => staging(session()),
        16 => questions(),
        14 => applying(),
        16 => operating(),
        2 => nonsense(),
    ]
    .boxed()
}

fn applying() -> BoxedStrategy<String> {
    let plain = |name: &'static str| session().prop_map(move |s| format!("{name}|{s}"));
    prop_oneof![
        6 => plain("CONFIG_APPLY"),
        1 => plain("CONFIG_VALIDATE"),
        1 => plain("CONFIG_ROLLBACK"),
        2 => (session(), scopes()).prop_map(|(s, scopes)| format!("CONFIG_APPLY_PARTIAL|{s}|{scopes}")),
        1 => plain("CLIENT_SHUTDOWN"),
    ]
    .boxed()
}

fn questions() -> BoxedStrategy<String> {
    let plain = |name: &'static str| session().prop_map(move |s| format!("{name}|{s}"));
    let of_route =
        |name: &'static str| (session(), route()).prop_map(move |(s, id)| format!("{name}|{s}|{id}"));
    prop_oneof![
        plain("PING"),
        plain("SESSION_INFO"),
        (session(), text(&["", "", "", "|compressed", "||after=r1", "||after=r0", "|nonsense", "||from=r1"]))
            .prop_map(|(s, page)| format!("ROUTE_LIST|{s}{page}")),
        plain("CONFIG_DIFF"),
        of_route("CIRCUIT_BREAKER_STATUS"),
        of_route("CIRCUIT_BREAKER_RESET"),
        (
            session(),
            text(&["", "|ALL", "|r1", "|r7", "|x", "||after=r0", "|ALL|after=r1", "|r1|after=r0", "||r1"])
        )
            .prop_map(|(s, which)| format!("STATS_GET|{s}{which}")),
        (session(), backend()).prop_map(|(s, url)| format!("BACKEND_TEST|{s}|{url}")),
        (session(), text(&["", "", "", "|after=r0", "|after=r1", "|after=", "|r1"]))
            .prop_map(|(s, page)| format!("MAINT_STATUS|{s}{page}")),
        plain("DRAIN_STATUS"),
    ]
    .boxed()
}

fn operating() -> BoxedStrategy<String> {
    let page = mostly(
        &["", "|", "|http://10.0.0.2:3001", "|http://10.0.0.1:3001/page"],
        &["|http://8.8.8.8/", "|nonsense"],
    );
    let kind =
        || mostly(&["backend_health_changed", "global_config_changed", "cert_renewed", "all"], &["weather"]);
    prop_oneof![
        3 => (session(), duration()).prop_map(|(s, time)| format!("DRAIN_START|{s}|{time}")),
        2 => session().prop_map(|s| format!("DRAIN_CANCEL|{s}")),
        4 => (session(), target(), page).prop_map(|(s, target, page)| format!("MAINT_ENTER|{s}|{target}{page}")),
        4 => (session(), target()).prop_map(|(s, target)| format!("MAINT_EXIT|{s}|{target}")),
        2 => (session(), kind()).prop_map(|(s, kind)| format!("SUBSCRIBE|{s}|{kind}")),
        1 => (session(), kind()).prop_map(|(s, kind)| format!("UNSUBSCRIBE|{s}|{kind}")),
    ]
    .boxed()
}

fn nonsense() -> BoxedStrategy<String> {
    text(&[
        "HELLO",
        "ping",
        "",
        "|",
        "REGISTER",
        "REGISTER|web|one",
        "ROUTE_ADD|@0|a.test",
        "ROUTE_ADD|%long|a.test",
        "PING",
        "PING||extra|fields",
        "PING|%full",
        "PING|%over",
        "ACK",
        "ACK|@0",
        "RECONNECT",
        "CONFIG_APPLY_PARTIAL",
        "MAINT_ENTER|",
        "HEALTH_SET||r1|/",
        "BACKEND_TEST|",
    ])
    .boxed()
}
