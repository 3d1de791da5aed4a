//! Connections to one member that many requests share (HTTP/2).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::uri::Scheme as UriScheme;
use hyper::client::conn::http2;
use hyper::rt::{Executor, Read, Write};
use hyper_util::rt::TokioTimer;
use tokio::sync::{Mutex, MutexGuard};

use super::super::body::Upload;
use super::{ConnectError, MAX_IDLE, Sender, ServerName, Upstream};

/// Requests on one connection before another is made, whatever the backend would allow.
const MAX_STREAMS: usize = 200;
/// Connections to one member by one worker. Beyond, requests wait for their turn on the emptiest.
const MAX_CONNECTIONS: usize = 8;
/// How long it is believed that a backend that was offered HTTP/2 took HTTP/1.1.
const HTTP1_AGE: Duration = Duration::from_secs(60);
/// A connection with requests on it that is silent for this long is asked for a sign of life …
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// … and ends if there is none for this long.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest response head that is taken.
const MAX_HEAD: u32 = 64 * 1024;

/// What one worker has of one member.
#[derive(Default)]
pub(super) struct Shared {
    connections: RefCell<Vec<Connection>>,
    /// Held by whoever makes a connection.
    turn: Mutex<()>,
    failed_at: Cell<Option<Instant>>,
    http1_at: Cell<Option<Instant>>,
}

struct Connection {
    sender: http2::SendRequest<Upload>,
    name: ServerName,
    scheme: UriScheme,
    made_at: Instant,
    use_: Rc<Use>,
}

/// How much a connection is used.
struct Use {
    streams: Cell<usize>,
    last: Cell<Instant>,
}

/// One request's place on a connection, until it is dropped.
pub(in crate::server::proxy) struct Stream {
    pub(super) sender: http2::SendRequest<Upload>,
    scheme: UriScheme,
    use_: Rc<Use>,
}

impl Stream {
    pub(super) fn scheme(&self) -> UriScheme {
        self.scheme.clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.use_.streams.set(self.use_.streams.get() - 1);
        self.use_.last.set(Instant::now());
    }
}

impl Shared {
    /// A place on a connection there is, unless all are full and there may be another.
    pub(super) fn stream(&self, name: &ServerName) -> Option<Upstream> {
        self.stream_since(name, None)
    }

    /// The same, on a connection that was made after `since`.
    pub(super) fn stream_since(&self, name: &ServerName, since: Option<Instant>) -> Option<Upstream> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.sender.is_closed());
        let is_full = connections.len() >= MAX_CONNECTIONS;
        connections
            .iter()
            .filter(|connection| connection.name == *name && since.is_none_or(|at| connection.made_at >= at))
            .min_by_key(|connection| connection.use_.streams.get())
            .filter(|connection| is_full || connection.use_.streams.get() < MAX_STREAMS)
            .map(|connection| connection.place(true))
    }

    /// Keeps a new connection; the first place on it.
    pub(super) fn add(
        &self,
        sender: http2::SendRequest<Upload>,
        name: ServerName,
        scheme: UriScheme,
    ) -> Upstream {
        let made_at = Instant::now();
        let use_ = Rc::new(Use { streams: Cell::new(0), last: Cell::new(made_at) });
        let connection = Connection { sender, name, scheme, made_at, use_ };
        let first = connection.place(false);
        let mut connections = self.connections.borrow_mut();
        // Names are the clients' choice: the oldest connection makes room, and ends with its last request.
        if connections.len() >= MAX_CONNECTIONS {
            connections.remove(0);
        }
        connections.push(connection);
        first
    }

    /// Waits until nobody else makes a connection.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(super) fn note_failure(&self, now: Instant) {
        self.failed_at.set(Some(now));
    }

    pub(super) fn failed_since(&self, since: Instant) -> bool {
        self.failed_at.get().is_some_and(|at| at >= since)
    }

    pub(super) fn note_http1(&self, now: Instant) {
        self.http1_at.set(Some(now));
    }

    /// Whether the backend, offered HTTP/2, took HTTP/1.1.
    pub(super) fn is_http1(&self, now: Instant) -> bool {
        self.http1_at.get().is_some_and(|at| now.saturating_duration_since(at) < HTTP1_AGE)
    }

    /// Closes what has been idle for too long. Returns whether there is anything left to remember.
    pub(super) fn drop_old(&self, now: Instant) -> bool {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| {
            let used = connection.use_.streams.get() > 0
                || now.saturating_duration_since(connection.use_.last.get()) < MAX_IDLE;
            used && !connection.sender.is_closed()
        });
        !connections.is_empty() || self.is_http1(now) || self.turn.try_lock().is_err()
    }
}

impl Connection {
    fn place(&self, reused: bool) -> Upstream {
        self.use_.streams.set(self.use_.streams.get() + 1);
        let (sender, scheme) = (self.sender.clone(), self.scheme.clone());
        Upstream { sender: Sender::Http2(Stream { sender, scheme, use_: Rc::clone(&self.use_) }), reused }
    }
}

/// Speaks HTTP/2 on a connection.
pub(super) async fn http2_over<T>(io: T) -> Result<http2::SendRequest<Upload>, ConnectError>
where
    T: Read + Write + Unpin + 'static,
{
    let mut builder = http2::Builder::new(OnThisThread);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_header_list_size(MAX_HEAD);
    let (sender, connection) = builder.handshake(io).await?;
    tokio::task::spawn_local(async move {
        // Whoever waits for a response learns of the error.
        let _ = connection.await;
    });
    Ok(sender)
}

/// What HTTP/2 does on the side stays on the worker's thread.
#[derive(Debug, Clone, Copy)]
pub(in crate::server::proxy) struct OnThisThread;

impl<F: Future + 'static> Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
