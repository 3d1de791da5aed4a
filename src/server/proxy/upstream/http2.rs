//! HTTP/2 connections to one member, which many requests share.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, HOST};
use http::uri::{Authority, Scheme as UriScheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioTimer;
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::time::sleep;

use crate::server::proxy::local_executor::LocalExecutor;

use super::request_body::RequestBody;
use super::tls::PooledName;

/// Requests on one connection before another is made, even if the backend allows more.
const MAX_STREAMS: usize = 200;
/// Connections of one worker to one member. When all are full, further requests go to the one with the fewest.
const MAX_CONNECTIONS: usize = 8;
/// How long the proxy remembers that a backend chose HTTP/1.1 when it was offered HTTP/2.
const HTTP1_MEMORY: Duration = Duration::from_secs(60);
/// How long a connection with requests on it may be silent before it gets a PING.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long the backend may take to answer a PING before the connection is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a backend may take to send its SETTINGS, the first frame of each connection.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of a response h2 may hold before its client takes it.
const STREAM_WINDOW: u32 = 64 * 1024;
/// As much for each stream, so that clients that do not read hold up nobody else's response.
const CONNECTION_WINDOW: u32 = MAX_STREAMS as u32 * STREAM_WINDOW;
/// The largest response head that is accepted, in bytes.
const MAX_HEAD: u32 = 64 * 1024;

/// One worker's HTTP/2 connections to one member.
#[derive(Default)]
pub(super) struct Http2Connections {
    connections: RefCell<Vec<Http2Connection>>,
    /// Held by the request that makes a connection.
    connecting: Mutex<()>,
    failed_at: Cell<Option<Instant>>,
    /// When the backend last chose HTTP/1.1.
    http1_at: Cell<Option<Instant>>,
}

struct Http2Connection {
    sender: http2::SendRequest<RequestBody>,
    name: PooledName,
    scheme: UriScheme,
    made_at: Instant,
    usage: Rc<Usage>,
}

/// A connection as the backend has accepted it.
pub(super) struct NewHttp2Connection {
    sender: http2::SendRequest<RequestBody>,
    usage: Rc<Usage>,
}

struct Usage {
    streams: Cell<usize>,
    last_used: Cell<Instant>,
    /// How many streams the backend allows at once; `None`: its SETTINGS have not come yet.
    allowed: Cell<Option<usize>>,
    /// The SETTINGS have come, a stream has ended, or the connection.
    changed: Notify,
}

impl Usage {
    fn new() -> Self {
        Usage {
            streams: Cell::new(0),
            last_used: Cell::new(Instant::now()),
            allowed: Cell::new(None),
            changed: Notify::new(),
        }
    }

    /// Whether another request can go without waiting for another one's end. The first request needs no SETTINGS: h2 sends
    /// it once they have come.
    fn has_place(&self) -> bool {
        self.streams.get() < self.allowed.get().unwrap_or(1).min(MAX_STREAMS)
    }

    /// Whether only the SETTINGS will tell if another request can go.
    fn awaits_settings(&self) -> bool {
        self.allowed.get().is_none() && self.streams.get() > 0
    }
}

/// One request's stream; the connection counts it until this is dropped.
pub(crate) struct Http2Stream {
    sender: http2::SendRequest<RequestBody>,
    scheme: UriScheme,
    usage: Rc<Usage>,
}

impl Http2Stream {
    pub(super) fn send(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> {
        // From an attempt on an HTTP/1.1 connection.
        request.headers_mut().remove(CONNECTION);
        move_host_to_target(&mut request, self.scheme.clone());
        self.sender.try_send_request(request)
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        self.usage.streams.set(self.usage.streams.get() - 1);
        self.usage.last_used.set(Instant::now());
        if self.usage.allowed.get().is_none() {
            self.usage.changed.notify_waiters();
        }
    }
}

/// HTTP/2 has the host in the target instead of a Host header.
fn move_host_to_target(request: &mut Request<RequestBody>, scheme: UriScheme) {
    let host = request.headers_mut().remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if authority.is_some() {
        parts.scheme = Some(scheme);
        parts.authority = authority;
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

impl Http2Connections {
    /// Opens a stream on the connection for `name` with the fewest streams. `None` if there is no such connection, or
    /// all are full and another may be made.
    pub(super) fn stream(&self, name: &PooledName) -> Option<Http2Stream> {
        self.stream_since(name, None)
    }

    /// Like [`Http2Connections::stream`], but only on connections that were made at `since` or later.
    pub(super) fn stream_since(&self, name: &PooledName, since: Option<Instant>) -> Option<Http2Stream> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.sender.is_closed());
        let is_full = connections.len() >= MAX_CONNECTIONS;
        connections
            .iter()
            .filter(|connection| connection.name == *name && since.is_none_or(|at| connection.made_at >= at))
            .min_by_key(|connection| connection.usage.streams.get())
            .filter(|connection| is_full || connection.usage.has_place())
            .map(Http2Connection::open_stream)
    }

    /// Adds a new connection and opens the first stream on it.
    pub(super) fn add(
        &self,
        NewHttp2Connection { sender, usage }: NewHttp2Connection,
        name: PooledName,
        scheme: UriScheme,
    ) -> Http2Stream {
        let connection = Http2Connection { sender, name, scheme, made_at: Instant::now(), usage };
        let first = connection.open_stream();
        let mut connections = self.connections.borrow_mut();
        // Clients choose the names, so there may be many. The oldest connection leaves the pool and closes after its
        // last request.
        if connections.len() >= MAX_CONNECTIONS {
            connections.remove(0);
        }
        connections.push(connection);
        first
    }

    /// Waits until no other request makes a connection. The caller may make one while it holds the guard.
    pub(super) async fn lock_connecting(&self) -> MutexGuard<'_, ()> {
        self.connecting.lock().await
    }

    /// Waits until each connection for `name` has told how many streams it takes: a request that is sent before that may
    /// be one too many. Returns whether none has ended without telling.
    pub(super) async fn settled(&self, name: &PooledName) -> bool {
        let unsettled = || {
            let connections = self.connections.borrow();
            let mut open = connections.iter().filter(|connection| !connection.sender.is_closed());
            let found =
                open.find(|connection| connection.name == *name && connection.usage.awaits_settings());
            found.map(|connection| (connection.sender.clone(), Rc::clone(&connection.usage)))
        };
        while let Some((sender, usage)) = unsettled() {
            usage.changed.notified().await;
            if sender.is_closed() && usage.allowed.get().is_none() {
                return false;
            }
        }
        true
    }

    pub(super) fn connect_failed(&self, now: Instant) {
        self.failed_at.set(Some(now));
    }

    pub(super) fn failed_since(&self, since: Instant) -> bool {
        self.failed_at.get().is_some_and(|at| at >= since)
    }

    pub(super) fn backend_chose_http1(&self, now: Instant) {
        self.http1_at.set(Some(now));
    }

    /// Whether the backend is known to choose HTTP/1.1.
    pub(super) fn is_http1(&self, now: Instant) -> bool {
        self.http1_at.get().is_some_and(|at| now.saturating_duration_since(at) < HTTP1_MEMORY)
    }

    /// Drops connections that are closed or have been idle for `max_idle`. Returns whether anything is left to keep.
    pub(super) fn drop_idle(&self, now: Instant, max_idle: Duration) -> bool {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| {
            let used = connection.usage.streams.get() > 0
                || now.saturating_duration_since(connection.usage.last_used.get()) < max_idle;
            used && !connection.sender.is_closed()
        });
        !connections.is_empty() || self.is_http1(now) || self.connecting.try_lock().is_err()
    }
}

impl Http2Connection {
    fn open_stream(&self) -> Http2Stream {
        self.usage.streams.set(self.usage.streams.get() + 1);
        let (sender, scheme) = (self.sender.clone(), self.scheme.clone());
        Http2Stream { sender, scheme, usage: Rc::clone(&self.usage) }
    }
}

/// Starts HTTP/2 on a connection.
pub(super) async fn handshake<T>(io: T) -> hyper::Result<NewHttp2Connection>
where
    T: Read + Write + Unpin + 'static,
{
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // None before the backend has said how many.
        .initial_max_send_streams(0)
        .max_header_list_size(MAX_HEAD);
    let (sender, connection) = builder.handshake(io).await?;
    let usage = Rc::new(Usage::new());
    tokio::task::spawn_local(drive(connection, Rc::clone(&usage)));
    Ok(NewHttp2Connection { sender, usage })
}

/// Drives a connection to its end, and keeps `usage` informed of how many streams the backend allows.
async fn drive<T>(connection: http2::Connection<T, RequestBody, LocalExecutor>, usage: Rc<Usage>)
where
    T: Read + Write + Unpin + 'static,
{
    // The connection is dropped before those are woken that wait for it.
    let ended = Ended(usage);
    let usage = &ended.0;
    let mut connection = pin!(connection);
    let mut patience = pin!(sleep(SETTINGS_TIMEOUT));
    poll_fn(|cx| {
        // The requests' own futures return the error.
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let allowed = connection.current_max_send_streams();
        let was_settled = usage.allowed.get().is_some();
        if !was_settled && allowed == 0 {
            return patience.as_mut().poll(cx);
        }
        usage.allowed.set(Some(allowed));
        if !was_settled {
            usage.changed.notify_waiters();
        }
        Poll::Pending
    })
    .await;
}

/// Wakes who waits for a connection that has ended.
struct Ended(Rc<Usage>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.changed.notify_waiters();
    }
}
