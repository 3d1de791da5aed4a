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

use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

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

/// A name server that answers for `app.test` with 127.0.0.1: late, or never for IPv6 addresses.
/// Returns how many questions it has been asked.
fn name_server(delay: Duration, is_deaf: bool) -> Arc<AtomicU32> {
    const AAAA: u8 = 28;
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::Relaxed);
            let question = buffer[..length].to_vec();
            // The name ends with a zero, and behind it are type and class, of two bytes each.
            let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            let kind = question[end - 3];
            if kind == AAAA && is_deaf {
                continue;
            }
            let mut answer = question[..end].to_vec();
            let records = u8::from(kind != AAAA);
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, records, 0, 0, 0, 0]);
            if records > 0 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
            }
            let socket = socket.try_clone().unwrap();
            thread::spawn(move || {
                thread::sleep(delay);
                let _ = socket.send_to(&answer, peer);
            });
        }
    });
    asked
}

/// Runs in namespaces of its own, where it may have its own name server.
fn waits_for_a_name(delay: Duration, is_deaf: bool, options: &str) {
    let folder = tempfile::tempdir().unwrap();
    let resolver = folder.path().join("resolv.conf");
    std::fs::write(&resolver, format!("nameserver 127.0.0.1\noptions {options}\n")).unwrap();
    let names = folder.path().join("nsswitch.conf");
    std::fs::write(&names, "hosts: files dns\n").unwrap();
    for (file, place) in [(&resolver, "/etc/resolv.conf"), (&names, "/etc/nsswitch.conf")] {
        let bound = Command::new("mount").args(["--bind", file.to_str().unwrap(), place]).status();
        assert!(bound.unwrap().success(), "{place}");
    }
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let asked = name_server(delay, is_deaf);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let check = format!("tcp://app.test:{}", listener.local_addr().unwrap().port());
    let env = [
        ("PATH", PATH.to_owned()),
        ("SIDECAR_WAIT_FOR", check.clone()),
        ("SIDECAR_READY_CHECK", check),
        ("SIDECAR_READY_TIMEOUT", "500ms".to_owned()),
        ("SIDECAR_READY_INTERVAL", "200ms".to_owned()),
        ("SIDECAR_READY_FALL", "1".to_owned()),
        ("SERVICE_NAME", "shop".to_owned()),
        ("INSTANCE_NAME", "shop-1".to_owned()),
        ("DOMAINS", "shop.example.com".to_owned()),
        ("REGISTRY_HOST", "127.0.0.1".to_owned()),
        ("SIDECAR_LOG_LEVEL", "debug".to_owned()),
    ];
    let program =
        Program::start("sidecar", SIDECAR, &["--", "sh", "-c", "echo STARTED; exec sleep 60"], &env);
    program.wait_for_log("DNS has not answered for the name app.test within");
    program.wait_for_log("STARTED");
    program.wait_for_log("the application is ready, after");
    // From then on no try waits for the name server, so none fails.
    let before = asked.load(Ordering::Relaxed);
    wait_until("the name is looked up again and again", || asked.load(Ordering::Relaxed) >= before + 8);
    assert!(!program.log().iter().any(|line| line.contains("is not ready any more")), "{:?}", program.log());
}

/// The test of this name, which runs nowhere else, in namespaces of its own.
fn inside(name: &str) {
    let program = std::env::current_exe().unwrap();
    let words = ["-nm", program.to_str().unwrap(), "--exact", name, "--ignored", "--nocapture"];
    if in_namespaces("-nm", "true", &[]).is_none() {
        return;
    }
    let output = Command::new("unshare").args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
}

#[test]
fn a_name_server_that_takes_longer_than_a_try_delays_the_first_answer_and_no_other() {
    inside("inside_a_slow_name_server");
}

#[test]
fn a_name_server_that_is_deaf_for_ipv6_addresses_does_the_same() {
    inside("inside_a_deaf_name_server");
}

#[test]
#[ignore = "only in namespaces of its own"]
fn inside_a_slow_name_server() {
    waits_for_a_name(Duration::from_millis(2_500), false, "timeout:5 attempts:1");
}

#[test]
#[ignore = "only in namespaces of its own"]
fn inside_a_deaf_name_server() {
    waits_for_a_name(Duration::ZERO, true, "timeout:1 attempts:2");
}
