//! What a session sets over the registry's port shows in the responses of the proxy's: the whole server, with
//! raw sockets as client, backend and sidecar.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "proxy/support.rs"]
mod support;

#[path = "proxy_settings/auth.rs"]
mod auth;
#[path = "proxy_settings/breakers.rs"]
mod breakers;
#[path = "proxy_settings/compression.rs"]
mod compression;
#[path = "proxy_settings/edge.rs"]
mod edge;
#[path = "proxy_settings/headers.rs"]
mod headers;
#[path = "proxy_settings/health.rs"]
mod health;
#[path = "proxy_settings/limits.rs"]
mod limits;
#[path = "proxy_settings/matching.rs"]
mod matching;
#[path = "proxy_settings/members.rs"]
mod members;
#[path = "proxy_settings/options.rs"]
mod options;
#[path = "proxy_settings/statistics.rs"]
mod statistics;
#[path = "proxy_settings/sticky.rs"]
mod sticky;

use std::ffi::OsString;
use std::net::SocketAddr;

use registry_sidecar::environment::Context;
use registry_sidecar::server::{Server, config::Config};
use support::{Backend, Peer, Response, soon};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A server with a session on it.
struct World {
    server: Server,
    session: BufReader<TcpStream>,
}

impl World {
    async fn new() -> Self {
        World::with(&[]).await
    }

    async fn with(vars: &[(&str, &str)]) -> Self {
        let listen = [
            ("HTTP_LISTEN", "127.0.0.1:0"),
            ("REGISTRY_LISTEN", "127.0.0.1:0"),
            ("ADMIN_LISTEN", "off"),
            ("START_HOLD", "0s"),
        ];
        let vars =
            listen.iter().chain(vars).map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let no_file = |_: &std::path::Path| Err("there is no such file".to_owned());
        let config = Config::from_env(vars, Context { host_name: "proxy", read_file: &no_file }).unwrap();
        let server = Server::start(&config).await.unwrap();
        let session = session(server.registry_address(), "web", "web-1").await;
        World { server, session }
    }

    /// A world in which `example.com` leads to `backend`, by the route `r1`.
    async fn before(backend: &Backend) -> Self {
        let mut world = World::new().await;
        world.route("example.com", backend).await;
        world
    }

    /// Adds a route and applies it.
    async fn route(&mut self, domain: &str, backend: &Backend) {
        let added = self.ask(&format!("ROUTE_ADD||{domain}|/|{}|0", backend.url())).await;
        assert!(added.starts_with("ROUTE_OK|r"), "{added}");
        self.ok("CONFIG_APPLY|").await;
    }

    async fn ask(&mut self, line: &str) -> String {
        ask(&mut self.session, line).await
    }

    /// Says what must be answered with OK or one of its kind.
    async fn ok(&mut self, line: &str) {
        let reply = self.ask(line).await;
        assert!(reply.contains("OK") && !reply.starts_with("ERROR"), "{line}: {reply}");
    }

    async fn all_ok(&mut self, lines: &[&str]) {
        for line in lines {
            self.ok(line).await;
        }
    }

    async fn client(&self) -> Peer {
        Peer::connect(self.server.http_address()).await
    }

    async fn get(&self, path: &str) -> Response {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: example.com\r\n\r\n")).await
    }

    async fn raw(&self, request: &str) -> Response {
        let mut client = self.client().await;
        client.send(request).await;
        client.response().await
    }
}

/// A registered session on a connection of its own.
async fn session(registry: SocketAddr, service: &str, instance: &str) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(soon(TcpStream::connect(registry)).await.unwrap());
    let reply = ask(&mut stream, &format!("REGISTER|{service}|{instance}|0|")).await;
    assert!(reply.starts_with("ACK|"), "{reply}");
    stream
}

async fn ask(stream: &mut BufReader<TcpStream>, line: &str) -> String {
    soon(stream.get_mut().write_all(format!("{line}\n").as_bytes())).await.unwrap();
    let mut reply = String::new();
    soon(stream.read_line(&mut reply)).await.unwrap();
    reply.trim_end().to_owned()
}
