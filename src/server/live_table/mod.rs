//! The current routing table, with one writer and many readers.
//!
//! The registry's task stores a new table after each change. The proxy loads a snapshot for each request and, if no
//! member can serve it now, waits for the next table; `start_hold` counts those that nobody claims. This module must not
//! know either of them.

mod start_hold;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{broadcast, watch};

use crate::server::routing::{MemberId, Table};

pub use start_hold::{MAX_WAITING_AT_START, MAX_WAITING_OF_CLIENT, StartHold, UnclaimedRequest};

/// How many ejections a subscriber may be behind before it loses the oldest.
const MAX_UNREAD_EJECTIONS: usize = 256;

/// The current table, and news of changes.
#[derive(Debug)]
pub struct LiveTable {
    table: ArcSwap<Table>,
    changed: watch::Sender<()>,
    left: watch::Sender<()>,
    ejections: broadcast::Sender<MemberId>,
    start_hold: OnceLock<StartHold>,
    /// Nothing is known yet of who serves what.
    is_loading: AtomicBool,
}

impl Default for LiveTable {
    /// An empty table.
    fn default() -> Self {
        let (changed, left) = (watch::Sender::new(()), watch::Sender::new(()));
        let (ejections, _) = broadcast::channel(MAX_UNREAD_EJECTIONS);
        LiveTable {
            table: ArcSwap::from_pointee(Table::default()),
            changed,
            left,
            ejections,
            start_hold: OnceLock::new(),
            is_loading: AtomicBool::new(false),
        }
    }
}

impl LiveTable {
    /// A table that is empty because it was not read yet.
    pub fn loading() -> Self {
        LiveTable { is_loading: AtomicBool::new(true), ..LiveTable::default() }
    }

    /// Whether the table is empty because it was not read yet.
    pub fn is_loading(&self) -> bool {
        self.is_loading.load(Ordering::Relaxed)
    }

    /// The table is read.
    pub fn loaded(&self) {
        self.is_loading.store(false, Ordering::Relaxed);
    }

    /// The current table. Costs one atomic load.
    pub fn load(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// Replaces the table and wakes all that wait for a change.
    pub fn store(&self, table: Arc<Table>) {
        self.table.store(table);
        self.changed.send_replace(());
    }

    /// The table lacks what was applied before the start, so requests that nobody claims may wait until then. Only the
    /// first call counts.
    pub fn hold_unclaimed(&self, until: Instant) {
        self.start_hold.get_or_init(|| StartHold::new(until));
    }

    /// Where requests wait that nobody claims; `None`: the table had everything at the start.
    pub fn start_hold(&self) -> Option<&StartHold> {
        self.start_hold.get()
    }

    /// How many requests wait that nobody claims.
    pub fn unclaimed_waiting(&self) -> usize {
        self.start_hold.get().map_or(0, StartHold::waiting_requests)
    }

    /// Wakes all that wait for a change, although the table is the same: what the proxy knows of a member has changed.
    pub fn wake(&self) {
        self.changed.send_replace(());
    }

    /// Tells subscribers of [`LiveTable::departures`] that a member has left.
    pub fn announce_departure(&self) {
        self.left.send_replace(());
    }

    /// Changes whenever a member leaves, from now on.
    /// [`MemberLoad::has_left`](crate::server::routing::MemberLoad::has_left) tells which.
    pub fn departures(&self) -> watch::Receiver<()> {
        self.left.subscribe()
    }

    /// Tells subscribers of [`LiveTable::ejections`] that a member was ejected, or has answered since.
    pub fn announce_ejection(&self, member: MemberId) {
        // Fails only if there is no subscriber.
        let _ = self.ejections.send(member);
    }

    /// Receives members whose ejection changes, from now on. A member's load has its state. A subscriber that is more
    /// than 256 behind loses the oldest.
    pub fn ejections(&self) -> broadcast::Receiver<MemberId> {
        self.ejections.subscribe()
    }

    /// Changes whenever the table is replaced, from now on. A reader that subscribes before it loads the table misses
    /// no change.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}
