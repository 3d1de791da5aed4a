//! Dependencies, steps, restarts, schedules; and the stop in the middle of each.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::programs::{free_address, wait_until};
use crate::{code, program, run, text, wrap, wrap_script};

#[test]
fn a_command_that_crashes_thrice_is_started_a_fourth_time() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("runs");
    let restarting = [("SIDECAR_RESTART", "on-failure"), ("SIDECAR_RESTART_DELAY", "20ms")];
    let started = Instant::now();
    let output = run(&restarting, &[&program("crash-thrice"), file.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 4);
    // 20, 40 and 80 ms: ever more slowly.
    assert!(started.elapsed() >= Duration::from_millis(140), "{:?}", started.elapsed());
}

#[test]
fn a_schedule_runs_at_once_and_again_and_a_stop_between_two_runs_is_at_once() {
    let mut sidecar = wrap_script(&[("SIDECAR_RUN_EVERY", "300ms")], "echo ran; exit 4");
    let runs = || sidecar.log().iter().filter(|line| *line == "ran").count();
    sidecar.wait_for_log("ran");
    wait_until("it ran thrice", || runs() >= 3);
    sidecar.signal("TERM");
    sidecar.wait();
}

#[test]
fn a_run_that_takes_longer_than_its_schedule_is_told_and_never_overlapped() {
    let folder = tempfile::tempdir().unwrap();
    let running = folder.path().join("running");
    let script = format!(
        "[ -e {0} ] && echo overlapped; touch {0}; sleep 0.12; rm {0}; echo ran",
        running.to_str().unwrap()
    );
    let sidecar = wrap_script(&[("SIDECAR_RUN_EVERY", "50ms")], &script);
    wait_until("it ran thrice", || sidecar.log().iter().filter(|line| *line == "ran").count() >= 3);
    sidecar.wait_for_log("longer than RUN_EVERY");
    assert!(!sidecar.log().iter().any(|line| line == "overlapped"), "{:?}", sidecar.log());
}

#[test]
fn steps_run_in_order_with_their_output_in_the_log() {
    let env = [("SIDECAR_PRE_START", "echo migrated\necho fixed >&2; printf tail"), ("NAME", "x")];
    let output = run(&env, &["sh", "-c", "echo started"]);
    let log = text(&output.stderr);
    let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("no {what:?} in\n{log}"));
    assert!(at("step 1 of 2 | migrated") < at("step 2 of 2 | fixed"), "{log}");
    at("step 2 of 2 | tail");
    assert_eq!(text(&output.stdout), "started\n");
}

#[test]
fn a_directory_that_the_steps_fill_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("app/code");
    let env = [("APP_DIR", directory.to_str().unwrap()), ("SIDECAR_PRE_START", "echo filled >file")];
    let output = run(&env, &["cat", "file"]);
    assert_eq!((code(&output), text(&output.stdout).as_str()), (0, "filled\n"), "{}", text(&output.stderr));
}

#[test]
fn a_step_that_fails_is_the_end_unless_it_is_only_worth_a_warning() {
    let env = [("SIDECAR_PRE_START", "exit 9\necho second")];
    let output = run(&env, &["echo", "started"]);
    assert_eq!((code(&output), text(&output.stdout).as_str()), (9, ""));
    assert!(!text(&output.stderr).contains("| second"), "{}", text(&output.stderr));
    let warned = [&env[..], &[("SIDECAR_PRE_START_FAILURE", "warn")]].concat();
    let output = run(&warned, &["echo", "started"]);
    assert_eq!((code(&output), text(&output.stdout).as_str()), (0, "started\n"));
}

#[test]
fn a_step_that_hangs_has_a_deadline() {
    let env = [("SIDECAR_PRE_START", "sleep 60"), ("SIDECAR_PRE_START_TIMEOUT", "200ms")];
    let output = run(&env, &["echo", "started"]);
    assert_eq!((code(&output), text(&output.stdout).as_str()), (124, ""));
    assert!(text(&output.stderr).contains("PRE_START_TIMEOUT"), "{}", text(&output.stderr));
}

#[test]
fn a_stop_in_the_middle_of_a_step_ends_it_and_starts_nothing() {
    let mut sidecar = wrap(&[("SIDECAR_PRE_START", "true\necho in; sleep 60")], &["echo", "started"]);
    sidecar.wait_for_log("| in");
    let asked = Instant::now();
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(!sidecar.log().iter().any(|line| line == "started"), "{:?}", sidecar.log());
}

#[test]
fn the_command_waits_for_its_dependencies_and_a_stop_does_not() {
    let dependency = free_address();
    let wanted = format!("tcp://{dependency}");
    let sidecar = wrap(&[("SIDECAR_WAIT_FOR", &wanted)], &["sh", "-c", "echo started; exec sleep 60"]);
    let mut stopped = wrap(&[("SIDECAR_WAIT_FOR", &wanted)], &["echo", "started"]);
    for program in [&sidecar, &stopped] {
        program.wait_for_log(&format!("waiting for {wanted}"));
    }
    stopped.signal("TERM");
    assert_eq!(stopped.wait().code(), Some(0));
    assert!(!sidecar.log().iter().any(|line| line == "started"));
    let _listener = TcpListener::bind(dependency).unwrap();
    sidecar.wait_for_log("started");
}

#[test]
fn dependencies_that_do_not_come_are_the_end() {
    let wanted = format!("tcp://{}", free_address());
    let env = [("SIDECAR_WAIT_FOR", wanted.as_str()), ("SIDECAR_WAIT_FOR_TIMEOUT", "200ms")];
    let output = run(&env, &["echo", "started"]);
    assert_eq!((code(&output), text(&output.stdout).as_str()), (69, ""));
}

#[test]
fn a_stop_between_two_tries_to_start_is_at_once() {
    let env = [("SIDECAR_RESTART", "always"), ("SIDECAR_RESTART_DELAY", "1h")];
    let mut sidecar = wrap_script(&env, "exit 5");
    sidecar.wait_for_log("starting it again");
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(5));
}

/// Whether the wrapper with this socket counts as healthy.
fn is_healthy(socket: &str) -> bool {
    let mut command = std::process::Command::new(crate::SIDECAR);
    command
        .arg("healthcheck")
        .env_clear()
        .env("SIDECAR_CONTROL_SOCKET", socket)
        .output()
        .unwrap()
        .status
        .success()
}

#[test]
fn a_schedule_is_healthy_until_a_run_of_it_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, fail) = (folder.path().join("socket"), folder.path().join("fail"));
    let socket = socket.to_str().unwrap();
    let script = format!("[ ! -e {} ]; code=$?; echo ran; exit $code", fail.display());
    let sidecar = wrap_script(&[("SIDECAR_RUN_EVERY", "50ms"), ("SIDECAR_CONTROL_SOCKET", socket)], &script);
    sidecar.wait_for_log("ran");
    wait_until("it is healthy", || is_healthy(socket));
    std::fs::write(&fail, "").unwrap();
    wait_until("it is not healthy", || !is_healthy(socket));
    std::fs::remove_file(&fail).unwrap();
    wait_until("it is healthy again", || is_healthy(socket));
}

#[test]
fn a_worker_without_a_route_is_healthy_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, end) = (folder.path().join("socket"), folder.path().join("end"));
    let socket = socket.to_str().unwrap();
    let env =
        [("SIDECAR_RESTART", "always"), ("SIDECAR_RESTART_DELAY", "1h"), ("SIDECAR_CONTROL_SOCKET", socket)];
    let script = format!("until [ -e {} ]; do sleep 0.02; done", end.display());
    let sidecar = wrap_script(&env, &script);
    wait_until("it is healthy", || is_healthy(socket));
    std::fs::write(&end, "").unwrap();
    sidecar.wait_for_log("starting it again");
    assert!(!is_healthy(socket));
}
