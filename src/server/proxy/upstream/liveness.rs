//! Finds connections to backends whose host is gone without a word, such as a container that was given another address.
//!
//! TCP itself goes on sending for a quarter of an hour. TCP_USER_TIMEOUT is no cure: it also ends connections to
//! backends that live and do not read for a while. So the kernel is asked, once a second, about connections on which
//! something was written and nothing has come: a connection is dead if sent bytes are unacknowledged and nothing was
//! acknowledged for [`LIMIT`]. A backend that does not read acknowledges all the same. Connections on which nothing is
//! unacknowledged are left to TCP keepalive (see `dial`).
//!
//! It must not know requests: a dead connection fails like one that was reset.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::tcp_diag::{TcpDiag, TcpState};

/// How often the kernel is asked.
const LOOK: Duration = Duration::from_secs(1);
/// How long sent bytes may stay unacknowledged.
const LIMIT: Duration = Duration::from_secs(15);

/// One worker's connections.
#[derive(Default)]
pub(super) struct Liveness {
    watched: RefCell<Vec<Entry>>,
    last_look: Cell<Option<Instant>>,
    diag: RefCell<Diag>,
}

/// The way to ask the kernel.
#[derive(Default)]
enum Diag {
    #[default]
    Unopened,
    Open(TcpDiag),
    /// This kernel does not answer.
    Unavailable,
}

/// What is known of a connection.
struct Entry {
    connection: Arc<Connection>,
    history: History,
}

/// What the looks at a connection have shown so far.
#[derive(Debug, Default)]
struct History {
    /// How often was read at the last look.
    reads: u64,
    /// How often had been written when nothing was unacknowledged.
    delivered: u64,
    /// Since when bytes are known to be unacknowledged.
    stuck_since: Option<Instant>,
}

/// What a stream and the looks at it share.
struct Connection {
    local: SocketAddr,
    peer: SocketAddr,
    reads: AtomicU64,
    writes: AtomicU64,
    is_dead: AtomicBool,
    reader: AtomicWaker,
}

/// A connection to a backend. Reading from it fails once it is dead.
pub(super) struct WatchedStream {
    stream: TcpStream,
    /// `None`: the system does not tell its addresses.
    connection: Option<Arc<Connection>>,
}

impl Liveness {
    /// Watches a connection until the stream is dropped.
    pub(super) fn watch(&self, stream: TcpStream) -> WatchedStream {
        let addresses = stream.local_addr().and_then(|local| Ok((local, stream.peer_addr()?)));
        let connection = addresses.ok().map(|(local, peer)| {
            let (reads, writes, is_dead) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
            Arc::new(Connection { local, peer, reads, writes, is_dead, reader: AtomicWaker::new() })
        });
        if let Some(connection) = &connection {
            let entry = Entry { connection: Arc::clone(connection), history: History::default() };
            self.watched.borrow_mut().push(entry);
        }
        WatchedStream { stream, connection }
    }

    /// Asks the kernel, if that is due, and ends the connections that are dead.
    pub(super) fn look(&self, now: Instant) {
        if self.last_look.get().is_some_and(|last| now.saturating_duration_since(last) < LOOK) {
            return;
        }
        self.last_look.set(Some(now));
        let mut diag = self.diag.borrow_mut();
        self.watched.borrow_mut().retain_mut(|Entry { connection, history }| {
            // The stream holds the other one.
            if Arc::strong_count(connection) == 1 {
                return false;
            }
            let (reads, writes) =
                (connection.reads.load(Ordering::Relaxed), connection.writes.load(Ordering::Relaxed));
            if !history.is_to_be_asked_for(reads, writes) {
                return true;
            }
            let Some(state) = diag.ask(connection) else { return true };
            let is_dead = history.note(&state, writes, now);
            if is_dead {
                tracing::debug!(backend = %connection.peer, "acknowledges nothing any more");
                connection.is_dead.store(true, Ordering::Relaxed);
                connection.reader.wake();
            }
            !is_dead
        });
    }
}

impl Diag {
    /// The kernel's state of a connection; `None` where it has none or does not answer.
    fn ask(&mut self, connection: &Connection) -> Option<TcpState> {
        if let Diag::Unopened = self {
            *self = TcpDiag::open().map_or(Diag::Unavailable, Diag::Open);
        }
        let Diag::Open(diag) = self else { return None };
        match diag.connection(connection.local, connection.peer) {
            Ok(state) => state,
            Err(error) => {
                tracing::debug!(%error, "the kernel does not tell the state of connections");
                *self = Diag::Unavailable;
                None
            }
        }
    }
}

impl History {
    /// Whether something may be unacknowledged: what has come since the last look acknowledges, and what was delivered
    /// stays so until something is written.
    fn is_to_be_asked_for(&mut self, reads: u64, writes: u64) -> bool {
        if std::mem::replace(&mut self.reads, reads) != reads {
            self.stuck_since = None;
            return false;
        }
        writes != self.delivered
    }

    /// Whether the connection is dead. `writes` was counted before the kernel was asked.
    fn note(&mut self, state: &TcpState, writes: u64, now: Instant) -> bool {
        if state.unacknowledged == 0 {
            self.stuck_since = None;
            if state.undelivered == 0 {
                self.delivered = writes;
            }
            return false;
        }
        // The last acknowledgement may be older than what was sent, so only the looks tell how long that has waited.
        let is_stuck = |since: &Instant| now.saturating_duration_since(*since) <= state.since_acknowledged;
        let since = self.stuck_since.filter(is_stuck).unwrap_or(now);
        self.stuck_since = Some(since);
        now.saturating_duration_since(since) >= LIMIT
    }
}

impl WatchedStream {
    fn count_write(&self) {
        if let Some(connection) = &self.connection {
            connection.writes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let Some(connection) = &self.connection else { return read };
        if read.is_ready() {
            connection.reads.fetch_add(1, Ordering::Relaxed);
            return read;
        }
        connection.reader.register(cx.waker());
        if connection.is_dead.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.count_write();
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.count_write();
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn state(undelivered: u32, unacknowledged: u32, since_acknowledged: u64) -> TcpState {
        TcpState {
            unread: 0,
            undelivered,
            unacknowledged,
            data_segments: (1, 1),
            since_sent: Duration::ZERO,
            since_received: Duration::from_secs(3600),
            since_acknowledged: Duration::from_secs(since_acknowledged),
        }
    }

    /// Whether it is dead after looks of one second each at these states, in which nothing comes.
    fn dead_after(states: impl IntoIterator<Item = TcpState>) -> Option<usize> {
        let (mut history, begun) = (History::default(), Instant::now());
        states.into_iter().enumerate().position(|(second, state)| {
            let now = begun + Duration::from_secs(second as u64);
            history.is_to_be_asked_for(0, 1) && history.note(&state, 1, now)
        })
    }

    #[test]
    fn only_what_is_unacknowledged_for_long_is_dead() {
        let silent = |second: u64| state(100, 1, 3600 + second);
        assert_eq!(
            dead_after((0..60).map(silent)),
            Some(15),
            "counted from what was sent, not from the last ACK"
        );
        assert_eq!(
            dead_after((0..60).map(|_| state(100, 0, 3600))),
            None,
            "a backend that does not read lives"
        );
        assert_eq!(
            dead_after((0_u64..60).map(|second| state(100, 1, second % 10))),
            None,
            "slowly, but it does"
        );
        assert_eq!(dead_after((0..60).map(|_| state(0, 0, 3600))), None);
        let late =
            (0_u64..20).map(|second| if second < 5 { state(9, 1, second) } else { state(9, 1, second - 4) });
        assert_eq!(dead_after(late), None, "one ACK begins the count anew");
    }

    #[test]
    fn the_kernel_is_asked_only_while_something_may_be_unacknowledged() {
        let (mut history, now) = (History::default(), Instant::now());
        assert!(!history.is_to_be_asked_for(0, 0), "nothing was written");
        assert!(history.is_to_be_asked_for(0, 2));
        assert!(!history.note(&state(0, 0, 0), 2, now));
        assert!(!history.is_to_be_asked_for(0, 2), "all is delivered");
        assert!(history.is_to_be_asked_for(0, 3));
        assert!(!history.is_to_be_asked_for(1, 3), "something has come");
    }

    #[tokio::test]
    async fn a_living_backend_is_left_alone_and_a_reader_learns_of_death() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_backend, _) = listener.accept().await.unwrap();
        let liveness = Liveness::default();
        let mut watched = liveness.watch(stream);
        watched.write_all(b"a request").await.unwrap();
        liveness.look(Instant::now());
        let connection = Arc::clone(watched.connection.as_ref().unwrap());
        assert_eq!(liveness.watched.borrow()[0].history.delivered, 1, "the kernel was asked");
        let reading = tokio::spawn(async move { watched.read_u8().await });
        tokio::task::yield_now().await;
        connection.is_dead.store(true, Ordering::Relaxed);
        connection.reader.wake();
        assert_eq!(reading.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(connection);
        liveness.look(Instant::now() + LOOK);
        assert!(liveness.watched.borrow().is_empty());
    }
}
