//! The registry over real sockets: what a peer, or somebody with `nc`, sees on port 81.
#![cfg(feature = "server")]

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use registry_sidecar::protocol::BackendUrl;
use registry_sidecar::protocol::report::BackendReport;
use registry_sidecar::server::listener::{ListenerConfig, Prober, RegistryHandle, RegistryServer};
use registry_sidecar::server::routing::{Probe, Table};
use registry_sidecar::server::store::MemoryStore;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

/// A prober that finds every backend well, at once.
struct AllWell {
    results: mpsc::Sender<(Probe, Result<(), String>)>,
    forgotten: Mutex<Vec<Probe>>,
}

impl Prober for AllWell {
    fn watch(&self, probe: Probe) {
        let _ = self.results.try_send((probe, Ok(())));
    }

    fn forget(&self, probe: &Probe) {
        self.forgotten.lock().unwrap().push(probe.clone());
    }

    fn test(&self, url: BackendUrl, _peer: IpAddr) -> BoxFuture<'static, Result<BackendReport, String>> {
        async move {
            if url.port() == 9 {
                return Err("connection refused".to_owned());
            }
            Ok(BackendReport { reachable: true, response_time_ms: 1.0, status_code: 200, tls_valid: false })
        }
        .boxed()
    }
}

struct Server {
    handle: RegistryHandle,
    table: Arc<ArcSwap<Table>>,
}

async fn server() -> Server {
    server_with(ListenerConfig::default()).await
}

async fn server_with(config: ListenerConfig) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let table = Arc::new(ArcSwap::from_pointee(Table::default()));
    let (results, found) = mpsc::channel(100_000);
    let prober = Arc::new(AllWell { results, forgotten: Mutex::default() });
    let handle =
        RegistryServer::start(listener, config, table.clone(), Box::new(MemoryStore), prober, found).unwrap();
    Server { handle, table }
}

impl Server {
    fn address(&self) -> SocketAddr {
        self.handle.address()
    }

    async fn connect(&self) -> Peer {
        Peer { stream: BufReader::new(TcpStream::connect(self.address()).await.unwrap()) }
    }

    /// What `printf 'LINES' | nc host 81` prints.
    async fn nc(&self, text: &str) -> String {
        let mut peer = self.connect().await;
        peer.write(text).await;
        peer.stream.get_mut().shutdown().await.unwrap();
        peer.rest().await
    }

    fn claims(&self) -> Vec<String> {
        let table = self.table.load();
        let mut claims: Vec<String> =
            table.claims().map(|claim| format!("{}{}", claim.domain, claim.path)).collect();
        claims.sort();
        claims
    }
}

struct Peer {
    stream: BufReader<TcpStream>,
}

impl Peer {
    async fn write(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    /// The next line; empty at EOF.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        soon(self.stream.read_line(&mut line)).await.unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    async fn ask(&mut self, line: &str) -> String {
        self.write(&format!("{line}\n")).await;
        self.line().await
    }

    async fn rest(mut self) -> String {
        let mut rest = String::new();
        soon(self.stream.read_to_string(&mut rest)).await.unwrap();
        rest
    }

    async fn register(&mut self, name: &str) -> String {
        let reply = self.ask(&format!("REGISTER|{name}|{name}-1|0|{{}}")).await;
        reply.strip_prefix("ACK|").expect(&reply).to_owned()
    }
}

/// A bound for tests that would hang; nothing waits for it when all is well.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("an answer within 10 s")
}

#[tokio::test]
async fn a_session_registers_applies_and_leaves() {
    let server = server().await;
    let mut peer = server.connect().await;
    let id = peer.register("web").await;
    assert_eq!(peer.ask(&format!("PING|{id}")).await, "PONG");
    let add = format!("ROUTE_ADD|{id}|Example.com,www.example.com|/|http://127.0.0.1:8080|10");
    assert_eq!(peer.ask(&add).await, "ROUTE_OK|r1");
    assert!(server.claims().is_empty(), "nothing serves before the apply");
    assert_eq!(peer.ask(&format!("CONFIG_APPLY|{id}")).await, "OK");
    assert_eq!(server.claims(), ["example.com/", "www.example.com/"]);
    peer.write(&format!("CLIENT_SHUTDOWN|{id}\n")).await;
    assert_eq!(peer.line().await, "SHUTDOWN_OK");
    assert!(server.claims().is_empty(), "its members are gone when the reply is sent");
    assert_eq!(peer.rest().await, "", "EOF on the bound connection");
}
