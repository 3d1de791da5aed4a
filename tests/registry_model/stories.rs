//! The tests themselves.

use std::cell::RefCell;

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

use super::coverage::Coverage;
use super::duel::Duel;
use super::model::Rules;
use super::steps::{self, Answer, Step, StoreMode};
use super::tcp::{TcpWorld, tellable};
use super::world::World;

/// How many stories are told unless PROPTEST_CASES says otherwise.
const CASES: u32 = 1_000;

/// How many of them through sockets.
const TCP_CASES: u32 = 60;

/// Small limits, so that random stories reach them.
fn rules() -> Rules {
    Rules {
        grace: 300_000,
        hold: 30_000,
        stage_ttl: 1_800_000,
        silent: 60_000,
        longest_wait: 5_000,
        token: None,
        max_sessions: 7,
        max_sessions_per_address: 4,
        max_routes: 6,
        max_domains: 3,
        max_headers: 2,
        no_staging: false,
        max_metadata: 90,
        max_connections: 9,
        max_connections_per_address: 3,
        max_queue: 8,
    }
}

fn config(cases: u32) -> Config {
    let asked = Config::default();
    let more = std::env::var_os("PROPTEST_CASES").is_some();
    let seed = match asked.rng_seed {
        // A change is judged by the same stories as the one before it; whoever looks for new ones asks for more.
        RngSeed::Random if more => fastrand::u64(..),
        RngSeed::Random => 1,
        RngSeed::Fixed(seed) => seed,
    };
    Config {
        cases: if more { asked.cases } else { cases },
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: if std::env::var_os("PROPTEST_MAX_SHRINK_ITERS").is_some() {
            asked.max_shrink_iters
        } else {
            20_000
        },
        max_shrink_time: 60_000,
        ..asked
    }
}

fn say(place: usize, lines: &[&str]) -> Step {
    Step::Say(place, lines.iter().map(|line| (*line).to_owned()).collect())
}

fn told(rules: Rules, story: &[Step]) -> Coverage {
    let mut duel = Duel::new(rules.clone(), World::new(&rules));
    duel.run(story).unwrap_or_else(|parting| panic!("\n{parting}"));
    duel.coverage
}

/// Where chance does not come: limits that need much, and settings of the operator's.
fn tours() -> Vec<(Rules, Vec<Step>)> {
    let live = "ROUTE_ADD||a.test|/|http://10.0.0.1:8080|0";
    let bulk = bulk(900, "http://app:8080");
    let mut maintenance = vec!["MAINT_ENTER||ALL|http://10.0.0.2:3001"];
    maintenance.extend(["MAINT_ENTER||r1|http://10.0.0.2:3001"; 64]);
    vec![
        (rules(), grand_tour(live)),
        (
            Rules { max_connections_per_address: 1, ..rules() },
            vec![
                say(0, &["REGISTER|web|one|0|"]),
                Step::Connect(1, 0),
                say(2, &["PING|"]),
                say(0, &["PING|"]),
            ],
        ),
        (
            Rules { max_sessions: 1, ..rules() },
            vec![
                say(0, &[r#"REGISTER|web|one|0|{"service_token":"s"}"#]),
                say(1, &["REGISTER|web|two|0|"]),
                Step::Wait(1),
                say(1, &[r#"REGISTER|web|two|0|{"service_token":"s"}"#]),
                say(1, &[r#"REGISTER|web|two|0|{"service_token":1}"#, "PING|"]),
            ],
        ),
        (
            Rules { token: Some("t0p".to_owned()), ..rules() },
            vec![
                say(0, &["REGISTER|web|one|0|", r#"REGISTER|web|one|0|{"token":"no"}"#]),
                say(0, &[r#"REGISTER|web|one|0|{"token":"t0p","service_token":"s"}"#, "SESSION_INFO|"]),
                say(1, &[r#"REGISTER|web|two|0|{"token":"t0p"}"#]),
            ],
        ),
        (
            Rules { no_staging: true, ..rules() },
            vec![say(0, &["REGISTER|web|one|0|", live, "HEADERS_SET||ALL|X-One|1", "ROUTE_REMOVE||r1"])],
        ),
        (
            Rules { max_connections: 2, ..rules() },
            vec![
                say(0, &["REGISTER|web|one|0|"]),
                say(1, &["PING|"]),
                say(2, &["PING|"]),
                say(0, &["PING|"]),
            ],
        ),
        (
            Rules { max_routes: 1_000, ..rules() },
            vec![
                say(0, &["REGISTER|web|one|0|", &bulk, "ROUTE_LIST|", "ROUTE_LIST|||after=r0"]),
                say(
                    0,
                    &["ROUTE_LIST||compressed", "CONFIG_APPLY|", "ROUTE_LIST|||after=r800", "CONFIG_DIFF|"],
                ),
                say(0, &["STATS_GET|", "STATS_GET|||after=r0", "STATS_GET||ALL|after=r400"]),
            ],
        ),
        (
            Rules { token: Some("t0p".to_owned()), ..rules() },
            vec![
                say(0, &["REGISTER|web|one|0|"]),
                say(0, &[r#"REGISTER|web|one|0|{"token":"t0p"}"#]),
                Step::Wait(1),
                say(0, &["REGISTER|web|one|0|"]),
                Step::Wait(1),
                say(0, &[r#"REGISTER|web|one|0|{"token":"t0p"}"#]),
                Step::Wait(1),
                say(0, &[r#"REGISTER|web|one|0|{"token":"t0p"}"#]),
                say(1, &[r#"REGISTER|web|two|0|{"token":"t0p"}"#]),
            ],
        ),
        (
            rules(),
            vec![
                say(0, &["REGISTER|web|one|0|", "BACKEND_TEST||http://app", "BACKEND_TEST||http://app"]),
                say(0, &["BACKEND_TEST||http://app"; 4]),
                Step::Test(true),
                Step::Test(true),
                Step::Test(true),
                Step::Test(true),
                Step::Test(true),
                Step::Test(true),
                Step::Wait(1),
                say(0, &["BACKEND_TEST||http://app"]),
            ],
        ),
        (Rules { max_routes: 12_000, ..rules() }, ids_beyond_a_line()),
        (Rules { max_sessions: 20, max_sessions_per_address: 20, ..rules() }, subscriptions_of_many()),
        (
            Rules { max_sessions_per_address: 1, ..rules() },
            vec![
                say(0, &["REGISTER|web|one|0|", "REGISTER|web|two|0|", "REGISTER|web|one|0|"]),
                say(1, &["REGISTER|web|two|0|", r#"REGISTER|web|two|0|{"service_token":"s"}"#]),
                say(3, &["REGISTER|web|three|0|", "REGISTER|web|four|0|"]),
                say(2, &[r#"REGISTER|web|five|0|{"service_token":"s"}"#]),
            ],
        ),
        (rules(), vec![say(0, &["PING|%full", "PING|%over", "PING|"])]),
        (rules(), more_than_may_wait()),
        (rules(), subscribed_after_the_news(live)),
        (rules(), replaced_after_the_news()),
        (rules(), entered_after_the_end(live)),
        (rules(), two_members_that_leave_at_once()),
        (
            rules(),
            vec![
                say(0, &["REGISTER|web|one|0|", live]),
                say(
                    0,
                    &[
                        "HEADERS_SET||r1|A|1",
                        "HEADERS_SET||r1|B|2",
                        "HEADERS_SET||r1|a|3",
                        "HEADERS_SET||r1|C|4",
                    ],
                ),
                say(0, &["CONFIG_APPLY|", "CIRCUIT_BREAKER_RESET||r1"]),
                say(0, &maintenance),
                Step::Probe { which: 1, answer: Answer::Passes, times: 1 },
                say(0, &["MAINT_STATUS|"]),
            ],
        ),
    ]
}

/// So many routes at once.
fn bulk(count: usize, backend: &str) -> String {
    let route = |n| format!(r#"{{"domains":["n{n}.test"],"path":"/","backend_url":"{backend}"}}"#);
    format!("ROUTE_ADD_BULK||[{}]", (0..count).map(route).collect::<Vec<_>>().join(","))
}

/// More routes than one line has room for the ids of. An id and what is around it are eight bytes: with one of the
/// pages the line is full to the last of them.
fn ids_beyond_a_line() -> Vec<Step> {
    let some = bulk(850, "http://app");
    let mut lines = vec!["REGISTER|web|one|0|"];
    lines.extend([some.as_str(); 12]);
    lines.extend(["MAINT_ENTER||ALL", "MAINT_STATUS|", "MAINT_STATUS||after=r9000"]);
    let pages: Vec<String> = (1..9).map(|n| format!("MAINT_ENTER||ALL|http://{}", "p".repeat(n))).collect();
    lines.extend(pages.iter().flat_map(|page| [page.as_str(), "MAINT_STATUS||after=r0"]));
    vec![say(0, &lines)]
}

/// One connection hears of sixteen sessions, and no more.
fn subscriptions_of_many() -> Vec<Step> {
    let register = |n| format!("REGISTER|web|i{n}|0|");
    let subscribe = |n| format!("SUBSCRIBE|@{n}|all");
    let lines: Vec<String> = (0..17).map(register).chain((0..17).map(subscribe)).collect();
    vec![Step::Say(0, lines), say(0, &["SUBSCRIBE|@3|cert_renewed", "SUBSCRIBE||weather"])]
}

/// Two waits for the store end at one moment: with the first an address changes hands, with the second a session
/// subscribes. That one is not told; another is, which subscribed before.
fn subscribed_after_the_news(live: &str) -> Vec<Step> {
    vec![
        say(4, &["REGISTER|web|two|0|", live, "CONFIG_APPLY|"]),
        say(2, &["REGISTER|web|three|0|", "SUBSCRIBE||all"]),
        Step::Store(StoreMode::Waits),
        say(1, &["REGISTER|web|one|0|", live, "CONFIG_APPLY|"]),
        say(4, &["ROUTE_REMOVE|@2|r1", "REGISTER|web|one|0|"]),
        Step::Wait(4),
        say(1, &["SUBSCRIBE||all"]),
        Step::Wait(1),
    ]
}

/// With the store's word an address changes hands, and then a session comes to its end that had subscribed before:
/// it is told.
fn replaced_after_the_news() -> Vec<Step> {
    let route = "ROUTE_ADD||a.test|/|http://10.0.0.2:8080|0";
    let api = "ROUTE_ADD||a.test|/api|http://10.0.0.2:8080|0";
    vec![
        say(0, &["REGISTER|web|one|0|", route]),
        Step::Store(StoreMode::Waits),
        say(3, &["REGISTER|web|two|0|", api, "CONFIG_APPLY|"]),
        say(0, &["CONFIG_APPLY|"]),
        say(3, &["REGISTER|web|one|0|", "SUBSCRIBE||all", "ROUTE_ADD_BULK|@0|[]", "REGISTER|web|one|0|"]),
        Step::StoreAnswers(true),
    ]
}

/// The store takes the maintenance of a session that somebody has replaced meanwhile: nobody asks for its page.
fn entered_after_the_end(live: &str) -> Vec<Step> {
    vec![
        say(1, &["REGISTER|web|one|0|", "CONFIG_APPLY|"]),
        say(0, &["REGISTER|web|one|0|", live, "CONFIG_APPLY|"]),
        Step::Store(StoreMode::Waits),
        say(0, &["MAINT_ENTER|@0|ALL|http://10.0.0.2:3001"]),
        say(1, &["REGISTER|web|one|0|"]),
        Step::StoreAnswers(true),
    ]
}

/// One of them serves, the other would if it stayed: nobody hears that it does.
fn two_members_that_leave_at_once() -> Vec<Step> {
    let (serves, waits) =
        ("ROUTE_ADD||b.test|/|http://10.0.0.2:8080|0", "ROUTE_ADD||b.test|/|http://10.0.0.1:8080|0");
    vec![
        say(0, &["REGISTER|web|one|0|", serves, waits, "CONFIG_APPLY|", "SUBSCRIBE||all"]),
        say(0, &["ROUTE_UPDATE||r2|backend_url|http://10.0.0.3:8080", "ROUTE_UPDATE||r1|path|/api"]),
        say(0, &["CONFIG_APPLY|"]),
    ]
}

fn more_than_may_wait() -> Vec<Step> {
    let mut lines = vec!["REGISTER|web|one|0|", "BACKEND_TEST||http://app"];
    lines.extend(["PING|"; 9]);
    vec![say(0, &lines), say(0, &["PING|"])]
}

/// Each command answered well and each mistake made once.
fn grand_tour(live: &str) -> Vec<Step> {
    let long = format!(r#"REGISTER|web|one|0|{{"long":"{}"}}"#, "x".repeat(200));
    vec![
        say(0, &["PING|", "PING|nobody", "RECONNECT|nobody", "HELLO", "REGISTER|web"]),
        say(
            0,
            &["REGISTER||one|0|", "REGISTER|web||0|", "REGISTER|web|one|x|", "REGISTER|web|one|0|[]", &long],
        ),
        say(0, &["REGISTER|web|one|0|", live, "CONFIG_VALIDATE|", "CONFIG_APPLY|", "PING|", "SESSION_INFO|"]),
        say(0, &[live, live, live, live, live, live, "CONFIG_ROLLBACK|", "ROUTE_LIST|", "ROUTE_REMOVE||r9"]),
        say(
            0,
            &[
                "ROUTE_ADD|||/|http://app|0",
                "ROUTE_ADD||a b|/|http://app|0",
                "ROUTE_ADD||a.test||http://app|0",
            ],
        ),
        say(
            0,
            &[
                "ROUTE_ADD||a.test|x|http://app|0",
                "ROUTE_ADD||a.test|/|app|0",
                "ROUTE_ADD||a.test|/|http://app|x",
            ],
        ),
        say(
            0,
            &[
                "ROUTE_ADD||a.test,b.test,c.test,d.test|/|http://app|0",
                "ROUTE_ADD||a.test|/|http://8.8.8.8|0",
            ],
        ),
        say(0, &["ROUTE_ADD_BULK||nothing", "ROUTE_ADD_BULK||[]", "ROUTE_UPDATE||r1|colour|red"]),
        say(0, &["ROUTE_UPDATE||r1|priority|5", "HEADERS_SET||r1|X-One|1", "HEADERS_REMOVE||r1|X-One"]),
        say(0, &["HEADERS_SET||r1|X One|1", "HEADERS_SET||r1|X-One|ä", "HEADERS_SET||r1|Content-Length|1"]),
        say(
            0,
            &["HEADERS_SET||none.test|X-One|1", "OPTIONS_SET||r1|timeout|10s", "OPTIONS_REMOVE||r1|timeout"],
        ),
        say(
            0,
            &["OPTIONS_SET||r1|timeout|soon", "OPTIONS_SET||r1|colour|red", "OPTIONS_SET||r1|http2|maybe"],
        ),
        say(0, &["HEALTH_SET||r1|health|10s|5s", "HEALTH_SET||r1|/health|10s|5s", "RATELIMIT_SET||r1|5|10s"]),
        say(
            0,
            &["RATELIMIT_SET||r1|x|10s", "RATELIMIT_SET||r1|2000000|10s", "CIRCUIT_BREAKER_SET||r1|x|10s|3"],
        ),
        say(
            0,
            &[
                "CIRCUIT_BREAKER_RESET||r1",
                "CIRCUIT_BREAKER_SET||r1|5|10s|0",
                "CIRCUIT_BREAKER_SET||r1|5|10s|3",
            ],
        ),
        say(
            0,
            &[
                "CONFIG_APPLY_PARTIAL||colours",
                "CONFIG_APPLY_PARTIAL||circuit",
                "CONFIG_DIFF|",
                "CONFIG_APPLY|",
            ],
        ),
        say(0, &["CIRCUIT_BREAKER_STATUS||r1", "CIRCUIT_BREAKER_RESET||r1", "STATS_GET|", "STATS_GET||r1"]),
        say(0, &["DRAIN_STATUS|", "DRAIN_START||10s", "DRAIN_STATUS|", "DRAIN_CANCEL|", "SUBSCRIBE||all"]),
        say(0, &["MAINT_ENTER||r1|http://10.0.0.2:3001", "MAINT_ENTER||ALL|http://10.0.0.2:3001"]),
        Step::Wait(61),
        say(0, &["MAINT_STATUS|", "MAINT_EXIT||ALL"]),
        Step::Wait(61),
        say(0, &["MAINT_ENTER||ALL", "MAINT_EXIT||ALL", "BACKEND_TEST||http://app", "PING|"]),
        Step::Test(true),
        say(0, &["BACKEND_TEST||http://app"]),
        Step::Test(false),
        say(
            1,
            &[
                "REGISTER|api|one|0|",
                live,
                "CONFIG_APPLY|",
                "ROUTE_UPDATE||r1|domains|b.test",
                "CONFIG_APPLY|",
            ],
        ),
        say(0, &["UNSUBSCRIBE||all"]),
        Step::Store(StoreMode::Refuses),
        say(1, &["CONFIG_APPLY|"]),
        Step::Store(StoreMode::Holds),
        Step::Connect(2, 0),
        say(2, &["REGISTER|web|one|0|"]),
        say(0, &["PING|", "RECONNECT|@0"]),
        say(2, &[live, "ROUTE_REMOVE||r1", "CLIENT_SHUTDOWN|"]),
        Step::Connect(3, 0),
        Step::Wait(61),
    ]
}

#[test]
fn every_command_and_every_error_is_reached_and_is_as_foreseen() {
    let mut coverage = Coverage::default();
    tours().into_iter().for_each(|(rules, story)| coverage.add(&told(rules, &story)));
    coverage.assert_complete(&[]);
}

/// Tells random stories. A failure prints the seed, and the shortest story in which the two part, up to there.
fn tell_random(config: Config, tell: impl Fn(&[Step]) -> Result<(), String>) {
    let seed = config.rng_seed;
    let outcome =
        TestRunner::new(config).run(&steps::story(), |story| tell(&story).map_err(TestCaseError::fail));
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(_, story)) => {
            panic!("\n{}\n   ({seed:?}: set PROPTEST_RNG_SEED)", tell(&story).err().unwrap_or_default());
        }
        Err(TestError::Abort(why)) => panic!("gave up: {why}"),
    }
}

#[test]
fn the_core_does_what_the_naive_model_foresees() {
    let coverage = RefCell::new(Coverage::default());
    tell_random(config(CASES), |story| {
        let mut duel = Duel::new(rules(), World::new(&rules()));
        let told = duel.run(story);
        coverage.borrow_mut().add(&duel.coverage);
        told
    });
    println!("{}", coverage.into_inner().table());
}

fn told_through_sockets(rules: Rules, story: Vec<Step>) -> Result<Coverage, String> {
    let mut duel = Duel::new(rules.clone(), TcpWorld::new(&rules));
    duel.run(&tellable(story)).map(|()| duel.coverage)
}

#[test]
fn the_listener_does_what_the_naive_model_foresees() {
    let mut config = config(TCP_CASES);
    config.cases = config.cases.min(TCP_CASES);
    tell_random(config, |story| told_through_sockets(rules(), story.to_vec()).map(drop));
}

/// What does not come about through sockets of one machine in no time; the core's stories have it.
const BEYOND_TCP: &[&str] = &[
    // Loopback is exempt.
    "ERROR|too many sessions from this address",
    "ERROR|too many wrong tokens from this address",
    "ERROR|too many connections from this address",
    // The listener reads no more of a connection long before.
    "ERROR|too many commands at once",
    "ERROR|no valid command in time",
    "ERROR|timeout waiting for maintenance page to become reachable",
    "ERROR|timeout waiting for backend to become reachable",
    // The prober answers well.
    "BACKEND_FAIL",
];

#[test]
fn every_command_and_every_error_is_reached_through_sockets_too() {
    let mut coverage = Coverage::default();
    for (rules, story) in tours() {
        let told = told_through_sockets(rules, story);
        coverage.add(&told.unwrap_or_else(|parting| panic!("\n{parting}")));
    }
    coverage.assert_complete(BEYOND_TCP);
}
