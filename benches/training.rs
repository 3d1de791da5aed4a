//! What a server meets in its life, in little: `scripts/guided` lets an instrumented server live through it, so that the
//! compiler knows which code runs and which does not. `REGISTRY_SERVER=PATH cargo bench --profile dev --bench training`.
//!
//! It measures nothing, and talks to the server as everybody does. What is left out here is compiled as code that never
//! runs: what users do all day has to be in it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people")]
#![allow(missing_docs, reason = "a program, not a library")]

#[path = "../tests/proxy_tls/authority.rs"]
#[allow(dead_code, reason = "made for tests")]
mod authority;
#[path = "training/backend.rs"]
mod backend;
#[path = "training/clients.rs"]
mod clients;
#[path = "../tests/support/line.rs"]
mod line;
#[path = "../tests/support/programs.rs"]
mod programs;
#[path = "training/registrations.rs"]
mod registrations;

use std::sync::Arc;

use authority::Authority;
use backend::Backend;
use bytes::Bytes;
use clients::{Clients, Load, Wire, request};
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use line::Line;
use programs::{Server, free_address, get, status, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// The route that most requests are for.
const HOST: &str = "shop.example.com";
/// The same backend for a host that has a certificate, over HTTP/2, and with responses compressed.
const SECURE_HOST: &str = "secure.example.com";
const HTTP2_HOST: &str = "h2c.example.com";
const COMPRESSED_HOST: &str = "compressed.example.com";

fn main() {
    let path = std::env::var("REGISTRY_SERVER").ok();
    let path: &str = path.map_or(env!("CARGO_BIN_EXE_registry-server"), |path| path.leak());
    let folder = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::new());
    authority.pair(&[SECURE_HOST]).write(folder.path(), "secure");
    let (secure, admin, state) = (free_address(), free_address(), folder.path().join("registry.redb"));
    let env = [
        ("LOG_LEVEL", "error"),
        ("CERT_DIR", folder.path().to_str().unwrap()),
        ("HTTPS_LISTEN", &secure.to_string()),
        ("ADMIN_LISTEN", &admin.to_string()),
        ("STATE_FILE", state.to_str().unwrap()),
        ("MAX_ROUTES_PER_SESSION", "100000"),
    ];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let backend = runtime.block_on(Backend::start());
    let mut server = Server::start(path, &env);

    let _shop = register(&server, &backend);
    registrations::come_and_go(server.registry);
    let clients = Clients { plain: server.http, secure, authority };
    runtime.block_on(traffic(&clients));
    for _ in 0..100 {
        assert_eq!(status(admin, "localhost", "/metrics"), 200);
        assert_eq!(status(admin, "localhost", "/status"), 200);
    }
    // Only what ends in order writes down what it has met. An image to build in need not have a `kill`.
    let process = Pid::from_raw(server.program.id().cast_signed()).unwrap();
    kill_process(process, Signal::TERM).unwrap();
    assert!(server.program.wait().success());
}

/// The routes that [`traffic`] is for; they last as long as the connection.
fn register(server: &Server, backend: &Backend) -> Line {
    let mut shop = Line::open(server.registry).unwrap();
    let (plain, http2) = (backend.plain, backend.http2);
    for (line, reply) in [
        ("REGISTER|shop|shop-1|0|{}".to_owned(), "ACK"),
        (format!("ROUTE_ADD||{HOST}|/|http://{plain}|0"), "ROUTE_OK|r1"),
        (format!("ROUTE_ADD||{HTTP2_HOST}|/|h2c://{http2}|0"), "ROUTE_OK|r2"),
        (format!("ROUTE_ADD||{COMPRESSED_HOST}|/|http://{plain}|0"), "ROUTE_OK|r3"),
        (format!("ROUTE_ADD||{SECURE_HOST}|/|http://{plain}|0"), "ROUTE_OK|r4"),
        ("OPTIONS_SET||r3|compression|true".to_owned(), "OPTIONS_OK"),
        ("HEALTH_SET||r1|/small|1s|5s".to_owned(), "HEALTH_OK"),
        ("CONFIG_APPLY|".to_owned(), "OK"),
    ] {
        let answer = shop.ask(&line).unwrap();
        assert!(answer.starts_with(reply), "{line}: {answer}");
    }
    for host in [HOST, HTTP2_HOST, COMPRESSED_HOST] {
        wait_until(host, || get(server.http, host, "/small").is_some_and(|answer| answer.status != 503));
    }
    shop
}

/// Mostly small bodies over connections that are kept, and some of everything else.
async fn traffic(clients: &Clients) {
    let [small, big, page] = ["/small", "/64k", "/page"].map(|path| request(Method::GET, HOST, path));
    let upload = request(Method::POST, HOST, "/echo");
    let others = [
        request(Method::HEAD, HOST, "/64k"),
        request(Method::GET, "nobody.example.com", "/"),
        request(Method::GET, HTTP2_HOST, "/64k"),
        request(Method::POST, HTTP2_HOST, "/echo"),
        compressed("gzip"),
        compressed("br"),
        compressed("zstd"),
    ];
    let of = |connections, each| Load { connections, each };
    clients.ask(Wire::Http1, of(64, 1_500), &small).await;
    clients.ask(Wire::Http1, of(64, 100), &big).await;
    clients.ask(Wire::Http1, of(64, 100), &page).await;
    clients.ask(Wire::Http1, of(64, 100), &upload).await;
    clients.ask(Wire::Http1, of(2_000, 1), &small).await;
    clients.ask(Wire::Http1, of(64, 100), &request(Method::GET, HTTP2_HOST, "/small")).await;
    for other in &others {
        clients.ask(Wire::Http1, of(16, 50), other).await;
    }
    let [small, big] = ["/small", "/64k"].map(|path| request(Method::GET, SECURE_HOST, path));
    let upload = request(Method::POST, SECURE_HOST, "/echo");
    clients.ask(Wire::Https1, of(64, 200), &small).await;
    clients.ask(Wire::Https1, of(300, 1), &small).await;
    clients.ask(Wire::Https2, of(32, 500), &small).await;
    clients.ask(Wire::Https2, of(16, 50), &big).await;
    clients.ask(Wire::Https2, of(16, 50), &upload).await;
}

/// A page for a client that takes it in this coding.
fn compressed(coding: &'static str) -> Request<Full<Bytes>> {
    let mut page = request(Method::GET, COMPRESSED_HOST, "/page");
    page.headers_mut().insert("accept-encoding", HeaderValue::from_static(coding));
    page
}
