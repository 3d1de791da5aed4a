//! Wrapped and registered: the route follows the command's life.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::programs::{Program, Server, free_address, status, wait_until};
use crate::relay::Relay;
use crate::{PATH, SERVER, SIDECAR};

pub(crate) const HOST: &str = "shop.example.com";

/// The sidecar around `words`, registered with `server` under [`HOST`].
pub(crate) fn wrap_registered(
    server: &Server,
    port: u16,
    more: &[(&'static str, &str)],
    words: &[&str],
) -> Program {
    let mut env = server.sidecar_env(port, more);
    env.push(("PATH", PATH.to_owned()));
    Program::start("sidecar", SIDECAR, &[&["--"], words].concat(), &env)
}

/// Answers requests on `port`, from a moment after its start on.
fn slow_starter(port: u16) -> String {
    format!("sleep 0.3; exec caddy respond --listen 127.0.0.1:{port} slow")
}

#[test]
fn the_route_comes_when_the_command_answers_and_goes_before_it_is_stopped() {
    let (server, port) = (Server::start(SERVER, &[("HOLD", "0s")]), free_address().port());
    let relay = Relay::start(server.registry);
    let relayed = relay.address.port().to_string();
    // What it does on SIGTERM shows whether the route was gone by then.
    let script = format!("trap 'echo told; kill $!; exit 5' TERM; ({}) & wait; wait", slow_starter(port));
    let env = [("REGISTRY_PORT", relayed.as_str())];
    let mut sidecar = wrap_registered(&server, port, &env, &["sh", "-c", &script]);
    sidecar.wait_for_log("live");
    assert_eq!(status(server.http, HOST, "/"), 200);

    sidecar.signal("TERM");
    sidecar.wait_for_log("told");
    assert!(relay.sent().contains("\nCLIENT_SHUTDOWN|"), "{}", relay.sent());
    assert_eq!(sidecar.wait().code(), Some(5));
}

#[test]
fn a_command_that_ends_by_itself_takes_its_routes_along_first() {
    let (server, port) = (Server::start(SERVER, &[("HOLD", "0s")]), free_address().port());
    let relay = Relay::start(server.registry);
    let relayed = relay.address.port().to_string();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("end");
    let script = format!(
        "caddy respond --listen 127.0.0.1:{port} x & until [ -e {} ]; do sleep 0.02; done; kill $!; exit 6",
        file.display()
    );
    let env = [("REGISTRY_PORT", relayed.as_str())];
    let mut sidecar = wrap_registered(&server, port, &env, &["sh", "-c", &script]);
    sidecar.wait_for_log("live");
    std::fs::write(&file, "").unwrap();
    assert_eq!(sidecar.wait().code(), Some(6));
    assert!(relay.sent().contains("\nCLIENT_SHUTDOWN|"), "{}", relay.sent());
}

#[test]
fn a_restarted_command_is_registered_again() {
    let (server, port) = (Server::start(SERVER, &[]), free_address().port());
    let env = [("SIDECAR_RESTART", "always"), ("SIDECAR_RESTART_DELAY", "10ms")];
    let listen = format!("127.0.0.1:{port}");
    let sidecar = wrap_registered(&server, port, &env, &["caddy", "respond", "--listen", &listen, "x"]);
    for round in 1..=3 {
        let live = |line: &&String| line.contains("live: ");
        wait_until("it is live", || sidecar.log().iter().filter(live).count() == round);
        assert_eq!(status(server.http, HOST, "/"), 200);
        let pid = sidecar.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let killed = Command::new("kill").args(["-KILL", children.trim()]).status().unwrap();
        assert!(killed.success());
    }
}

#[test]
fn a_registry_that_is_silent_or_unknown_delays_neither_start_nor_stop() {
    // Accepts connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let registry = silent.local_addr().unwrap().port().to_string();
    let server = Server::start(SERVER, &[]);
    for more in [("REGISTRY_PORT", registry.as_str()), ("REGISTRY_HOST", "no-such-registry.invalid")] {
        let port = free_address().port();
        let listen = format!("127.0.0.1:{port}");
        let words = ["caddy", "respond", "--listen", &listen, "x"];
        let mut sidecar = wrap_registered(&server, port, &[more], &words);
        sidecar.wait_for_log("advertising");
        // Before this caddy does not listen to signals yet, and would end by one.
        sidecar.wait_for_log("Server address");
        let asked = Instant::now();
        sidecar.signal("TERM");
        assert_eq!(sidecar.wait().code(), Some(0));
        assert!(asked.elapsed() < Duration::from_millis(1500), "{more:?}: {:?}", asked.elapsed());
    }
}

#[test]
fn a_name_server_that_does_not_answer_delays_nothing() {
    let tried = Command::new("unshare").args(["-m", "true"]).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return println!("NOT RUN: unshare -m is not permitted here");
    }
    // It takes questions and answers none, so that a lookup takes its five seconds, again and again.
    let Ok(name_server) = std::net::UdpSocket::bind("127.0.0.77:53") else {
        return println!("NOT RUN: the port of name servers is not to be had here");
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "nameserver 127.0.0.77\n").unwrap();
    let port = free_address().port();
    let script = format!(
        "mount --bind {} /etc/resolv.conf; exec {SIDECAR} -- sh -c 'trap \"echo told; exit 0\" TERM; echo up; \
         caddy respond --listen 127.0.0.1:{port} x & wait; wait'",
        file.path().display()
    );
    let env = [
        ("PATH", PATH.to_owned()),
        ("REGISTRY_HOST", "registry.example.com".to_owned()),
        ("SERVICE_NAME", "shop".to_owned()),
        ("INSTANCE_NAME", "shop-1".to_owned()),
        ("DOMAINS", HOST.to_owned()),
        ("BACKEND_HOST", "127.0.0.1".to_owned()),
        ("PORT", port.to_string()),
    ];
    let mut sidecar = Program::start("sidecar", "/usr/bin/unshare", &["-m", "sh", "-c", &script], &env);
    sidecar.wait_for_log("the application is ready");
    name_server.set_read_timeout(Some(crate::programs::PATIENCE)).unwrap();
    let (length, _) = name_server.recv_from(&mut [0; 512]).unwrap();
    assert!(length > 12, "no question");
    let asked = Instant::now();
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert!(sidecar.log().iter().any(|line| line == "told"), "{:?}", sidecar.log());
}
