//! The real binaries, together: a server, a web server that knows nothing of it, and a sidecar that is
//! configured by its environment alone.

#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "support/programs.rs"]
mod programs;
#[path = "support/relay.rs"]
mod relay;

use std::time::{Duration, Instant};

use programs::{Program, Server, caddy, free_address, get, status, wait_until};
use relay::Relay;

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");
const SIDECAR: &str = env!("CARGO_BIN_EXE_registry-sidecar");
const HOST: &str = "shop.example.com";

fn sidecar(server: &Server, port: u16, more: &[(&'static str, &str)]) -> Program {
    Program::start("sidecar", SIDECAR, &[], &server.sidecar_env(port, more))
}

#[test]
fn a_request_reaches_the_application_and_the_log_says_under_which_url() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let _caddy = caddy(backend, "hello from caddy");
    let sidecar = sidecar(&server, backend.port(), &[]);

    let live = sidecar.wait_for_log("live");
    assert!(live.contains("http://shop.example.com/"), "{live}");
    let answer = get(server.http, HOST, "/").unwrap();
    assert_eq!((answer.status, answer.body.trim()), (200, "hello from caddy"), "{}", answer.head);
    assert_eq!(status(server.http, "other.example.com", "/"), 404);
    sidecar.wait_for_log("advertising 127.0.0.1");
}

#[test]
fn the_route_comes_only_once_the_application_listens() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let sidecar = sidecar(&server, backend.port(), &[]);

    sidecar.wait_for_log(&format!("waiting for tcp://127.0.0.1:{}", backend.port()));
    assert_eq!(status(server.http, HOST, "/"), 404);
    let _caddy = caddy(backend, "late");
    wait_until("the route is there", || status(server.http, HOST, "/") == 200);
}

#[test]
fn a_dead_backend_is_taken_out_by_its_check_and_comes_back_by_itself() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let mut first = caddy(backend, "first");
    let sidecar = sidecar(
        &server,
        backend.port(),
        &[("HEALTH_PATH", "/"), ("SIDECAR_HEALTH_INTERVAL", "100ms"), ("SIDECAR_HEALTH_TIMEOUT", "100ms")],
    );
    sidecar.wait_for_log("live");

    first.kill();
    // 503 says that no member is usable; a 502 would say that one was tried.
    wait_until("it is taken out", || status(server.http, HOST, "/") == 503);
    let _second = caddy(backend, "second");
    wait_until("it is back", || status(server.http, HOST, "/") == 200);
}

#[test]
fn after_the_registry_was_killed_and_started_again_the_routes_are_back_by_themselves() {
    let (mut server, backend) = (Server::start(SERVER, &[]), free_address());
    let _caddy = caddy(backend, "still here");
    let sidecar = sidecar(&server, backend.port(), &[]);
    sidecar.wait_for_log("live");

    for _ in 0..3 {
        server.crash_and_restart();
        wait_until("the route is back", || status(server.http, HOST, "/") == 200);
    }
}

#[test]
fn the_route_is_back_within_250_ms_of_a_registry_that_was_away_for_a_moment_and_kept_nothing() {
    let backend = free_address();
    let _caddy = caddy(backend, "still here");
    let mut took = Vec::new();
    for _ in 0..5 {
        // A sidecar of its own for each run: none that is still patient from the run before.
        let mut server = Server::start(SERVER, &[]);
        let sidecar = sidecar(&server, backend.port(), &[]);
        sidecar.wait_for_log("live");
        let gone = Instant::now();
        server.crash_and_restart();
        let (away, listens) = (gone.elapsed(), Instant::now());
        wait_until("the route is back", || status(server.http, HOST, "/") == 200);
        took.push((listens.elapsed(), away));
    }
    took.sort();
    // The median: a busy machine may be late now and then.
    assert!(took[2].0 <= Duration::from_millis(250), "{took:?}");
}

#[test]
fn a_registry_with_a_state_file_serves_again_before_any_sidecar_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.redb");
    let mut server = Server::start(SERVER, &[("STATE_FILE", file.to_str().unwrap())]);
    let backend = free_address();
    let _caddy = caddy(backend, "still here");
    let sidecar = sidecar(&server, backend.port(), &[]);
    sidecar.wait_for_log("live");

    sidecar.signal("STOP");
    server.crash_and_restart();
    assert_eq!(status(server.http, HOST, "/"), 200, "the first request of all");
    sidecar.signal("CONT");
    server.program.wait_for_log("session resumed");
    assert_eq!(status(server.http, HOST, "/"), 200);
}

#[test]
fn after_a_restart_without_state_requests_wait_for_the_sidecars() {
    let admin = free_address();
    let mut server = Server::start(SERVER, &[("START_HOLD", "20s"), ("ADMIN_LISTEN", &admin.to_string())]);
    let backend = free_address();
    let _caddy = caddy(backend, "back again");
    let sidecar = sidecar(&server, backend.port(), &[]);
    sidecar.wait_for_log("live");

    sidecar.signal("STOP");
    server.crash_and_restart();
    let http = server.http;
    let early = std::thread::spawn(move || get(http, HOST, "/"));
    let waiting =
        || get(admin, "localhost", "/metrics").is_some_and(|page| page.body.contains("_waiting 1\n"));
    wait_until("the request waits", waiting);
    sidecar.signal("CONT");
    let answer = early.join().unwrap().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "back again"));
}

#[test]
fn a_sidecar_that_is_asked_to_stop_takes_its_route_along_and_exits_with_0() {
    let (server, backend) = (Server::start(SERVER, &[("HOLD", "0s")]), free_address());
    let _caddy = caddy(backend, "hello");
    let relay = Relay::start(server.registry);
    let port = relay.address.port().to_string();
    let mut sidecar = sidecar(&server, backend.port(), &[("REGISTRY_PORT", &port)]);
    sidecar.wait_for_log("live");

    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(relay.sent().contains("\nCLIENT_SHUTDOWN|"), "{}", relay.sent());
    assert_ne!(status(server.http, HOST, "/"), 200);
}

#[test]
fn a_sidecar_that_is_killed_leaves_its_route_for_the_grace_period_and_no_longer() {
    let (server, backend) =
        (Server::start(SERVER, &[("SESSION_GRACE", "2s"), ("HOLD", "0s")]), free_address());
    let _caddy = caddy(backend, "hello");
    let mut sidecar = sidecar(&server, backend.port(), &[]);
    sidecar.wait_for_log("live");

    sidecar.kill();
    let killed = Instant::now();
    while killed.elapsed() < Duration::from_millis(1500) {
        assert_eq!(status(server.http, HOST, "/"), 200, "gone after {:?}", killed.elapsed());
    }
    wait_until("the route is gone", || status(server.http, HOST, "/") != 200);
    assert!(killed.elapsed() < Duration::from_secs(6), "it stayed for {:?}", killed.elapsed());
}

#[test]
fn two_instances_share_the_requests_and_one_may_leave() {
    let server = Server::start(SERVER, &[]);
    let (one, two) = (free_address(), free_address());
    let (_one, _two) = (caddy(one, "one"), caddy(two, "two"));
    let first = sidecar(&server, one.port(), &[]);
    let mut second = sidecar(&server, two.port(), &[("INSTANCE_NAME", "shop-2")]);
    first.wait_for_log("live");
    second.wait_for_log("live");

    let answered_by = |name: &str| get(server.http, HOST, "/").is_some_and(|a| a.body.trim() == name);
    wait_until("both are asked", || answered_by("one") && answered_by("two"));
    second.signal("TERM");
    second.wait();
    for _ in 0..20 {
        assert!(answered_by("one"));
    }
}

#[test]
fn a_misspelled_configuration_is_reported_whole_in_the_first_lines() {
    let mut sidecar = Program::start(
        "sidecar",
        SIDECAR,
        &[],
        &[("DOMAIN", "a.example.com".into()), ("PORT", "80a".into())],
    );
    assert_eq!(sidecar.wait().code(), Some(64));
    let log = eventually_logged(&sidecar, "PORT");
    for expected in ["SERVICE_NAME", "DOMAINS", "PORT", "80a"] {
        assert!(log.contains(expected), "{expected} is missing in:\n{log}");
    }
}

fn eventually_logged(program: &Program, text: &str) -> String {
    program.wait_for_log(text);
    program.log().join("\n")
}

#[test]
fn a_registry_whose_name_does_not_resolve_is_named_and_does_not_delay_the_stop() {
    let backend = free_address();
    let _caddy = caddy(backend, "hello");
    let server = Server::start(SERVER, &[]);
    let mut sidecar = sidecar(&server, backend.port(), &[("REGISTRY_HOST", "no-such-registry.invalid")]);

    let line = sidecar.wait_for_log("does not resolve");
    assert!(line.contains("no-such-registry.invalid"), "{line}");
    sidecar.signal("TERM");
    let asked = Instant::now();
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(2), "the stop took {:?}", asked.elapsed());
}

#[test]
fn a_second_signal_ends_the_sidecar_at_once() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let _caddy = caddy(backend, "hello");
    let mut sidecar = sidecar(&server, backend.port(), &[]);
    sidecar.wait_for_log("live");

    // A registry that does not answer any more: the orderly leave would wait for it for 500 ms.
    server.program.signal("STOP");
    sidecar.signal("TERM");
    sidecar.wait_for_log("SIGTERM");
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(128 + 15));
}

#[test]
fn a_registry_that_does_not_answer_delays_the_stop_by_half_a_second_at_most() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let _caddy = caddy(backend, "hello");
    let mut sidecar = sidecar(&server, backend.port(), &[]);
    sidecar.wait_for_log("live");

    server.program.signal("STOP");
    let asked = Instant::now();
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_millis(900), "the stop took {:?}", asked.elapsed());
}
