//! The registry over real sockets: what a peer, or somebody with `nc`, sees on port 81.
#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "registry_tcp/exchanges.rs"]
mod exchanges;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use registry_client::protocol::BackendUrl;
use registry_client::protocol::report::BackendReport;
use registry_sidecar::server::listener::{ListenerConfig, Prober, RegistryHandle, RegistryServer};
use registry_sidecar::server::live_table::LiveTable;
use registry_sidecar::server::registry::Input;
use registry_sidecar::server::routing::{Probe, ProbeFailure};
use registry_sidecar::server::store::MemoryStore;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

/// A prober that finds every backend well, at once.
struct AllWell {
    results: mpsc::Sender<(Probe, Result<(), ProbeFailure>)>,
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
    table: Arc<LiveTable>,
    notify: mpsc::Sender<Input>,
}

async fn server() -> Server {
    server_with(ListenerConfig::default()).await
}

async fn server_with(config: ListenerConfig) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let table = Arc::new(LiveTable::default());
    let (results, found) = mpsc::channel(100_000);
    let prober = Arc::new(AllWell { results, forgotten: Mutex::default() });
    let (notify, notices) = mpsc::channel(16);
    let store = Box::new(MemoryStore);
    let handle =
        RegistryServer::start(listener, config, table.clone(), store, prober, found, notices).unwrap();
    Server { handle, table, notify }
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
        let mut claims: Vec<String> = table
            .claims()
            .filter(|claim| claim.has_usable())
            .map(|claim| format!("{}{}", claim.domain, claim.path))
            .collect();
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

/// What the reference client sends first, byte for byte (PROTOCOL section 9, item 1).
#[tokio::test]
async fn the_reference_clients_opening_is_served_verbatim() {
    let server = server().await;
    let mut peer = server.connect().await;
    let ack = peer.ask("REGISTER|app|127.0.0.1|3001|null").await;
    let id = ack.strip_prefix("ACK|").unwrap();
    assert_eq!(peer.ask(&format!("ROUTE_LIST|{id}")).await, "ROUTE_LIST_OK|[]");
    let add = format!("ROUTE_ADD|{id}|app.example.com|/|http://127.0.0.1:3000|10");
    assert_eq!(peer.ask(&add).await, "ROUTE_OK|r1");
    assert_eq!(peer.ask(&format!("HEALTH_SET|{id}|r1|/|30s|5s")).await, "HEALTH_OK");
    assert_eq!(peer.ask(&format!("OPTIONS_SET|{id}|ALL|compression|true")).await, "OPTIONS_OK");
    assert_eq!(peer.ask(&format!("CONFIG_APPLY|{id}")).await, "OK");
    assert_eq!(peer.ask(&format!("PING|{id}")).await, "PONG");
    assert_eq!(server.claims(), ["app.example.com/"]);
}

#[tokio::test]
async fn a_script_may_run_one_nc_for_each_command() {
    let server = server().await;
    let id = server.nc("REGISTER|web|web-1|0|\n").await;
    let id = id.trim_end().strip_prefix("ACK|").unwrap().to_owned();
    let add = format!("ROUTE_ADD|{id}|example.com|/|http://127.0.0.1:8080|10");
    assert_eq!(server.nc(&add).await, "ROUTE_OK|r1\n", "a last line without its end is executed");
    assert_eq!(server.nc(&format!("CONFIG_APPLY|{id}\r\n")).await, "OK\n");
    assert_eq!(server.claims(), ["example.com/"]);
    assert_eq!(server.nc(&format!("CLIENT_SHUTDOWN|{id}\n")).await, "SHUTDOWN_OK\n");
    assert!(server.claims().is_empty());
}

#[tokio::test]
async fn replies_do_not_wait_for_eof_and_a_half_closed_connection_still_gets_its_own() {
    let server = server().await;
    let mut peer = server.connect().await;
    let id = peer.register("web").await;
    peer.write(&format!("PING|{id}\nBACKEND_TEST|{id}|http://127.0.0.1:9\nSESSION_INFO|{id}")).await;
    assert_eq!(peer.line().await, "PONG");
    peer.stream.get_mut().shutdown().await.unwrap();
    assert_eq!(peer.line().await, r#"BACKEND_FAIL|{"error":"connection refused","reachable":false}"#);
    assert!(peer.line().await.starts_with("SESSION_OK|"));
    assert_eq!(peer.rest().await, "");
}

#[tokio::test]
async fn thousands_of_pipelined_commands_are_answered_in_order() {
    let server = server().await;
    let mut peer = server.connect().await;
    peer.register("web").await;
    let (mut reader, mut writer) = peer.stream.into_inner().into_split();
    let commands: String = (1..=5000)
        .map(|number| format!("ROUTE_ADD||d{number}.de|/|http://127.0.0.1:80|0\n"))
        .chain(["CONFIG_APPLY|\nBACKEND_TEST||http://127.0.0.1:80\nPING|\n".to_owned()])
        .collect();
    let writing = tokio::spawn(async move {
        writer.write_all(commands.as_bytes()).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut replies = String::new();
    soon(reader.read_to_string(&mut replies)).await.unwrap();
    writing.await.unwrap();
    let replies: Vec<&str> = replies.lines().collect();
    let expected: Vec<String> = (1..=5000).map(|number| format!("ROUTE_OK|r{number}")).collect();
    assert_eq!(replies[..5000], expected);
    assert_eq!(replies[5000], "OK");
    assert!(replies[5001].starts_with("BACKEND_OK|"));
    assert_eq!(replies[5002..], ["PONG"]);
}

#[tokio::test]
async fn a_line_that_is_too_long_or_no_text_is_answered_and_survived() {
    let server = server().await;
    let mut peer = server.connect().await;
    let id = peer.register("web").await;
    assert_eq!(peer.ask(&"x".repeat(1024 * 1024)).await, "ERROR|line too long");
    peer.stream.get_mut().write_all(b"\xff\xfe\n\n\r\n").await.unwrap();
    assert_eq!(peer.line().await, "ERROR|invalid format");
    assert_eq!(peer.ask("NONSENSE|x").await, "ERROR|unknown command: NONSENSE");
    assert_eq!(peer.ask(&format!("PING|{id}")).await, "PONG");
}

#[tokio::test]
async fn garbage_half_lines_endless_lines_and_silence_disturb_no_other_session() {
    let server = server().await;
    let mut good = server.connect().await;
    let id = good.register("web").await;
    let mut bad = Vec::new();
    for number in 0..20 {
        let mut peer = server.connect().await;
        match number % 4 {
            0 => peer.stream.get_mut().write_all(&[number; 5000]).await.unwrap(),
            1 => peer.write("PI").await,
            2 => peer.write(&"y".repeat(1024 * 1024)).await,
            _ => {}
        }
        bad.push(peer);
    }
    assert_eq!(good.ask(&format!("PING|{id}")).await, "PONG");
    // Resets instead of ends, too.
    for peer in &bad {
        socket2::SockRef::from(peer.stream.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
    }
    drop(bad);
    assert_eq!(good.ask(&format!("PING|{id}")).await, "PONG");
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_not_read_from_and_costs_a_bounded_amount() {
    let server = server().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut greedy = socket.connect(server.address()).await.unwrap();
    greedy.write_all(b"REGISTER|web|web-1|0|{}\n").await.unwrap();
    let (chunk, before) = ("SESSION_INFO|\n".repeat(5000), resident());
    // As much as the sockets' buffers hold, and not the 2 GB of replies that it asks for. Nothing but time can
    // show that the server does not go on.
    let (mut written, mut stalls) = (0, 0);
    while stalls < 3 {
        match tokio::time::timeout(Duration::from_millis(400), greedy.write(chunk.as_bytes())).await {
            Ok(count) => (written, stalls) = (written + count.unwrap(), 0),
            Err(_) => stalls += 1,
        }
        assert!(written < 64 * 1024 * 1024, "the server went on reading");
    }
    let mut good = server.connect().await;
    let id = good.register("shop").await;
    assert_eq!(good.ask(&format!("PING|{id}")).await, "PONG");
    assert!(resident() - before < 16 * 1024 * 1024);
    let mut first = [0; 4];
    soon(greedy.read_exact(&mut first)).await.unwrap();
    assert_eq!(&first, b"ACK|", "it was slow, and was waited for");
}

/// Each reply is nearly as long as a line may be, and they are asked for all at once.
#[tokio::test]
async fn long_replies_to_pipelined_commands_come_all_and_in_order() {
    let server = server().await;
    let mut peer = server.connect().await;
    peer.register("web").await;
    for number in 0..500 {
        let add = format!("ROUTE_ADD||d{number:04}.example.com|/|http://127.0.0.1:80|0");
        assert!(peer.ask(&add).await.starts_with("ROUTE_OK|"));
    }
    let (mut reader, mut writer) = peer.stream.into_inner().into_split();
    writer.write_all("ROUTE_LIST|\nPING|\n".repeat(300).as_bytes()).await.unwrap();
    writer.shutdown().await.unwrap();
    let mut replies = String::new();
    soon(reader.read_to_string(&mut replies)).await.unwrap();
    let replies: Vec<&str> = replies.lines().collect();
    assert_eq!(replies.len(), 600);
    for pair in replies.chunks(2) {
        assert!(pair[0].starts_with("ROUTE_LIST_OK|[") && pair[0].len() > 50_000, "{}", pair[0].len());
        assert_eq!(pair[1], "PONG");
    }
}

/// Each is answered at once, and has its verdict behind the answer.
#[tokio::test]
async fn pipelined_maintenance_has_an_ack_and_a_verdict_for_each() {
    let server = server().await;
    let mut peer = server.connect().await;
    peer.register("web").await;
    let (mut reader, mut writer) = peer.stream.into_inner().into_split();
    writer.write_all("MAINT_ENTER||ALL|\nMAINT_EXIT||ALL\n".repeat(500).as_bytes()).await.unwrap();
    writer.shutdown().await.unwrap();
    let mut replies = String::new();
    soon(reader.read_to_string(&mut replies)).await.unwrap();
    let replies: Vec<&str> = replies.lines().collect();
    assert_eq!(replies, ["ACK", "MAINT_OK|ALL"].repeat(1000));
}

#[tokio::test]
async fn a_peer_that_speaks_http_is_let_go() {
    let server = server().await;
    let mut browser = server.connect().await;
    browser.write("GET / HTTP/1.1\r\nHost: proxy:81\r\n\r\n").await;
    assert_eq!(browser.rest().await, "");
    let mut good = server.connect().await;
    good.register("web").await;
}

#[tokio::test]
async fn a_peer_that_is_not_in_the_list_is_let_go() {
    let config = ListenerConfig { allow: vec!["10.0.0.0/8".parse().unwrap()], ..ListenerConfig::default() };
    let server = server_with(config).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let mut rest = Vec::new();
    // A reset is as good as an end.
    let _ = soon(stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_broken_connection_is_noticed_at_once_and_its_session_may_return() {
    let server = server().await;
    let mut peer = server.connect().await;
    let id = peer.register("web").await;
    assert_eq!(peer.ask("ROUTE_ADD||a.de|/|http://127.0.0.1:80|0").await, "ROUTE_OK|r1");
    assert_eq!(peer.ask("CONFIG_APPLY|").await, "OK");
    socket2::SockRef::from(peer.stream.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    let mut again = server.connect().await;
    assert_eq!(again.ask(&format!("RECONNECT|{id}")).await, "OK");
    assert_eq!(server.claims(), ["a.de/"]);
}

#[tokio::test]
async fn subscribers_hear_of_certificates_and_of_what_others_apply() {
    let server = server().await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    one.register("web").await;
    two.register("shop").await;
    assert_eq!(one.ask("SUBSCRIBE||all").await, "SUBSCRIBE_OK");
    assert_eq!(two.ask("ROUTE_ADD||b.de|/|http://127.0.0.1:80|0").await, "ROUTE_OK|r1");
    assert_eq!(two.ask("CONFIG_APPLY|").await, "OK");
    let changed = r#"EVENT|global_config_changed|{"domains":["b.de"],"domains_total":1,"service":"shop"}"#;
    assert_eq!(one.line().await, changed);
    let names = vec!["b.de".to_owned()];
    server.notify.send(Input::Certificate { names, renewed: true }).await.unwrap();
    let renewed = r#"EVENT|cert_renewed|{"names":["b.de"],"names_total":1,"renewed":true}"#;
    assert_eq!(one.line().await, renewed);
    assert_eq!(one.ask("UNSUBSCRIBE||all").await, "UNSUBSCRIBE_OK");
    assert_eq!(one.ask("PING|").await, "PONG");
}

/// Events come without being asked for, so only what a peer reads makes room for more.
#[tokio::test]
async fn a_subscriber_that_does_not_read_loses_events_and_is_told_how_many() {
    let server = server().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(server.address()).await.unwrap();
    let mut slow = Peer { stream: BufReader::new(stream) };
    slow.register("web").await;
    assert_eq!(slow.ask("SUBSCRIBE||cert_renewed").await, "SUBSCRIBE_OK");
    let before = resident();
    let name = format!("{}.example.com", "x".repeat(40));
    // 60 MB of events: the sockets' buffers hold some, the queue 32, and the rest is lost.
    const EVENTS: u64 = 30_000;
    for _ in 0..EVENTS {
        let names = vec![name.clone(); 32];
        server.notify.send(Input::Certificate { names, renewed: true }).await.unwrap();
    }
    let mut good = server.connect().await;
    let id = good.register("shop").await;
    assert_eq!(good.ask(&format!("PING|{id}")).await, "PONG");
    assert!(resident().saturating_sub(before) < 16 * 1024 * 1024);
    let (mut seen, mut missed) = (0, 0);
    while seen + missed < EVENTS {
        let line = slow.line().await;
        match line.strip_prefix(r#"EVENT|all|{"missed":"#) {
            Some(count) => missed += count.trim_end_matches('}').parse::<u64>().unwrap(),
            None => seen += u64::from(line.starts_with("EVENT|cert_renewed|")),
        }
    }
    assert_eq!(seen + missed, EVENTS, "each is either seen or told to be missed");
    assert!(missed > 0 && seen >= 32, "{seen} seen, {missed} missed");
    assert_eq!(slow.ask("PING|").await, "PONG");
}

#[tokio::test]
async fn a_stop_says_shutdown_to_everybody_and_then_eof() {
    let server = server().await;
    let (mut bound, silent) = (server.connect().await, server.connect().await);
    bound.register("web").await;
    // So that the other one is known to be accepted as well.
    let mut later = server.connect().await;
    later.register("shop").await;
    let address = server.address();
    soon(server.handle.stop()).await;
    for peer in [bound, silent, later] {
        assert_eq!(peer.rest().await, "SHUTDOWN\n");
    }
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

/// 64 KiB without an end, ten thousand times: what a peer can make the server hold is one line.
#[tokio::test]
async fn an_endless_line_takes_bounded_memory() {
    let before = resident();
    let server = server().await;
    let mut peers = Vec::new();
    for _ in 0..8 {
        let mut peer = server.connect().await;
        for _ in 0..64 {
            peer.write(&"z".repeat(128 * 1024)).await;
        }
        peers.push(peer);
    }
    let mut good = server.connect().await;
    good.register("web").await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "64 MiB were sent, and {grown} bytes are held");
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
