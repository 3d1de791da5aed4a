//! Instances come and go under load, and no request is lost (SEMANTICS section 6): the real server, and the
//! real sidecar around an application that drops what is in flight when it is told to end.
//!
//! `REDEPLOY_ROUNDS` says how often each test replaces the instance.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says where")]

#[path = "redeploy/address.rs"]
mod address;
#[path = "redeploy/application.rs"]
mod application;
#[path = "redeploy/load.rs"]
mod load;
#[path = "support/programs.rs"]
mod programs;
#[path = "support/reference.rs"]
mod reference;
#[path = "support/relay.rs"]
mod relay;
#[path = "redeploy/unacknowledged.rs"]
mod unacknowledged;

use std::time::Duration;

use load::{Load, RATE};
use programs::{Program, Server, free_address};

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");
const SIDECAR: &str = env!("CARGO_BIN_EXE_registry-sidecar");
const HOST: &str = "shop.example.com";
/// How often the only instance is replaced, unless told otherwise.
const ROUNDS: usize = 15;
/// Between two changes.
const PAUSE: Duration = Duration::from_millis(50);

/// What a slow application needs, in milliseconds.
const SLOW: &str = "3000";
/// Requests a second while an application is slow: all that wait for 3 s have room in a claim.
const SLOW_RATE: u32 = 50;

/// The application on `port`, wrapped and live.
fn instance(server: &Server, port: u16, name: &str) -> Program {
    let program = start(server, port, name, &[]);
    program.wait_for_log("live:");
    program
}

/// The application on `port`, wrapped, with these variables.
fn start(server: &Server, port: u16, name: &str, more: &[(&'static str, &str)]) -> Program {
    let this = std::env::current_exe().unwrap();
    let words = ["--", this.to_str().unwrap(), "--ignored", "--exact", "application::serves", "--nocapture"];
    let listen = port.to_string();
    let env = [&[("INSTANCE_NAME", name), (application::PORT, &listen)], more].concat();
    Program::start("instance", SIDECAR, &words, &server.sidecar_env(port, &env))
}

/// TERM while requests are in flight; it has ended when this returns, in order.
fn stop(mut instance: Program, load: &Load) {
    load.wait_until_busy();
    instance.signal("TERM");
    // The application itself knows nothing of signals.
    assert_eq!(instance.wait().code(), Some(143), "{:?}", instance.log());
    assert!(instance.log().iter().any(|line| line.contains("nothing is in flight")), "{:?}", instance.log());
}

/// Slow ones take a fifth of the rounds.
fn slow_rounds() -> usize {
    rounds().div_ceil(5)
}

fn rounds() -> usize {
    let given = std::env::var("REDEPLOY_ROUNDS");
    given.map_or(ROUNDS, |text| text.parse().expect("REDEPLOY_ROUNDS is a number"))
}

fn server() -> Server {
    Server::start(SERVER, &[("HOLD", "30s")])
}

#[test]
fn replacing_the_only_instance_stop_first_loses_no_request() {
    let server = server();
    let mut port = free_address().port();
    let mut running = instance(&server, port, "shop-1");
    let load = Load::start(server.http, HOST, RATE);
    for round in 1..=rounds() {
        std::thread::sleep(PAUSE);
        stop(running, &load);
        // Every other time the next one has the same address.
        port = if round.is_multiple_of(2) { free_address().port() } else { port };
        running = instance(&server, port, "shop-1");
    }
    load.end_without_a_loss();
}

#[test]
fn replacing_the_only_instance_start_first_loses_no_request() {
    let server = server();
    let mut running = instance(&server, free_address().port(), "shop-0");
    let load = Load::start(server.http, HOST, RATE);
    for round in 1..=rounds() {
        std::thread::sleep(PAUSE);
        let next = instance(&server, free_address().port(), &format!("shop-{round}"));
        stop(running, &load);
        running = next;
    }
    load.end_without_a_loss();
}

/// The stop comes while the proxy waits for the first answer to a BACKEND_TEST, and to requests. Some of these wait from the
/// first instance to the last, so there are no more instances than HOLD has room for.
#[test]
fn an_instance_that_is_stopped_before_its_first_answer_loses_no_request() {
    let server = server();
    let slow = [(application::FIRST_ANSWER, SLOW)];
    let applied = "configuration applied";
    let mut running = start(&server, free_address().port(), "shop-0", &slow);
    running.wait_for_log(applied);
    let load = Load::start(server.http, HOST, SLOW_RATE);
    for round in 1..=slow_rounds().min(6) {
        stop(running, &load);
        running = start(&server, free_address().port(), &format!("shop-{round}"), &slow);
        running.wait_for_log(applied);
    }
    running.wait_for_log("live:");
    load.end_without_a_loss();
}

#[test]
fn replacing_an_instance_whose_first_answer_takes_long_loses_no_request() {
    replace_slow_ones(&[(application::FIRST_ANSWER, SLOW)]);
}

#[test]
fn replacing_an_instance_that_listens_late_loses_no_request() {
    replace_slow_ones(&[(application::LISTENS_AFTER, SLOW)]);
}

/// By turns stop-first and start-first.
fn replace_slow_ones(slow: &[(&'static str, &str)]) {
    let server = server();
    let mut running = instance(&server, free_address().port(), "shop-0");
    let load = Load::start(server.http, HOST, SLOW_RATE);
    for round in 1..=slow_rounds() {
        let start_next = || start(&server, free_address().port(), &format!("shop-{round}"), slow);
        let next = if round.is_multiple_of(2) {
            let next = start_next();
            next.wait_for_log("live:");
            stop(running, &load);
            next
        } else {
            stop(running, &load);
            start_next()
        };
        next.wait_for_log("live:");
        running = next;
    }
    load.end_without_a_loss();
}
