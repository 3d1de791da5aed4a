//! Updates in place: found, done behind a page, and undone as far as starting what is there.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::programs::{Server, wait_until};
use crate::real::{SIZE, slow_origin};
use crate::registered::HOST;
use crate::{SERVER, VERSIONED, Wrapped, wrap_script};

const CHECK: (&str, &str) = ("SIDECAR_UPDATE_CHECK", "test -e new");
const OFTEN: (&str, &str) = ("UPDATE_CHECK_INTERVAL", "50ms");
/// Takes the new version in, when it is let go.
const COMMAND: (&str, &str) = (
    "SIDECAR_UPDATE_COMMAND",
    "# Unpacking\nuntil [ -e go ]; do sleep 0.02; done; echo horse\n# Putting it in place\nmv new version",
);

fn server() -> Server {
    Server::start(SERVER, &[("HOLD", "0s")])
}

fn live(more: &[(&'static str, &str)]) -> Wrapped {
    let wrapped = Wrapped::with_page(server(), &[&[CHECK, OFTEN], more].concat(), &VERSIONED);
    wrapped.program.wait_for_log("live:");
    wrapped
}

/// A version that the check finds.
fn publish(wrapped: &Wrapped, version: &str) {
    let folder = wrapped.folder.path();
    std::fs::write(folder.join("coming"), version).unwrap();
    std::fs::rename(folder.join("coming"), folder.join("new")).unwrap();
}

fn wait_for(wrapped: &Wrapped, version: &str) {
    wait_until("the version is served", || wrapped.shown("/") == (200, format!("version {version}")));
}

#[test]
fn an_update_is_found_done_behind_the_page_and_live_again() {
    let wrapped = live(&[COMMAND]);
    assert_eq!(wrapped.shown("/"), (200, "version ".to_owned()));
    publish(&wrapped, "2");
    wrapped.program.wait_for_log("update step 1 of 2: until");
    // The command was stopped when the proxy had confirmed the page.
    assert_eq!(wrapped.shown("/").0, 503);
    let (_, told) = wrapped.shown("/api/status");
    assert!(told.contains("update step 1 of 2: Unpacking") && !told.contains("horse"), "{told}");
    assert!(wrapped.status().contains("because the application is being updated"), "{}", wrapped.status());
    assert!(wrapped.is_healthy());
    wrapped.touch("go");
    wait_for(&wrapped, "2");
    assert!(wrapped.status().contains("update       the update is done"), "{}", wrapped.status());
    assert!(wrapped.is_healthy());

    publish(&wrapped, "3");
    wait_for(&wrapped, "3");
    let log = wrapped.program.log().join("\n");
    let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("no {what:?} in\n{log}"));
    assert!(at("says that there is an update") < at("the proxy shows the page"), "{log}");
    assert!(at("the proxy shows the page") < at("sending SIGTERM to the command"), "{log}");
    assert!(
        at("sending SIGTERM") < at("update step 1 of 2") && at("update step 2 of 2") < at("update is done")
    );
    assert!(at("update step 1 of 2 | horse") > 0);
}

#[test]
fn an_update_that_fails_says_so_and_the_former_version_runs_again() {
    let line = "until [ -e go ]; do sleep 0.02; done; rm new; exit 3";
    let wrapped = live(&[("SIDECAR_UPDATE_COMMAND", line)]);
    // It is slow to start, so that what the page says can be read.
    std::fs::write(wrapped.folder.path().join("version"), "1").unwrap();
    publish(&wrapped, "2");
    wrapped.program.wait_for_log("update step 1 of 1");
    wrapped.touch("go");
    wrapped.program.wait_for_log("the update failed: step 1 of UPDATE_COMMAND ended with 3");
    wait_for(&wrapped, "1");
    let status = wrapped.status();
    assert!(status.contains("update       the update failed at step 1"), "{status}");
    assert!(status.contains("application  ready") && wrapped.is_healthy(), "{status}");
}

#[test]
fn the_page_says_that_an_update_failed_until_the_former_version_answers() {
    let slow = [
        "sh",
        "-c",
        "until [ -e start ]; do sleep 0.02; done; exec caddy respond --listen 127.0.0.1:$PORT x",
    ];
    let more = [CHECK, OFTEN, ("SIDECAR_UPDATE_COMMAND", "rm start new; exit 3")];
    let wrapped = Wrapped::with_page(server(), &more, &slow);
    wrapped.touch("start");
    wrapped.program.wait_for_log("live:");
    publish(&wrapped, "2");
    wait_until("the page says so", || wrapped.shown("/api/status").1.contains("the update failed: step 1"));
    assert_eq!(wrapped.shown("/").0, 503);
    assert!(wrapped.is_healthy(), "it has PORT_WAIT_TIMEOUT to come back");
    wrapped.touch("start");
    wait_until("it is live", || wrapped.shown("/").0 == 200);
}

#[test]
fn what_is_in_flight_arrives_whole_before_the_command_is_stopped_for_an_update() {
    let site = format!(
        "{{\n admin off\n auto_https off\n}}\nhttp://:{{$PORT}} {{\n bind 127.0.0.1\n \
         handle /slow {{\n reverse_proxy {}\n }}\n respond 200\n}}\n",
        slow_origin()
    );
    let write =
        format!("cat >Caddyfile <<'END'\n{site}END\nexec caddy run --adapter caddyfile --config Caddyfile");
    // On this signal it ends at once, and what is in flight with it.
    let more = [CHECK, OFTEN, ("SIDECAR_UPDATE_COMMAND", "rm new"), ("SIDECAR_STOP_SIGNAL", "QUIT")];
    let wrapped = Wrapped::with_page(server(), &more, &["sh", "-c", &write]);
    wrapped.program.wait_for_log("live:");
    let mut stream = TcpStream::connect(wrapped.server.http).unwrap();
    write!(stream, "GET /slow HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").unwrap();
    let mut received = vec![0; SIZE / 10];
    stream.read_exact(&mut received).unwrap();
    publish(&wrapped, "2");
    wrapped.program.wait_for_log("says that there is an update");
    wait_until("new requests get the page", || wrapped.shown("/x").0 == 503);
    assert!(!wrapped.has_logged("to the command"), "{:?}", wrapped.program.log());
    stream.read_to_end(&mut received).unwrap();
    let whole = SIZE < received.len() && received.len() < SIZE + 1000;
    assert!(whole, "{} of {SIZE} bytes", received.len());
    wrapped.program.wait_for_log("the update is done");
}

#[test]
fn without_a_page_of_our_own_the_proxy_shows_its_own_during_an_update() {
    let wrapped = Wrapped::start(server(), &[CHECK, OFTEN, COMMAND], &VERSIONED);
    wrapped.program.wait_for_log("live:");
    publish(&wrapped, "2");
    wrapped.program.wait_for_log("update step 1 of 2");
    let (status, body) = wrapped.shown("/");
    assert!(status == 503 && body.contains("registry-server"), "{status} {body}");
    wrapped.touch("go");
    wait_for(&wrapped, "2");
}

#[test]
fn a_worker_without_a_route_is_updated_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_str().unwrap();
    let env = [("APP_DIR", directory), CHECK, OFTEN, ("SIDECAR_UPDATE_COMMAND", "mv new version")];
    let mut worker = wrap_script(&env, "echo runs $(cat version 2>/dev/null); exec sleep 60");
    worker.wait_for_log("runs");
    std::fs::write(folder.path().join("new"), "2").unwrap();
    worker.wait_for_log("runs 2");
    worker.wait_for_log("the update is done");
    worker.signal("TERM");
    assert_eq!(worker.wait().code(), Some(143));
}

#[test]
fn a_stop_in_any_phase_of_an_update_is_in_order() {
    // In a step.
    let mut wrapped = live(&[COMMAND]);
    publish(&wrapped, "2");
    wrapped.program.wait_for_log("update step 1 of 2");
    wrapped.program.signal("TERM");
    assert_eq!(wrapped.program.wait().code(), Some(0));
    assert_eq!(wrapped.shown("/").0, 404);

    // While the command takes its time to end: it is asked once.
    let script = "trap 'echo told' TERM; caddy respond --listen 127.0.0.1:$PORT x & \
                  until [ -e end ]; do sleep 0.02; done; kill $!; exit 4";
    let more = [CHECK, OFTEN, COMMAND];
    let mut wrapped = Wrapped::with_page(server(), &more, &["sh", "-c", script]);
    wrapped.program.wait_for_log("live:");
    publish(&wrapped, "2");
    wrapped.program.wait_for_log("told");
    wrapped.program.signal("TERM");
    wait_until("the route is gone", || wrapped.shown("/").0 == 404);
    wrapped.touch("end");
    assert_eq!(wrapped.program.wait().code(), Some(4));
    assert_eq!(wrapped.program.log().iter().filter(|line| *line == "told").count(), 1);
    assert!(!wrapped.has("version"));

    // While the check runs, which nobody waits for.
    let env = [("SIDECAR_UPDATE_CHECK", "echo $$ >DIR/check; sleep 60"), OFTEN, COMMAND];
    let mut wrapped = Wrapped::with_page(server(), &env, &VERSIONED);
    wrapped.program.wait_for_log("live:");
    wait_until("the check runs", || wrapped.has("check"));
    let asked = Instant::now();
    wrapped.program.signal("TERM");
    assert_eq!(wrapped.program.wait().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[test]
fn a_command_that_does_not_stop_for_its_update_is_killed_after_the_grace_period() {
    let script = "trap '' TERM; caddy respond --listen 127.0.0.1:$PORT \"version $(cat version 2>/dev/null)\" & wait; wait";
    let more =
        [CHECK, OFTEN, ("SIDECAR_UPDATE_COMMAND", "mv new version"), ("SIDECAR_STOP_GRACE_PERIOD", "600ms")];
    let wrapped = Wrapped::with_page(server(), &more, &["sh", "-c", script]);
    wrapped.program.wait_for_log("live:");
    publish(&wrapped, "2");
    wrapped.program.wait_for_log("killing what is left");
    wait_for(&wrapped, "2");
}
