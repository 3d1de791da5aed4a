//! The sidecar's node in etcd, with real programs: the sidecar, etcd of both versions, and etcdctl as the other client.

#![cfg(all(feature = "etcd", feature = "server"))]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "../nodes/tests/support/etcd.rs"]
mod etcd;
#[path = "support/programs.rs"]
mod programs;

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use etcd::{Etcd, Version, wait_at_most, wait_for};
use programs::Program;

const SIDECAR: &str = env!("CARGO_BIN_EXE_registry-sidecar");
const KEY: &str = "/services/shop/shop-1";

/// Each story is told with both versions.
macro_rules! stories {
    ($($name:ident)+) => {
        mod etcd_3_4 { $(#[test] fn $name() { super::$name(super::Version::V3_4) })+ }
        mod etcd_3_5 { $(#[test] fn $name() { super::$name(super::Version::V3_5) })+ }
    };
}

stories! {
    a_sidecar_alone_is_a_node_while_its_application_is_ready
    a_killed_sidecar_is_gone_a_ttl_later
    a_wrapped_command_is_a_node_until_it_is_stopped
    a_drained_application_is_no_node
    the_command_nodes_shows_and_follows
    a_node_stands_beside_the_routes
}

struct Application(Option<TcpListener>, u16);

impl Application {
    fn start() -> Application {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        Application(Some(listener), port)
    }
}

fn environment(etcd: &Etcd, port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("SIDECAR_ETCD_ENDPOINTS", etcd.endpoint()),
        ("SIDECAR_ETCD_TTL", "3s".to_owned()),
        ("ENABLE_REGISTRY", "false".to_owned()),
        ("SERVICE_NAME", "shop".to_owned()),
        ("INSTANCE_NAME", "shop-1".to_owned()),
        ("DOMAINS", "shop.example.com".to_owned()),
        ("PORT", port.to_string()),
        ("BACKEND_HOST", "127.0.0.1".to_owned()),
        ("SIDECAR_METADATA", r#"{"version":"1.2.3","rack":7}"#.to_owned()),
        ("SIDECAR_READY_INTERVAL", "100ms".to_owned()),
        ("SIDECAR_CONTROL_SOCKET", format!("/tmp/nodes-{port}-{}.sock", etcd.client_port)),
    ]
}

fn ask(environment: &[(&'static str, String)], words: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(SIDECAR)
        .args(words)
        .env_clear()
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn a_sidecar_alone_is_a_node_while_its_application_is_ready(version: Version) {
    let etcd = Etcd::start(version);
    let mut application = Application::start();
    let environment = environment(&etcd, application.1);
    let mut sidecar = Program::start("sidecar", SIDECAR, &[], &environment);
    wait_for("the node", || etcd.exists(KEY));
    let port = application.1;
    let value: serde_json::Value = serde_json::from_str(&etcd.value(KEY)).unwrap();
    let expected = serde_json::json!({
        "address": format!("127.0.0.1:{port}"),
        "port": port.to_string(),
        "domains": "shop.example.com",
        "path": "/",
        "version": "1.2.3",
        "metadata": r#"{"rack":7,"version":"1.2.3"}"#,
    });
    assert_eq!(value, expected);
    let (code, status, _) = ask(&environment, &["status"]);
    assert_eq!(code, Some(0));
    assert!(status.contains(&format!("node         {KEY}: registered")), "{status}");

    application.0 = None;
    wait_for("the node to go with the application", || !etcd.exists(KEY));
    application.0 = Some(TcpListener::bind(("127.0.0.1", port)).unwrap());
    wait_for("the node to come back", || etcd.exists(KEY));

    sidecar.signal("TERM");
    let taken = wait_at_most(Duration::from_secs(2), || !etcd.exists(KEY));
    assert!(taken.is_some(), "the node outlives SIGTERM");
    assert_eq!(sidecar.wait().code(), Some(0));
}

fn a_killed_sidecar_is_gone_a_ttl_later(version: Version) {
    let etcd = Etcd::start(version);
    let application = Application::start();
    let mut sidecar = Program::start("sidecar", SIDECAR, &[], &environment(&etcd, application.1));
    wait_for("the node", || etcd.exists(KEY));
    sidecar.kill();
    assert!(etcd.exists(KEY), "nobody was there to take it out");
    let taken = wait_at_most(Duration::from_secs(4), || !etcd.exists(KEY));
    assert!(taken.is_some(), "still there 1 s after its TTL of 3 s");
}

fn a_wrapped_command_is_a_node_until_it_is_stopped(version: Version) {
    let etcd = Etcd::start(version);
    let port = etcd::free_port();
    let mut environment = environment(&etcd, port);
    environment.push(("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()));
    let listen = format!("127.0.0.1:{port}");
    let words = ["--", "busybox", "httpd", "-f", "-p", &listen];
    let mut sidecar = Program::start("sidecar", SIDECAR, &words, &environment);
    wait_for("the node", || etcd.exists(KEY));
    sidecar.signal("TERM");
    let taken = wait_at_most(Duration::from_secs(2), || !etcd.exists(KEY));
    assert!(taken.is_some(), "the node outlives SIGTERM");
    sidecar.wait();
}

fn a_node_stands_beside_the_routes(version: Version) {
    let etcd = Etcd::start(version);
    let server = programs::Server::start(env!("CARGO_BIN_EXE_registry-server"), &[]);
    let address = programs::free_address();
    let _application = programs::caddy(address, "hello");
    let endpoints = etcd.endpoint();
    let environment = server.sidecar_env(address.port(), &[("SIDECAR_ETCD_ENDPOINTS", &endpoints)]);
    let mut sidecar = Program::start("sidecar", SIDECAR, &[], &environment);
    sidecar.wait_for_log("live:");
    wait_for("the node", || etcd.exists(KEY));
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(!etcd.exists(KEY), "the node outlives the sidecar");
}

fn a_drained_application_is_no_node(version: Version) {
    let etcd = Etcd::start(version);
    let application = Application::start();
    let environment = environment(&etcd, application.1);
    let _sidecar = Program::start("sidecar", SIDECAR, &[], &environment);
    wait_for("the node", || etcd.exists(KEY));
    ask(&environment, &["drain"]);
    wait_for("the node to go", || !etcd.exists(KEY));
    ask(&environment, &["drain", "--cancel"]);
    wait_for("the node to come back", || etcd.exists(KEY));
}

fn the_command_nodes_shows_and_follows(version: Version) {
    let etcd = Etcd::start(version);
    let only = [("SIDECAR_ETCD_ENDPOINTS", etcd.endpoint())];
    etcd.ctl(&["put", "/services/shop/a", r#"{"address":"10.0.0.1:80","version":"1"}"#]);
    etcd.ctl(&["put", "/services/shop/b", "no JSON"]);
    let (code, text, _) = ask(&only, &["nodes", "shop"]);
    assert_eq!(code, Some(0));
    let (first, second) = text.split_once('\n').unwrap();
    assert_eq!(first, "a address=10.0.0.1:80 version=1");
    assert!(second.starts_with("b cannot be read: "), "{second}");
    let (_, json, _) = ask(&only, &["nodes", "shop", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["nodes"][0]["info"]["address"], "10.0.0.1:80");

    let follower = Program::start("nodes", SIDECAR, &["nodes", "shop", "--follow", "--json"], &only);
    follower.wait_for_log(r#""name":"a""#);
    etcd.ctl(&["put", "/services/shop/c", "{}"]);
    follower.wait_for_log(r#""name":"c""#);

    let nobody = [("SIDECAR_ETCD_ENDPOINTS", "http://127.0.0.1:1".to_owned())];
    let (code, _, complaint) = ask(&nobody, &["nodes", "shop"]);
    assert_eq!(code, Some(69));
    assert!(complaint.contains("etcd is not reached at http://127.0.0.1:1"), "{complaint}");
    assert_eq!(ask(&[], &["nodes", "shop"]).0, Some(64));
    assert_eq!(ask(&only, &["nodes"]).0, Some(64));
}

#[test]
fn mistakes_are_named_before_anything_starts() {
    let with = |vars: &[(&'static str, &str)]| {
        let mut all = vec![("SERVICE_NAME", "shop".to_owned()), ("ENABLE_REGISTRY", "false".to_owned())];
        all.extend(vars.iter().map(|(key, value)| (*key, (*value).to_owned())));
        let (code, _, complaint) = ask(&all, &["check"]);
        (code, complaint)
    };
    let endpoints = ("SIDECAR_ETCD_ENDPOINTS", "http://etcd:2379");
    for (vars, expected) in [
        (&[("SIDECAR_ETCD_ENDPOINTS", "etcd")][..], "SIDECAR_ETCD_ENDPOINTS"),
        (&[endpoints, ("SIDECAR_ETCD_TTL", "500ms")], "SIDECAR_ETCD_TTL"),
        (&[endpoints, ("SIDECAR_ETCD_USERNAME", "u")], "ETCD_PASSWORD is not set"),
        (&[endpoints, ("SIDECAR_ETCD_PASSWORD", "p")], "ETCD_USERNAME is not set"),
        (&[endpoints, ("SIDECAR_ETCD_TIMEOUT", "0s")], "SIDECAR_ETCD_TIMEOUT"),
        (&[endpoints, ("SIDECAR_ETCD_LAYOUT", "flat")], "SIDECAR_ETCD_LAYOUT"),
        (&[endpoints, ("SIDECAR_ETCD_IF_TAKEN", "fight")], "SIDECAR_ETCD_IF_TAKEN"),
        (&[endpoints, ("SIDECAR_ETCD_BASE_PATH", "/a/../b")], "SIDECAR_ETCD_BASE_PATH"),
        (
            &[("SIDECAR_ETCD_ENDPOINTS", "etcd:1"), ("SIDECAR_ETCD_CA_FILE", "/nonexistent")],
            "SIDECAR_ETCD_CA_FILE",
        ),
        (
            &[("SIDECAR_ETCD_ENDPOINTS", "etcd:1"), ("SIDECAR_ETCD_CERT", "-----BEGIN")],
            "a certificate and its key go together",
        ),
    ] {
        let (code, complaint) = with(vars);
        assert_eq!(code, Some(64), "{vars:?}: {complaint}");
        assert!(complaint.contains(expected), "{vars:?}: {complaint}");
    }
    assert_eq!(with(&[endpoints]).0, Some(0));
}
