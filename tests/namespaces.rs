//! The sidecar in network namespaces of its own, as containers have them: one that it shares with an application that
//! stops, and one that it shares with another sidecar.

#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed assumption ends the test, one that cannot run says so"
)]

#[path = "support/programs.rs"]
mod programs;

use std::process::{Command, Stdio};

use programs::{Program, wait_until};

const SIDECAR: &str = env!("CARGO_BIN_EXE_registry-sidecar");
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `script` in new namespaces of these kinds, where we may. `$0` is the sidecar.
fn in_namespaces(kinds: &str, script: &str, env: &[(&str, &str)]) -> Option<Program> {
    let tried = Command::new("unshare").args([kinds, "true"]).stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        println!("NOT RUN: unshare {kinds} is not permitted here");
        return None;
    }
    let mut all = vec![("PATH", PATH.to_owned())];
    all.extend(env.iter().map(|(name, value)| (*name, (*value).to_owned())));
    Some(Program::start("namespace", "/usr/bin/unshare", &[kinds, "sh", "-c", script, SIDECAR], &all))
}

/// A registry that is beyond the network.
const AWAY: [(&str, &str); 6] = [
    ("SERVICE_NAME", "shop"),
    ("INSTANCE_NAME", "shop-1"),
    ("DOMAINS", "shop.example.com"),
    ("REGISTRY_HOST", "10.99.0.2"),
    ("SIDECAR_RECONNECT_MAX", "1s"),
    ("SIDECAR_WAIT_FOR_PORT", "false"),
];

/// Takes the network away as an engine does, and says what becomes of the sidecar and of its health.
const TAKE_AWAY: &str = "ip link set lo up; ip link add eth0 type bridge; ip addr add 10.99.0.1/24 dev eth0
    ip link set eth0 up; \"$0\" & sidecar=$!
    until \"$0\" healthcheck; do sleep 0.05; done
    ip link del eth0
    while \"$0\" healthcheck; do sleep 0.05; done; \"$0\" status | grep 'only the loopback' && echo UNHEALTHY
    $MORE
    wait $sidecar; echo \"ENDED $?\"";

#[test]
fn a_sidecar_that_is_left_without_a_network_is_unhealthy_and_exits_so_that_the_engine_joins_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket").to_str().unwrap().to_owned();
    let env = [&AWAY[..], &[("SIDECAR_CONTROL_SOCKET", socket.as_str())]].concat();
    let Some(program) = in_namespaces("-n", &TAKE_AWAY.replace("$MORE", ""), &env) else { return };
    program.wait_for_log("UNHEALTHY");
    wait_until("it has exited", || program.log().iter().any(|line| line.starts_with("ENDED")));
    assert!(program.log().iter().any(|line| line == "ENDED 75"), "{:?}", program.log());
}

#[test]
fn one_that_is_to_stay_comes_back_with_its_network() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket").to_str().unwrap().to_owned();
    let stay = [("SIDECAR_CONTROL_SOCKET", socket.as_str()), ("SIDECAR_WHEN_STRANDED", "stay")];
    let more = "ip link add eth0 type bridge; ip addr add 10.99.0.1/24 dev eth0; ip link set eth0 up
        until \"$0\" healthcheck; do sleep 0.05; done; echo JOINED; kill $sidecar";
    let env = [&AWAY[..], &stay].concat();
    let Some(program) = in_namespaces("-n", &TAKE_AWAY.replace("$MORE", more), &env) else { return };
    program.wait_for_log("UNHEALTHY");
    program.wait_for_log("JOINED");
    program.wait_for_log("ENDED 0");
}

#[test]
fn a_command_is_never_stranded() {
    let script = "ip link set lo up; ip link add eth0 type bridge; ip addr add 10.99.0.1/24 dev eth0
        \"$0\" -- sh -c 'ip link del eth0; sleep 2; echo ALIVE'; echo \"ENDED $?\"";
    let Some(program) = in_namespaces("-n", script, &AWAY) else { return };
    program.wait_for_log("ALIVE");
    program.wait_for_log("ENDED 0");
}

#[test]
fn two_sidecars_that_share_every_namespace_are_told_apart_by_their_names() {
    // Without a /run that can be written both are in the abstract namespace.
    let script = "ip link set lo up; mount -t tmpfs -o ro tmpfs /run; export INSTANCE_NAME=two
        INSTANCE_NAME=one \"$0\" & \"$0\" &
        until \"$0\" healthcheck && INSTANCE_NAME=one \"$0\" healthcheck; do sleep 0.05; done
        \"$0\" maintenance enter --reason moving
        \"$0\" status | grep -c moving; INSTANCE_NAME=one \"$0\" status | grep -c moving
        INSTANCE_NAME=three \"$0\" status; unset INSTANCE_NAME SERVICE_NAME; \"$0\" status; echo DONE; wait";
    let local = [&AWAY[..], &[("REGISTRY_HOST", "127.0.0.1")]].concat();
    let local: Vec<_> = local.into_iter().filter(|(name, _)| *name != "INSTANCE_NAME").collect();
    let Some(program) = in_namespaces("-nm", script, &local) else { return };
    program.wait_for_log("DONE");
    let log = program.log();
    let counts: Vec<&String> = log.iter().filter(|line| ["0", "1"].contains(&line.as_str())).collect();
    assert_eq!(counts, ["1", "0"], "{log:?}");
    assert!(log.iter().any(|line| line.contains("no registry-sidecar is running here")), "{log:?}");
    assert!(log.iter().any(|line| line.contains("several sidecars run here")), "{log:?}");
}
