//! What a running server says about itself: metrics, status, health, and the commands that ask for them.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "proxy/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::{Command, Output};

use registry_sidecar::environment::Context;
use registry_sidecar::server::{Server, config::Config};
use serde_json::Value;
use support::{Backend, Peer, Response, soon};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The addresses of a server that lets the system choose its ports.
const ANYWHERE: [(&str, &str); 4] = [
    ("HTTP_LISTEN", "127.0.0.1:0"),
    ("REGISTRY_LISTEN", "127.0.0.1:0"),
    ("ADMIN_LISTEN", "127.0.0.1:0"),
    ("START_HOLD", "0s"),
];

fn config(vars: &[(&str, &str)]) -> Config {
    let vars = vars.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let no_file = |_: &std::path::Path| Err("there is no such file".to_owned());
    Config::from_env(vars, Context { host_name: "proxy", read_file: &no_file }).unwrap()
}

async fn server() -> Server {
    Server::start(&config(&ANYWHERE)).await.unwrap()
}

async fn ask(addr: SocketAddr, path: &str) -> Response {
    let mut client = Peer::connect(addr).await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    client.response().await
}

/// Registers `web` with a route for `example.com` to `backend`. The session lives as long as what is returned.
async fn register(server: &Server, backend: &Backend) -> BufReader<TcpStream> {
    let mut session = BufReader::new(TcpStream::connect(server.registry_address()).await.unwrap());
    let lines = [
        "REGISTER|web|web-1|0|".to_owned(),
        format!("ROUTE_ADD||example.com|/|{}|0", backend.url()),
        "CONFIG_APPLY|".to_owned(),
    ];
    for line in lines {
        session.get_mut().write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let mut reply = String::new();
        soon(session.read_line(&mut reply)).await.unwrap();
        assert!(!reply.starts_with("ERROR"), "{line}: {reply}");
    }
    session
}

/// Every sample of a page, by its name with labels. Whatever is no sample or comment fails the test.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let mut types = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for line in page.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            assert!(types.insert(name, kind).is_none(), "{name} twice");
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let family = name.split('{').next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| family.strip_suffix(end));
            assert!(types.contains_key(family) || types.contains_key(base.unwrap_or_default()), "{line}");
            assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} twice");
        }
    }
    samples
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let server = server().await;
    let backend = Backend::saying("hello").await;
    let _session = register(&server, &backend).await;
    for (host, status) in [("example.com", 200), ("example.com", 200), ("nobody.example", 404)] {
        let mut client = Peer::connect(server.http_address()).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(client.response().await.status(), status);
        client.gone().await;
    }
    let page = ask(server.admin_address().unwrap(), "/metrics").await;
    assert_eq!(page.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let samples = samples(&page.body);
    let expected = [
        ("proxy_requests_total{service=\"web\",class=\"2xx\"}", 2.0),
        ("proxy_requests_total{service=\"\",class=\"4xx\"}", 1.0),
        ("proxy_request_duration_seconds_bucket{service=\"web\",le=\"+Inf\"}", 2.0),
        ("proxy_request_duration_seconds_count{service=\"web\"}", 2.0),
        ("proxy_requests_in_flight{service=\"web\"}", 0.0),
        ("proxy_members{service=\"web\",state=\"usable\"}", 1.0),
        ("proxy_members{service=\"web\",state=\"unusable\"}", 0.0),
        ("registry_sessions", 1.0),
    ];
    for (name, value) in expected {
        assert_eq!(samples.get(name), Some(&value), "{name}\n{}", page.body);
    }
    let buckets: Vec<f64> = samples
        .iter()
        .filter(|(name, _)| name.starts_with("proxy_request_duration_seconds_bucket{service=\"web\""))
        .map(|(_, value)| *value)
        .collect();
    assert_eq!(buckets.len(), 12);
    assert!(samples["proxy_request_duration_seconds_sum{service=\"web\"}"] > 0.0);
}

#[tokio::test]
async fn what_clients_make_up_never_becomes_a_label() {
    let server = server().await;
    for number in 0..20 {
        let mut client = Peer::connect(server.http_address()).await;
        client
            .send(format!("GET /made-up-{number} HTTP/1.1\r\nHost: made-up-{number}.example\r\n\r\n"))
            .await;
        client.response().await;
    }
    let page = ask(server.admin_address().unwrap(), "/metrics").await.body;
    assert!(page.contains("proxy_requests_total{service=\"\",class=\"4xx\"} 20"), "{page}");
    assert!(!page.contains("made-up"), "{page}");
}

#[tokio::test]
async fn services_beyond_the_first_500_are_counted_together() {
    const SERVICES: usize = 520;
    let server = server().await;
    let backend = Backend::saying("hello").await;
    let mut session = BufReader::new(TcpStream::connect(server.registry_address()).await.unwrap());
    for number in 0..SERVICES {
        // Each takes the connection over from the one before, which stays.
        let url = backend.url();
        let lines = format!(
            "REGISTER|service-{number:03}|i|0|\nROUTE_ADD||s{number}.example|/|{url}|0\nCONFIG_APPLY|\n"
        );
        session.get_mut().write_all(lines.as_bytes()).await.unwrap();
        for _ in 0..3 {
            let mut reply = String::new();
            soon(session.read_line(&mut reply)).await.unwrap();
            assert!(!reply.starts_with("ERROR"), "{reply}");
        }
    }
    let mut client = Peer::connect(server.http_address()).await;
    for number in 0..SERVICES {
        client.send(format!("GET / HTTP/1.1\r\nHost: s{number}.example\r\n\r\n")).await;
        assert_eq!(client.response().await.body, "hello");
    }
    client.send("GET / HTTP/1.1\r\nHost: nobody.example\r\nConnection: close\r\n\r\n").await;
    client.response().await;
    client.gone().await;
    let page = ask(server.admin_address().unwrap(), "/metrics").await.body;
    let samples = samples(&page);
    for family in ["proxy_requests_total", "proxy_members", "proxy_requests_in_flight"] {
        let services: std::collections::BTreeSet<_> = samples
            .keys()
            .filter(|name| name.starts_with(&format!("{family}{{")))
            .map(|name| name.split('"').nth(1).unwrap())
            .collect();
        // Those, the others together, and nobody's.
        assert!(services.len() <= 502, "{family}: {}", services.len());
    }
    assert_eq!(samples["proxy_requests_total{service=\"(others)\",class=\"2xx\"}"], 20.0);
    let total: f64 =
        samples.iter().filter(|(name, _)| name.starts_with("proxy_requests_total")).map(|(_, n)| n).sum();
    assert_eq!(total, SERVICES as f64 + 1.0, "nothing is lost");
}

#[tokio::test]
async fn a_server_that_is_asked_to_stop_is_alive_and_not_ready() {
    let server = server().await;
    let silent = Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        peer.gone().await;
    })
    .await;
    let _session = register(&server, &silent).await;
    let (admin, mut client) = (server.admin_address().unwrap(), Peer::connect(server.http_address()).await);
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    support::until(|| silent.accepts() == 1).await;
    // The request keeps it from ending at once.
    let stop = tokio::spawn(server.stop());
    soon(async { while ask(admin, "/readyz").await.status() != 503 {} }).await;
    assert_eq!(ask(admin, "/healthz").await.status(), 200);
    let status: Value = serde_json::from_str(&ask(admin, "/status").await.body).unwrap();
    assert_eq!(status["ready"], false);
    drop(client);
    soon(stop).await.unwrap();
}

#[tokio::test]
async fn the_status_lists_claims_with_their_members() {
    let server = server().await;
    let backend = Backend::saying("hello").await;
    let _session = register(&server, &backend).await;
    let page = ask(server.admin_address().unwrap(), "/status").await;
    let status: Value = serde_json::from_str(&page.body).unwrap();
    assert_eq!((&status["ready"], &status["sessions"]), (&true.into(), &1.into()), "{status}");
    let claim = &status["claims"][0];
    assert_eq!((claim["domain"].as_str(), claim["service"].as_str()), (Some("example.com"), Some("web")));
    assert_eq!(claim["members"][0]["instance"], "web-1", "{status}");
    assert_eq!(claim["members"][0]["usable"], true, "{status}");
}

#[tokio::test]
async fn health_and_readiness_are_two_pages_and_others_are_not_there() {
    let server = server().await;
    let admin = server.admin_address().unwrap();
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/", 200), ("/admin", 404)] {
        assert_eq!(ask(admin, path).await.status(), status, "{path}");
    }
    let mut client = Peer::connect(admin).await;
    client.send("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 405);
}

#[tokio::test]
async fn a_default_port_that_is_taken_is_done_without_and_one_that_was_asked_for_is_not() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let mut config = config(&ANYWHERE);
    let admin = config.admin.as_mut().unwrap();
    (admin.address, admin.is_default) = (address, true);
    assert_eq!(Server::start(&config).await.unwrap().admin_address(), None);
    config.admin.as_mut().unwrap().is_default = false;
    let error = Server::start(&config).await.unwrap_err().to_string();
    assert!(error.contains("ADMIN_LISTEN") && error.contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn nobody_can_register_the_admin_port_as_a_backend() {
    let server = server().await;
    let admin = server.admin_address().unwrap();
    let mut session = BufReader::new(TcpStream::connect(server.registry_address()).await.unwrap());
    session.get_mut().write_all(b"REGISTER|web|web-1|0|\n").await.unwrap();
    session
        .get_mut()
        .write_all(format!("ROUTE_ADD||a.example|/|http://{admin}|0\n").as_bytes())
        .await
        .unwrap();
    let mut replies = String::new();
    soon(session.read_line(&mut replies)).await.unwrap();
    soon(session.read_line(&mut replies)).await.unwrap();
    assert!(replies.contains("ERROR|not allowed"), "{replies}");
}

/// Runs `registry-server` with a command, as HEALTHCHECK does.
async fn command(words: &'static str, admin: String) -> Output {
    let run = move || {
        Command::new(env!("CARGO_BIN_EXE_registry-server"))
            .args(words.split(' '))
            .env_clear()
            .env("ADMIN_LISTEN", admin)
            .env("ADMIN_TOKEN", "secret")
            .output()
            .unwrap()
    };
    soon(tokio::task::spawn_blocking(run)).await.unwrap()
}

#[tokio::test]
async fn healthcheck_exits_with_0_while_the_server_lives_and_with_1_afterwards() {
    let server = server().await;
    let admin = server.admin_address().unwrap().to_string();
    assert_eq!(command("healthcheck", admin.clone()).await.status.code(), Some(0));
    server.stop().await;
    let output = command("healthcheck", admin).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no answer from"), "{output:?}");
    assert_eq!(command("healthcheck", "off".to_owned()).await.status.code(), Some(1));
}

#[tokio::test]
async fn operators_drain_and_shut_a_service_from_the_command_line_and_see_it_in_a_table() {
    let vars = [&ANYWHERE[..], &[("ADMIN_TOKEN", "secret")]].concat();
    let server = Server::start(&config(&vars)).await.unwrap();
    let backend = Backend::saying("hello").await;
    let _session = register(&server, &backend).await;
    let admin = server.admin_address().unwrap().to_string();
    let said = async |words: &'static str| {
        let output = command(words, admin.clone()).await;
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, drained) = said("drain web --for 1m --reason moving").await;
    assert!(code == Some(0) && drained.starts_with("web-1: draining until "), "{drained}");
    let (code, table) = said("status").await;
    assert_eq!(code, Some(0));
    for part in [
        "web",
        "draining",
        "1 of 1 draining",
        "% of its share",
        "session 1 web-1 from 127.0.0.1: drained until",
    ] {
        assert!(table.contains(part), "{part}\n{table}");
    }
    assert!(table.contains("drain for 1m, all instances (moving)") && !table.contains('\u{1b}'), "{table}");
    assert_eq!(
        said("drain --session 1 --cancel").await,
        (Some(0), "web-1: the drain is cancelled\n".to_owned())
    );
    assert_eq!(said("maintenance enter web").await, (Some(0), "web-1: in maintenance\n".to_owned()));
    assert!(said("status").await.1.contains("people see the proxy's page"));
    assert_eq!(said("maintenance exit web").await.0, Some(0));
    let (code, refused) = said("drain nobody").await;
    assert!(code == Some(1) && refused.contains("no session of a service \"nobody\" is known"), "{refused}");
    for wrong in [
        "drain",
        "drain web --session 1",
        "maintenance",
        "maintenance enter",
        "drain web --page x",
        "status --json --json",
    ] {
        assert_eq!(said(wrong).await.0, Some(64), "{wrong}");
    }
}

#[tokio::test]
async fn the_command_status_prints_the_page() {
    let server = server().await;
    let output = command("status --json", server.admin_address().unwrap().to_string()).await;
    assert_eq!(output.status.code(), Some(0));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(status["server"].as_str().unwrap().starts_with("registry-server/"), "{status}");
}

/// A name of a browser's page that resolves to this host must not be read by that page.
#[tokio::test]
async fn a_request_for_a_foreign_name_is_refused() {
    let server =
        Server::start(&config(&[&ANYWHERE[..], &[("ADMIN_HOSTS", "proxy")]].concat())).await.unwrap();
    for (host, status) in
        [("localhost:8081", 200), ("127.0.0.1", 200), ("Proxy:8081", 200), ("evil.example", 421)]
    {
        for path in ["/metrics", "/status", "/healthz"] {
            let mut client = Peer::connect(server.admin_address().unwrap()).await;
            client
                .send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://evil.example\r\n\r\n"))
                .await;
            let response = client.response().await;
            assert_eq!(response.status(), status, "{host}{path}");
            assert_eq!(response.field("access-control-allow-origin"), None);
        }
    }
}
