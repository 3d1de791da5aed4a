//! Counts what the proxy holds for clients of HTTP/2: parts of responses that wait for a client to take them, and
//! encoders. A client of HTTP/1 holds one response back, and its socket does that by itself; one of HTTP/2 may hold back as
//! many as it has streams, each behind a window that it does not open.
//!
//! What is counted is counted until the socket has taken it. A connection that holds more than [`CONNECTION_BUDGET`] gets
//! one part a stream, and nobody is cut off for that. Only where all clients together hold more than MAX_BUFFERED are
//! connections cut off, the one that has taken nothing for the longest time first.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures_util::task::AtomicWaker;

/// The largest part of a response that is given to an HTTP/2 connection at once, and read from a backend for one.
pub(crate) const MAX_PART: usize = 16 * 1024;
/// What a connection may hold before its streams get one part each.
const CONNECTION_BUDGET: usize = 2 * 1024 * 1024;
/// From here on parts are copied, so that a part does not keep the larger buffer alive that it was read into.
const COPY_FROM: usize = 128 * 1024;
/// Between two warnings that clients were cut off.
const WARNING_PAUSE: u64 = 60_000;

/// What all clients of a proxy hold.
#[derive(Debug)]
pub(crate) struct Buffered {
    epoch: Instant,
    /// MAX_BUFFERED
    limit: usize,
    bytes: AtomicUsize,
    cut_off: AtomicU64,
    /// When the next warning may be given, in milliseconds since `epoch`.
    next_warning: AtomicU64,
    /// The connections of HTTP/2 clients.
    connections: Mutex<Vec<Weak<ConnectionBuffer>>>,
}

/// What one connection holds.
#[derive(Debug)]
pub(crate) struct ConnectionBuffer {
    all: Arc<Buffered>,
    bytes: AtomicUsize,
    /// When the client last took something, or held nothing: milliseconds since the epoch of `all`.
    taken_at: AtomicU64,
    is_cut_off: AtomicBool,
    /// Wakes the task that drives the connection.
    driver: AtomicWaker,
}

/// What one response holds.
#[derive(Debug)]
pub(crate) struct StreamBuffer {
    connection: Arc<ConnectionBuffer>,
    bytes: AtomicUsize,
    body: AtomicWaker,
}

/// Bytes that count until they are dropped.
struct Counted {
    bytes: Bytes,
    stream: Arc<StreamBuffer>,
}

/// Memory that counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    all: Arc<Buffered>,
    bytes: usize,
}

impl Buffered {
    pub(crate) fn new(limit: usize) -> Self {
        Buffered {
            epoch: Instant::now(),
            limit,
            bytes: AtomicUsize::new(0),
            cut_off: AtomicU64::new(0),
            next_warning: AtomicU64::new(0),
            connections: Mutex::default(),
        }
    }

    /// How many bytes are held now.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many connections were cut off.
    pub(crate) fn cut_off(&self) -> u64 {
        self.cut_off.load(Ordering::Relaxed)
    }

    /// A new connection of HTTP/2.
    pub(crate) fn connection(self: &Arc<Self>) -> Arc<ConnectionBuffer> {
        let connection = Arc::new(ConnectionBuffer {
            all: Arc::clone(self),
            bytes: AtomicUsize::new(0),
            taken_at: AtomicU64::new(self.now()),
            is_cut_off: AtomicBool::new(false),
            driver: AtomicWaker::new(),
        });
        if let Ok(mut connections) = self.connections.lock() {
            if connections.len() == connections.capacity() {
                connections.retain(|known| known.strong_count() > 0);
            }
            connections.push(Arc::downgrade(&connection));
        }
        connection
    }

    /// Counts `bytes` of memory; `None` where more than half of what may be held is.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reserved> {
        if self.is_tight() {
            return None;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(Reserved { all: Arc::clone(self), bytes })
    }

    fn is_tight(&self) -> bool {
        self.bytes() > self.limit / 2
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// Cuts connections off until the others hold no more than MAX_BUFFERED.
    fn cut_off_longest_stalled(&self) {
        // Another thread is at it.
        let Ok(mut known) = self.connections.try_lock() else { return };
        known.retain(|connection| connection.strong_count() > 0);
        let all: Vec<_> = known.iter().filter_map(Weak::upgrade).collect();
        let (leaving, mut others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|connection| connection.is_cut_off());
        let gone: usize = leaving.iter().map(|connection| connection.bytes()).sum();
        let mut excess = self.bytes().saturating_sub(gone).saturating_sub(self.limit);
        others.retain(|connection| connection.bytes() > 0);
        others.sort_by_key(|connection| connection.taken_at.load(Ordering::Relaxed));
        for connection in others {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(connection.bytes());
            self.cut_off.fetch_add(1, Ordering::Relaxed);
            connection.is_cut_off.store(true, Ordering::Relaxed);
            connection.driver.wake();
            self.warn();
        }
    }

    fn warn(&self) {
        let (now, next) = (self.now(), self.next_warning.load(Ordering::Relaxed));
        let order = Ordering::Relaxed;
        if now >= next && self.next_warning.compare_exchange(next, now + WARNING_PAUSE, order, order).is_ok()
        {
            tracing::warn!(
                limit = self.limit,
                cut_off = self.cut_off(),
                "HTTP/2 clients leave more unread than MAX_BUFFERED; those that took nothing for the longest time are cut off"
            );
        }
    }
}

impl ConnectionBuffer {
    /// A new response on the connection.
    pub(crate) fn stream(self: &Arc<Self>) -> Arc<StreamBuffer> {
        let connection = Arc::clone(self);
        Arc::new(StreamBuffer { connection, bytes: AtomicUsize::new(0), body: AtomicWaker::new() })
    }

    /// Whether the connection is to be closed.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(Ordering::Relaxed)
    }

    /// Has the current task woken when the connection is cut off.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.driver.register(cx.waker());
    }

    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl StreamBuffer {
    /// Pending while the response is to wait until its last part was taken.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let is_over = self.connection.bytes() > CONNECTION_BUDGET || self.connection.all.is_tight();
        if !is_over || self.bytes.load(Ordering::Relaxed) == 0 {
            return Poll::Ready(());
        }
        self.body.register(cx.waker());
        // It may have been taken before the waker was there: by the connection's task, which is on this thread too, but
        // that is not this module's to know.
        if self.bytes.load(Ordering::Relaxed) == 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Counts `bytes` until the last piece of the result is dropped.
    pub(crate) fn count(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        let ConnectionBuffer { all, bytes: held, taken_at, .. } = &*self.connection;
        let length = bytes.len();
        let before = held.fetch_add(length, Ordering::Relaxed);
        self.bytes.fetch_add(length, Ordering::Relaxed);
        if before == 0 {
            taken_at.store(all.now(), Ordering::Relaxed);
        }
        let bytes = if before > COPY_FROM { Bytes::copy_from_slice(&bytes) } else { bytes };
        let counted = Bytes::from_owner(Counted { bytes, stream: Arc::clone(self) });
        if all.bytes.fetch_add(length, Ordering::Relaxed) + length > all.limit {
            all.cut_off_longest_stalled();
        }
        counted
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let (length, connection) = (self.bytes.len(), &self.stream.connection);
        connection.all.bytes.fetch_sub(length, Ordering::Relaxed);
        connection.bytes.fetch_sub(length, Ordering::Relaxed);
        connection.taken_at.store(connection.all.now(), Ordering::Relaxed);
        self.stream.bytes.fetch_sub(length, Ordering::Relaxed);
        self.stream.body.wake();
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.all.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    fn room(stream: &StreamBuffer) -> bool {
        stream.poll_room(&Context::from_waker(Waker::noop())).is_ready()
    }

    fn part(length: usize) -> Bytes {
        Bytes::from(vec![0; length])
    }

    #[test]
    fn bytes_count_until_their_last_piece_is_gone() {
        let all = Arc::new(Buffered::new(usize::MAX));
        let stream = all.connection().stream();
        let mut counted = stream.count(part(10));
        let piece = counted.split_to(4);
        drop(counted);
        assert_eq!(all.bytes(), 10);
        drop(piece);
        assert_eq!((all.bytes(), stream.connection.bytes()), (0, 0));
    }

    #[test]
    fn over_the_budget_a_stream_waits_for_its_own_part() {
        let all = Arc::new(Buffered::new(usize::MAX));
        let connection = all.connection();
        let (first, second) = (connection.stream(), connection.stream());
        let held = first.count(part(CONNECTION_BUDGET + 1));
        assert!(!room(&first) && room(&second));
        let other = second.count(part(1));
        assert!(!room(&second));
        drop(held);
        assert!(room(&first) && room(&second), "within the budget nobody waits");
        drop(other);
        assert_eq!(all.cut_off(), 0);
    }

    #[test]
    fn who_took_nothing_for_longest_is_cut_off_first_and_nobody_else() {
        let all = Arc::new(Buffered::new(100));
        let [reads, stalls, idle] = [all.connection(), all.connection(), all.connection()];
        let (reading, stalling) = (reads.stream(), stalls.stream());
        let early = reading.count(part(20));
        sleep(Duration::from_millis(2));
        let _unread = stalling.count(part(70));
        sleep(Duration::from_millis(2));
        drop(early);
        let _more = reading.count(part(40));
        assert!(stalls.is_cut_off() && !reads.is_cut_off() && !idle.is_cut_off());
        let _more = reading.count(part(40));
        assert!(!reads.is_cut_off(), "what is about to go no longer counts");
    }

    #[test]
    fn memory_is_reserved_only_while_half_of_it_is_free() {
        let all = Arc::new(Buffered::new(100));
        let first = all.reserve(60).unwrap();
        assert!(all.reserve(1).is_none());
        drop(first);
        assert!(all.reserve(1).is_some());
    }
}
