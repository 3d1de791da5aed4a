//! The registry over real sockets: what a peer, or somebody with `nc`, sees on port 81.
#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

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

/// What one peer says and reads, a row of PROTOCOL section 3 after the other. `S` is the session's id.
const EXCHANGES: &[(&str, &str)] = &[
    (r#"REGISTER|web|web-1|3001|{"version":"1"}"#, "ACK|"),
    ("RECONNECT|S", "OK"),
    ("RECONNECT|web-1-1700000000000-00000000000000000000000000000000", "REREGISTER"),
    ("PING|S", "PONG"),
    (
        "SESSION_INFO|S",
        r#"SESSION_OK|{"session_id":"S","service_name":"web","instance_name":"web-1","connected_at":""#,
    ),
    ("ROUTE_ADD|S|a.de,b.de|/|http://127.0.0.1:8080|10", "ROUTE_OK|r1"),
    (
        r#"ROUTE_ADD_BULK|S|[{"domains":["c.de"],"path":"/","backend_url":"http://127.0.0.1:8080","priority":1}]"#,
        r#"ROUTE_BULK_OK|[{"route_id":"r2","status":"ok"}]"#,
    ),
    ("ROUTE_UPDATE|S|r1|priority|20", "ROUTE_OK"),
    ("ROUTE_UPDATE|S|r1|backend_url|http://127.0.0.1:8081", "ROUTE_OK"),
    ("ROUTE_UPDATE|S|r1|domains|a.de", "ROUTE_OK"),
    ("ROUTE_UPDATE|S|r1|path|/api", "ROUTE_OK"),
    ("ROUTE_UPDATE|S|r1|colour|blue", "ERROR|unknown field"),
    ("ROUTE_REMOVE|S|r2", "ROUTE_OK"),
    (
        "ROUTE_LIST|S|",
        r#"ROUTE_LIST_OK|[{"route_id":"r1","domains":["a.de"],"path":"/api","backend":"http://127.0.0.1:8081/","priority":20,"status":"staged"}]"#,
    ),
    ("ROUTE_LIST|S|compressed", "ROUTE_LIST_OK|H4sI"),
    ("HEADERS_SET|S|ALL|X-Frame-Options|DENY", "HEADERS_OK"),
    ("HEADERS_SET|S|r1|X-Served-By|web|1", "HEADERS_OK"),
    ("HEADERS_REMOVE|S|r1|X-Served-By", "HEADERS_OK"),
    ("OPTIONS_SET|S|ALL|compression|true", "OPTIONS_OK"),
    ("OPTIONS_REMOVE|S|ALL|compression", "OPTIONS_OK"),
    ("HEALTH_SET|S|r1|/health|30s|5s", "HEALTH_OK"),
    ("RATELIMIT_SET|S|r1|100|1m", "RATELIMIT_OK"),
    ("CIRCUIT_BREAKER_SET|S|ALL|5|30s|3", "CIRCUIT_OK"),
    ("CIRCUIT_BREAKER_STATUS|S|r1", "ERROR|circuit breaker not found"),
    (
        "CONFIG_DIFF|S",
        r#"DIFF_OK|{"routes":{"added":["r1"],"removed":[],"modified":[]},"headers":{"added":1,"removed":0},"options":{"modified":0},"health":{"modified":1},"ratelimit":{"modified":1},"circuit":{"modified":1}}"#,
    ),
    ("ROUTE_ADD|S|taken.de|/|http://127.0.0.1:8080|10", "ROUTE_OK|r3"),
    ("CONFIG_VALIDATE|S", "ERROR|route r3: taken.de/ belongs to service shop"),
    ("CONFIG_APPLY|S", "ERROR|route r3: taken.de/ belongs to service shop"),
    ("ROUTE_REMOVE|S|r3", "ROUTE_OK"),
    ("CONFIG_VALIDATE|S", "OK"),
    ("CONFIG_APPLY_PARTIAL|S|routes,health", "OK"),
    ("CONFIG_APPLY|S", "OK"),
    (
        "CIRCUIT_BREAKER_STATUS|S|r1",
        r#"CIRCUIT_STATUS_OK|{"state":"closed","failures":0,"successes":0,"last_failure":"","next_attempt":"","healthy":true,"in_maintenance":false,"draining":false}"#,
    ),
    ("CIRCUIT_BREAKER_RESET|S|r1", "CIRCUIT_OK"),
    ("ROUTE_REMOVE|S|r1", "ROUTE_OK"),
    ("CONFIG_ROLLBACK|S", "OK"),
    ("DRAIN_STATUS|S", "ERROR|no drain in progress"),
    ("DRAIN_START|S|30", "DRAIN_OK|20"),
    ("DRAIN_STATUS|S", r#"DRAIN_STATUS_OK|{"active":true,"started_at":"20"#),
    ("DRAIN_CANCEL|S", "DRAIN_OK"),
    ("DRAIN_CANCEL|S", "ERROR|no drain in progress"),
    ("MAINT_ENTER|S|ALL|", "ACK"),
    ("", "MAINT_OK|ALL"),
    (
        "MAINT_STATUS|S",
        r#"MAINT_STATUS_OK|{"in_maintenance":["r1"],"maintenance_backend":"","entered_at":"20"#,
    ),
    ("MAINT_STATUS|S|after=r1", r#"MAINT_STATUS_OK|{"in_maintenance":[],"#),
    ("MAINT_EXIT|S|r1", "ACK"),
    ("", "MAINT_OK|r1"),
    ("STATS_GET|S|r1", r#"STATS_OK|{"route_id":"r1","requests":0,"errors":0,"avg_latency_ms":0.0,"#),
    ("STATS_GET|S|ALL", r#"STATS_OK|[{"route_id":"r1","#),
    ("STATS_GET|S||after=r1", "STATS_OK|[]"),
    ("BACKEND_TEST|S|http://127.0.0.1:80", r#"BACKEND_OK|{"reachable":true,"response_time_ms":"#),
    ("BACKEND_TEST|S|http://127.0.0.1:9", r#"BACKEND_FAIL|{"error":"connection refused","reachable":false}"#),
    ("SUBSCRIBE|S|all", "SUBSCRIBE_OK"),
    ("UNSUBSCRIBE|S|all", "UNSUBSCRIBE_OK"),
    ("CLIENT_SHUTDOWN|S", "SHUTDOWN_OK"),
];

/// Answers that say all there is, as against those of which the rest is times or random.
const WHOLE: [&str; 19] = [
    "OK",
    "REREGISTER",
    "PONG",
    "SHUTDOWN_OK",
    "ROUTE_OK",
    "ROUTE_OK|r1",
    "ROUTE_OK|r3",
    "HEADERS_OK",
    "OPTIONS_OK",
    "HEALTH_OK",
    "RATELIMIT_OK",
    "CIRCUIT_OK",
    "DRAIN_OK",
    "ACK",
    "MAINT_OK|ALL",
    "MAINT_OK|r1",
    "STATS_OK|[]",
    "SUBSCRIBE_OK",
    "UNSUBSCRIBE_OK",
];

#[tokio::test]
async fn every_row_of_the_protocols_commands_is_answered_as_it_says_on_a_real_socket() {
    let server = server().await;
    let mut other = server.connect().await;
    other.register("shop").await;
    assert_eq!(other.ask("ROUTE_ADD||taken.de|/|http://127.0.0.1:80|0").await, "ROUTE_OK|r1");
    assert_eq!(other.ask("CONFIG_APPLY|").await, "OK");
    let mut peer = server.connect().await;
    let mut id = "S".to_owned();
    for (command, expected) in EXCHANGES {
        let line = command.replacen("|S", &format!("|{id}"), 1);
        let reply = if line.is_empty() { peer.line().await } else { peer.ask(&line).await };
        if let Some(given) = reply.strip_prefix("ACK|") {
            id = given.to_owned();
        }
        let shown = reply.replace(&id, "S");
        let is_right = match expected {
            whole if WHOLE.contains(whole) || whole.starts_with("ERROR|") => shown == *whole,
            beginning => shown.starts_with(beginning),
        };
        assert!(is_right, "{command}\n  was answered {shown}\n  and not      {expected}");
    }
    assert_eq!(peer.rest().await, "", "EOF behind SHUTDOWN_OK");
}

/// The names and the replies in the table of docs/PROTOCOL.md, section 3, against those above.
#[test]
fn every_row_of_the_protocols_commands_has_an_exchange_for_each_of_its_replies() {
    let page = include_str!("../docs/PROTOCOL.md").replace("\\|", "|");
    let section = page.split("\n## 3. Commands").nth(1).unwrap().split("\n## 4.").next().unwrap();
    let mut rows = 0;
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let quoted: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let name = quoted[0].split('|').next().unwrap();
        let is_command = name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        if !is_command {
            continue;
        }
        rows += 1;
        // The second column: the first reply, and the others behind an `or`.
        let replies = row.split(" | ").nth(1).unwrap();
        for reply in replies.split('`').skip(1).step_by(2) {
            let word = reply.split('|').next().unwrap();
            let is_for = |(command, expected): &&(&str, &str)| {
                command.split('|').next() == Some(name) && expected.split('|').next() == Some(word)
            };
            // Why an apply is refused has tests of its own; it needs a second service.
            let is_elsewhere = word == "ERROR" && name.starts_with("CONFIG_");
            assert!(
                is_elsewhere || EXCHANGES.iter().any(|e| is_for(&e)),
                "{name} with {word} is never asked"
            );
        }
    }
    assert_eq!(rows, 34, "every command of the protocol has a row");
}
