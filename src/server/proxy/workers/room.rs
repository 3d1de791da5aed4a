//! Makes room for newcomers while MAX_CONNECTIONS are open: closes clients that are idle.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::worker::Connections;

/// The part of a worker's connections that is closed at once, if that many are idle, and at most how many.
const BATCH: (usize, usize) = (64, 32);
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

/// Closes some idle clients whenever a newcomer of any worker waits.
pub(super) async fn make_room(connections: Rc<Connections>) {
    loop {
        connections.balancer.room_wanted(connections.context.number).await;
        let closed = close_idle(&connections);
        connections.balancer.crowd.closed.fetch_add(closed as u64, Ordering::Relaxed);
    }
}

/// First those that never completed a request, then those that have been idle for the longest time. Returns how many.
fn close_idle(connections: &Connections) -> usize {
    let now = connections.context.clock.now();
    let open = connections.open.borrow();
    let mut idle: Vec<_> =
        open.values().filter_map(|client| Some((client.order_of_leaving(now)?, client))).collect();
    let batch = (open.len() / BATCH.0).clamp(1, BATCH.1).min(idle.len());
    if batch < idle.len() {
        idle.select_nth_unstable_by_key(batch, |(order, _)| *order);
    }
    for (_, client) in &idle[..batch] {
        client.make_way();
    }
    batch
}
