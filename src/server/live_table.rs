//! The routing table in force: one writer, and readers on every core that may wait for its next version.
//!
//! The registry's task publishes; the data plane loads a snapshot for each request and, where nobody can
//! serve it now, waits for a change. This knows nothing of either.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{broadcast, watch};

use crate::server::routing::{MemberId, Table};

/// Ejections that a listener may be behind; it then loses the oldest.
const EJECTIONS: usize = 256;

/// The table that requests are matched by.
#[derive(Debug)]
pub struct LiveTable {
    table: ArcSwap<Table>,
    changed: watch::Sender<()>,
    left: watch::Sender<()>,
    ejections: broadcast::Sender<MemberId>,
}

impl Default for LiveTable {
    /// Without a claim.
    fn default() -> Self {
        let (changed, left) = (watch::Sender::new(()), watch::Sender::new(()));
        let (ejections, _) = broadcast::channel(EJECTIONS);
        LiveTable { table: ArcSwap::from_pointee(Table::default()), changed, left, ejections }
    }
}

impl LiveTable {
    /// The table as it is now: one atomic load.
    pub fn load(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// Puts `table` in force and wakes everybody who waits for a change.
    pub fn store(&self, table: Arc<Table>) {
        self.table.store(table);
        self.changed.send_replace(());
    }

    /// Tells those who have upgraded connections that members have left.
    pub fn announce_departure(&self) {
        self.left.send_replace(());
    }

    /// Tells from now on when members have left; which, their loads say.
    pub fn departures(&self) -> watch::Receiver<()> {
        self.left.subscribe()
    }

    /// Tells that requests to a member failed so often that it is left out, or that it has answered since.
    pub fn announce_ejection(&self, member: MemberId) {
        // Nobody may be listening.
        let _ = self.ejections.send(member);
    }

    /// Tells from now on whose ejection has changed; how, its load says.
    pub fn ejections(&self) -> broadcast::Receiver<MemberId> {
        self.ejections.subscribe()
    }

    /// Tells of every change from now on. Whoever loads the table after this call and waits then misses none.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}
