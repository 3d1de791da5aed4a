//! Counts and tells what becomes of clients for whom there is no room.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Between two lines of the log about one thing.
const TELL_AGAIN: u64 = 60_000;

/// What became of clients for whom there was no room, over all workers.
#[derive(Debug)]
pub(crate) struct Crowd {
    epoch: Instant,
    /// Idle clients that were closed.
    pub(crate) closed: AtomicU64,
    /// Clients that were refused because their address has too many connections.
    pub(crate) refused: AtomicU64,
    /// When the log may speak of a full house again, and of refused clients: milliseconds since `epoch`.
    next_full: AtomicU64,
    next_refused: AtomicU64,
}

impl Crowd {
    pub(super) fn new() -> Self {
        Crowd {
            epoch: Instant::now(),
            closed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            next_full: AtomicU64::new(0),
            next_refused: AtomicU64::new(0),
        }
    }

    /// A newcomer has to wait.
    pub(super) fn is_full(&self, connections: usize) {
        if self.may_tell(&self.next_full) {
            tracing::warn!(
                connections,
                closed = self.closed.load(Ordering::Relaxed),
                "MAX_CONNECTIONS are open: new clients wait, and idle ones are closed to make room"
            );
        }
    }

    /// A client was refused.
    pub(super) fn refuse(&self, address: std::net::IpAddr) {
        let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        if self.may_tell(&self.next_refused) {
            tracing::warn!(%address, refused, "more connections than MAX_CLIENT_CONNECTIONS_PER_ADDRESS; closed");
        }
    }

    fn may_tell(&self, next: &AtomicU64) -> bool {
        let now = self.epoch.elapsed().as_millis() as u64;
        let due = next.load(Ordering::Relaxed);
        let order = Ordering::Relaxed;
        now >= due && next.compare_exchange(due, now + TELL_AGAIN, order, order).is_ok()
    }
}
