//! Instances come and go under load, and no request is lost (SEMANTICS section 6): the real server, and the
//! real sidecar around an application that drops what is in flight when it is told to end.
//!
//! `REDEPLOY_ROUNDS` says how often each test replaces the instance.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says where")]

#[path = "redeploy/application.rs"]
mod application;
#[path = "redeploy/load.rs"]
mod load;
#[path = "support/programs.rs"]
mod programs;

use std::time::Duration;

use load::Load;
use programs::{Program, Server, free_address};

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");
const SIDECAR: &str = env!("CARGO_BIN_EXE_registry-sidecar");
const HOST: &str = "shop.example.com";
/// How often the only instance is replaced, unless told otherwise.
const ROUNDS: usize = 15;
/// Between two changes.
const PAUSE: Duration = Duration::from_millis(50);

/// The application on `port`, wrapped and live.
fn instance(server: &Server, port: u16, name: &str) -> Program {
    let this = std::env::current_exe().unwrap();
    let words = ["--", this.to_str().unwrap(), "--ignored", "--exact", "application::serves", "--nocapture"];
    let listen = port.to_string();
    let env = server.sidecar_env(port, &[("INSTANCE_NAME", name), (application::PORT, &listen)]);
    let program = Program::start("instance", SIDECAR, &words, &env);
    program.wait_for_log("live:");
    program
}

/// TERM while requests are in flight; it has ended when this returns, in order.
fn stop(mut instance: Program, load: &Load) {
    load.wait_until_busy();
    instance.signal("TERM");
    // The application itself knows nothing of signals.
    assert_eq!(instance.wait().code(), Some(143), "{:?}", instance.log());
    assert!(instance.log().iter().any(|line| line.contains("nothing is in flight")), "{:?}", instance.log());
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
    let load = Load::start(server.http, HOST);
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
    let load = Load::start(server.http, HOST);
    for round in 1..=rounds() {
        std::thread::sleep(PAUSE);
        let next = instance(&server, free_address().port(), &format!("shop-{round}"));
        stop(running, &load);
        running = next;
    }
    load.end_without_a_loss();
}
