//! Sockets that tell what they see, and a proxy with a table to write into.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use registry_sidecar::server::live_table::LiveTable;
use registry_sidecar::server::proxy::{Proxy, ProxyConfig};
use registry_sidecar::server::routing::{
    BackendPolicy, Claim, Endpoint, Extras, Hold, Member, MemberId, Settings, Terms,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Nothing in these tests takes this long unless it never comes.
const SOON: Duration = Duration::from_secs(10);

/// The result of something that must happen.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("it did not happen")
}

/// Waits until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// One end of a connection that speaks HTTP by hand.
pub(crate) struct Peer {
    stream: BufReader<TcpStream>,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Peer { stream: BufReader::new(stream) }
    }

    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Peer::new(soon(TcpStream::connect(addr)).await.unwrap())
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.stream.get_mut().write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends to somebody who may not want to hear it.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        soon(self.stream.get_mut().write_all(bytes.as_ref())).await
    }

    /// Sends a head and a body for as long as it takes, to somebody who may leave.
    #[allow(dead_code, reason = "for tests/proxy_tls.rs")]
    pub(crate) async fn stream_all(&mut self, head: &str, body: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(head.as_bytes()).await?;
        self.stream.get_mut().write_all(body).await
    }

    /// A head, with its empty line. `None`: the other end has closed or broken the connection.
    pub(crate) async fn head(&mut self) -> Option<String> {
        let mut head = String::new();
        loop {
            match soon(self.stream.read_line(&mut head)).await {
                Ok(0) | Err(_) => return None,
                Ok(_) if head.ends_with("\r\n\r\n") => return Some(head),
                Ok(_) => {}
            }
        }
    }

    pub(crate) async fn exactly(&mut self, count: usize) -> String {
        String::from_utf8(self.bytes(count).await).unwrap()
    }

    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        soon(self.stream.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// Everything until the other end is gone, however it goes.
    pub(crate) async fn all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let _ = soon(self.stream.read_to_end(&mut all)).await;
        all
    }

    /// Everything until the other end closes; an error if it breaks.
    pub(crate) async fn rest(&mut self) -> std::io::Result<String> {
        let mut text = String::new();
        soon(self.stream.read_to_string(&mut text)).await.map(|_| text)
    }

    /// A head and as much body as it announces.
    pub(crate) async fn response(&mut self) -> Response {
        let head = self.head().await.expect("a response");
        let body = match field(&head, "content-length") {
            Some(length) => self.exactly(length.parse().unwrap()).await,
            None => String::new(),
        };
        Response { head, body }
    }

    /// Waits until the other end is gone, however it goes.
    pub(crate) async fn gone(&mut self) {
        self.all().await;
    }

    /// Breaks the connection off with a reset.
    pub(crate) fn reset(self) {
        let stream = self.stream.into_inner();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

pub(crate) struct Response {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }
}

/// A header's value in a head.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A server whose answers a test writes.
pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    pub(crate) accepted: Arc<AtomicUsize>,
    /// The heads that [`Backend::answering`] got.
    pub(crate) heads: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backend {
    /// Each connection is given to `serve`.
    pub(crate) async fn new<F, Fut>(serve: F) -> Self
    where
        F: Fn(Peer) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(Peer::new(stream)));
            }
        });
        Backend { addr, accepted, heads: Arc::default(), task }
    }

    /// Answers each request without a body with `response`, and keeps the heads.
    pub(crate) async fn answering(response: impl Into<String>) -> Self {
        let response = response.into();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&heads);
        let serve = move |mut peer: Peer| {
            let (response, kept) = (response.clone(), Arc::clone(&kept));
            async move {
                while let Some(head) = peer.head().await {
                    kept.lock().unwrap().push(head);
                    peer.send(&response).await;
                }
            }
        };
        let mut backend = Backend::new(serve).await;
        backend.heads = heads;
        backend
    }

    /// Answers `200` with `text`.
    pub(crate) async fn saying(text: &str) -> Self {
        Backend::answering(ok(text)).await
    }

    pub(crate) fn last_head(&self) -> String {
        self.heads.lock().unwrap().last().expect("a request").clone()
    }

    pub(crate) fn accepts(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

/// A response with a length.
pub(crate) fn ok(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

/// An address that refuses connections for as long as the socket lives: bound, not listening.
pub(crate) fn refusing() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    (socket, url)
}

/// What was written so far.
#[derive(Clone, Default)]
pub(crate) struct Output(Arc<Mutex<Vec<u8>>>);

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    /// All lines, once there are so many.
    pub(crate) async fn lines(&self, count: usize) -> Vec<String> {
        until(|| self.text().lines().count() >= count).await;
        self.text().lines().map(str::to_owned).collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// A proxy and its table.
pub(crate) struct Stage {
    pub(crate) proxy: Proxy,
    table: Arc<LiveTable>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Stage::with(|_| {})
    }

    pub(crate) fn with(configure: impl FnOnce(&mut ProxyConfig)) -> Self {
        let mut config = ProxyConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            workers: 2,
            policy: BackendPolicy::default(),
            ..ProxyConfig::default()
        };
        configure(&mut config);
        let table = Arc::new(LiveTable::default());
        let proxy = Proxy::start(config, Arc::clone(&table)).unwrap();
        Stage { proxy, table }
    }

    /// A proxy for `example.com/` with one backend.
    pub(crate) fn before(backend: &Backend) -> Self {
        let stage = Stage::new();
        stage.route("example.com", "/", vec![member(1, &backend.url())]);
        stage
    }

    /// A proxy of one worker, whose connections all requests share, for `example.com/` with one backend.
    pub(crate) fn of_one_worker(backend: &str) -> Self {
        let stage = Stage::with(|config| config.workers = 1);
        stage.route("example.com", "/", vec![member(1, backend)]);
        stage
    }

    pub(crate) fn route(&self, domain: &str, path: &str, members: Vec<Member>) {
        self.claim(domain, path, members, Hold::default());
    }

    /// Requests that nobody claims wait for so long.
    pub(crate) fn hold_unclaimed(&self, time: Duration) {
        self.table.hold_unclaimed(Instant::now() + time);
    }

    /// How many requests that nobody claims wait.
    pub(crate) fn unclaimed(&self) -> usize {
        self.table.unclaimed_waiting()
    }

    /// A claim that has lost its members, and for which requests wait.
    pub(crate) fn held(&self, domain: &str, hold: &Hold) {
        self.claim(domain, "/", vec![], hold.clone());
    }

    fn claim(&self, domain: &str, path: &str, members: Vec<Member>, hold: Hold) {
        let mut table = (**self.table.load()).clone();
        table.put(Claim {
            owns_host: false,
            domain: domain.parse().unwrap(),
            path: path.parse().unwrap(),
            terms: members.last().map_or_else(|| Arc::new(terms("web-1")), |last| Arc::clone(&last.terms)),
            limit: None,
            hold,
            members: members.into(),
        });
        self.table.store(Arc::new(table));
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.proxy.local_addr()
    }

    pub(crate) async fn client(&self) -> Peer {
        Peer::connect(self.addr()).await
    }

    /// GET on a connection of its own.
    pub(crate) async fn get(&self, host: &str, path: &str) -> Response {
        let mut client = self.client().await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        client.response().await
    }

    /// Sends `request` as it is, and reads one response.
    pub(crate) async fn raw(&self, request: &str) -> Response {
        let mut client = self.client().await;
        client.send(request).await;
        client.response().await
    }
}

pub(crate) fn member(id: u64, url: &str) -> Member {
    Member {
        endpoint: Arc::new(Endpoint::new(MemberId(id), url.parse().unwrap())),
        terms: Arc::new(terms(&format!("web-{id}"))),
        route: Arc::default(),
        usable: true,
    }
}

fn terms(instance: &str) -> Terms {
    Terms {
        service: "web".parse().unwrap(),
        instance: instance.parse().unwrap(),
        peer: "127.0.0.1".parse().unwrap(),
        priority: 10,
        hold: Duration::ZERO,
        settings: Settings::default(),
        extras: Extras::default(),
        drain: None,
    }
}

/// A member with settings of its own.
pub(crate) fn member_with(id: u64, url: &str, change: impl FnOnce(&mut Settings)) -> Member {
    let mut member = member(id, url);
    change(&mut Arc::make_mut(&mut member.terms).settings);
    member
}
