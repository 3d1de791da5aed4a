//! A whole server in this process, sessions by hand over TCP, and backends that can be stopped in order.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use registry_sidecar::environment::Context;
use registry_sidecar::server::Server;
use registry_sidecar::server::config::Config;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// Nothing in these tests takes this long unless it never comes.
const SOON: Duration = Duration::from_secs(20);

/// The result of something that must happen.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("it did not happen")
}

/// Waits until `condition` holds.
pub(crate) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    soon(async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A registry with its proxy on free ports; `vars` besides.
pub(crate) async fn server(vars: &[(&str, &str)]) -> Server {
    let ports = [
        ("HTTP_LISTEN", "127.0.0.1:0"),
        ("REGISTRY_LISTEN", "127.0.0.1:0"),
        ("PROXY_THREADS", "2"),
        ("START_HOLD", "0s"),
    ];
    let vars = ports.iter().chain(vars).map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let read_file = |path: &std::path::Path| std::fs::read(path).map_err(|e| e.to_string());
    let config = Config::from_env(vars, Context { host_name: "proxy", read_file: &read_file }).unwrap();
    Server::start(&config).await.unwrap()
}

/// A connection to the registry.
pub(crate) struct Session {
    stream: BufReader<TcpStream>,
    pub(crate) id: String,
}

impl Session {
    pub(crate) async fn connect(server: &Server) -> Session {
        Session::on(soon(TcpStream::connect(server.registry_address())).await.unwrap())
    }

    pub(crate) fn on(stream: TcpStream) -> Session {
        Session { stream: BufReader::new(stream), id: String::new() }
    }

    /// A session of its own.
    pub(crate) async fn register(server: &Server, service: &str, instance: &str) -> Session {
        let mut session = Session::connect(server).await;
        let reply = session.ask(&format!("REGISTER|{service}|{instance}|0|")).await;
        session.id = reply.strip_prefix("ACK|").expect(&reply).to_owned();
        session
    }

    /// A session of its own with `backend` at `domain`, applied.
    pub(crate) async fn live(
        server: &Server,
        service: &str,
        instance: &str,
        domain: &str,
        backend: &Backend,
    ) -> Session {
        let mut session = Session::register(server, service, instance).await;
        session.route(domain, &backend.url()).await;
        session
    }

    /// Adds a route and applies it.
    pub(crate) async fn route(&mut self, domain: &str, url: &str) {
        let added = self.ask(&format!("ROUTE_ADD||{domain}|/|{url}|0")).await;
        assert!(added.starts_with("ROUTE_OK|"), "{added}");
        assert_eq!(self.ask("CONFIG_APPLY|").await, "OK");
    }

    pub(crate) async fn send(&mut self, line: &str) {
        soon(self.stream.get_mut().write_all(format!("{line}\n").as_bytes())).await.unwrap();
    }

    /// Says that nothing more comes, and goes on reading.
    pub(crate) async fn finish(&mut self) {
        soon(self.stream.get_mut().shutdown()).await.unwrap();
    }

    /// The next line; empty at EOF.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        soon(self.stream.read_line(&mut line)).await.unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) async fn ask(&mut self, line: &str) -> String {
        self.send(line).await;
        self.line().await
    }

    /// A number in DRAIN_STATUS's reply.
    pub(crate) async fn drain_status(&mut self, key: &str) -> f64 {
        self.drain().await[key].as_f64().unwrap()
    }

    /// Requests in flight, and upgraded connections.
    pub(crate) async fn counts(&mut self) -> (f64, f64) {
        let drain = self.drain().await;
        (drain["in_flight"].as_f64().unwrap(), drain["upgraded"].as_f64().unwrap())
    }

    async fn drain(&mut self) -> serde_json::Value {
        let reply = self.ask("DRAIN_STATUS|").await;
        serde_json::from_str(reply.strip_prefix("DRAIN_STATUS_OK|").expect(&reply)).unwrap()
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn drained(&mut self) {
        soon(async {
            while self.drain_status("in_flight").await > 0.0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

/// A web server that says who it is, and can be stopped as good ones are: it lets requests finish.
pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    listening: tokio::task::JoinHandle<()>,
}

struct Shared {
    name: String,
    status: u16,
    /// Requests wait for `go` before they are answered.
    slow: AtomicBool,
    go: Notify,
    open: AtomicUsize,
    requests: AtomicUsize,
    /// The last request that was no probe of the registry's, and the last that was: they come when they like.
    last_head: std::sync::Mutex<String>,
    last_probe: std::sync::Mutex<String>,
    /// The last bytes of an upgraded connection, which else sends back what it gets.
    farewell: std::sync::Mutex<Vec<u8>>,
}

impl Backend {
    pub(crate) async fn new(name: &str) -> Backend {
        Backend::with_status(name, 200).await
    }

    pub(crate) async fn with_status(name: &str, status: u16) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Backend::on(listener, name, status)
    }

    pub(crate) fn on(listener: TcpListener, name: &str, status: u16) -> Backend {
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            status,
            slow: AtomicBool::new(false),
            go: Notify::new(),
            open: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            last_head: std::sync::Mutex::default(),
            last_probe: std::sync::Mutex::default(),
            farewell: std::sync::Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let listening = tokio::spawn(listen(listener, Arc::clone(&shared), stopped));
        Backend { addr, shared, stop, listening }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn slow(&self, slow: bool) {
        self.shared.slow.store(slow, Ordering::SeqCst);
        if !slow {
            self.shared.go.notify_waiters();
        }
    }

    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// What somebody asked last, probes apart.
    pub(crate) fn last_head(&self) -> String {
        self.shared.last_head.lock().unwrap().clone()
    }

    /// What the registry asked last to see whether this backend answers.
    pub(crate) fn last_probe(&self) -> String {
        self.shared.last_probe.lock().unwrap().clone()
    }

    pub(crate) fn farewell(&self) -> Vec<u8> {
        self.shared.farewell.lock().unwrap().clone()
    }

    /// Stops listening, lets requests finish, closes idle connections.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        soon(self.listening).await.unwrap();
        let shared = &self.shared;
        until(async || shared.open.load(Ordering::SeqCst) == 0).await;
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let told = stop.clone();
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                shared.open.fetch_add(1, Ordering::SeqCst);
                let (shared, stop) = (Arc::clone(&shared), told.clone());
                tokio::spawn(async move {
                    // A broken connection is the other end's affair.
                    let _ = serve(stream, &shared, stop).await;
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        }
    }
}

async fn serve(stream: TcpStream, shared: &Shared, mut stop: watch::Receiver<bool>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        tokio::select! {
            biased;
            first = stream.read_line(&mut head) => if first? == 0 { return Ok(()) },
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let probed = field(&head, "user-agent") == Some("registry-server-probe");
        let last = if probed { &shared.last_probe } else { &shared.last_head };
        last.lock().unwrap().clone_from(&head);
        if field(&head, "upgrade").is_some() {
            return echo(stream, shared).await;
        }
        let go = shared.go.notified();
        if shared.slow.load(Ordering::SeqCst) {
            go.await;
        }
        let text = format!("{} {length}", shared.name);
        let answer =
            format!("HTTP/1.1 {} Status\r\nContent-Length: {}\r\n\r\n{text}", shared.status, text.len());
        stream.get_mut().write_all(answer.as_bytes()).await?;
    }
}

/// Switches, and sends back what it gets; the end of it is remembered.
async fn echo(mut stream: BufReader<TcpStream>, shared: &Shared) -> std::io::Result<()> {
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.get_mut().write_all(head.as_bytes()).await?;
    let mut bytes = [0; 1024];
    loop {
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        *shared.farewell.lock().unwrap() = bytes[..count].to_vec();
        stream.get_mut().write_all(&bytes[..count]).await?;
    }
}

/// A header's value in a head.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// What a request was answered with.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }
}

/// A client's connection to the proxy.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) async fn connect(server: &Server) -> std::io::Result<Client> {
        let stream = TcpStream::connect(server.http_address()).await?;
        stream.set_nodelay(true)?;
        Ok(Client(BufReader::new(stream)))
    }

    pub(crate) async fn send(&mut self, text: &str) -> std::io::Result<()> {
        self.0.get_mut().write_all(text.as_bytes()).await
    }

    pub(crate) async fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        soon(self.0.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// Bytes until the other end closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = soon(self.0.read_to_end(&mut rest)).await;
        rest
    }

    pub(crate) async fn answer(&mut self) -> std::io::Result<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        Ok(Answer { status, head, body: String::from_utf8(body).unwrap() })
    }
}

/// One GET on a connection of its own.
pub(crate) async fn get(server: &Server, domain: &str) -> Answer {
    get_path(server, domain, "/").await
}

pub(crate) async fn get_path(server: &Server, domain: &str, path: &str) -> Answer {
    let mut client = Client::connect(server).await.unwrap();
    client.send(&format!("GET {path} HTTP/1.1\r\nHost: {domain}\r\n\r\n")).await.unwrap();
    soon(client.answer()).await.unwrap()
}
