//! The tests themselves.

use std::cell::RefCell;

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

use super::coverage::Coverage;
use super::duel::Duel;
use super::model::Rules;
use super::steps::{self, Step, StoreMode};
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
        max_routes: 6,
        max_domains: 3,
        max_headers: 2,
        no_staging: false,
        max_metadata: 90,
        max_connections: 9,
        max_connections_per_address: 3,
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
    let many: Vec<String> = (0..900)
        .map(|n| format!(r#"{{"domains":["n{n}.test"],"path":"/","backend_url":"http://app:8080"}}"#))
        .collect();
    let bulk = format!("ROUTE_ADD_BULK||[{}]", many.join(","));
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
                say(1, &["REGISTER|web|two|0|", r#"REGISTER|web|two|0|{"service_token":"s"}"#]),
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
            ],
        ),
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
                say(0, &["CONFIG_APPLY|"]),
                say(0, &maintenance),
                Step::Probe { which: 1, passes: true, times: 1 },
                say(0, &["MAINT_STATUS|"]),
            ],
        ),
    ]
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
                "CIRCUIT_BREAKER_STATUS||r1",
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
        say(2, &["CLIENT_SHUTDOWN|"]),
        Step::Connect(3, 0),
        Step::Wait(61),
    ]
}

#[test]
fn limits_that_chance_does_not_reach_are_as_foreseen() {
    for (rules, story) in tours() {
        told(rules, &story);
    }
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
    let config = config(CASES);
    let (seed, cases) = (config.rng_seed, config.cases);
    let coverage = RefCell::new(Coverage::default());
    tell_random(config, |story| {
        let mut duel = Duel::new(rules(), World::new(&rules()));
        let told = duel.run(story);
        coverage.borrow_mut().add(&duel.coverage);
        told
    });
    let mut coverage = coverage.into_inner();
    tours().into_iter().for_each(|(rules, story)| coverage.add(&told(rules, &story)));
    println!("{}", coverage.table());
    // Fewer stories, asked for by hand, need not reach everything.
    if cases >= CASES {
        assert_eq!(
            coverage.missing(),
            Vec::<String>::new(),
            "never reached ({seed:?}):\n{}",
            coverage.table()
        );
    }
}

#[test]
fn the_listener_does_what_the_naive_model_foresees() {
    let mut config = config(TCP_CASES);
    config.cases = config.cases.min(TCP_CASES);
    tell_random(config, |story| Duel::new(rules(), TcpWorld::new(&rules())).run(&tellable(story.to_vec())));
}
