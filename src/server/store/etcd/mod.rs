//! The store that replicas share: etcd (`docs/internals/cluster.md`).
//!
//! One replica leads. Its registry decides, and asks this store to hold each change. All replicas read what is held, in
//! the order of etcd's revisions, and their registries follow it.
//!
//! | file | what it decides or does |
//! |---|---|
//! | `mod` (this) | what the rest of the server sees: [`SharedStore`], [`Cluster`], [`Feed`] |
//! | `layout`, `values` | pure: keys and values |
//! | `image` | pure: what etcd holds, and the changes that each revision made |
//! | `transaction` | pure: from changes to transactions |
//! | `commit` | pure: one commit, until it is certain what became of it |
//! | `leadership` | pure: whether this replica leads |
//! | `presence` | pure: what replicas say of themselves |
//! | `housekeeping` | pure: what is written that nobody waits for |
//! | `backoff` | pure: pauses between tries |
//! | `clock` | the clock of leases and proofs |
//! | `leadership_rpc` | asks etcd about the leadership |
//! | `reader` | loads and watches etcd |
//! | `copy` | a copy in a local file |
//! | `task` | carries everything out |
//! | `transfer` | a cluster as a document, and from one |
//!
//! Nothing in here knows the registry's rules, its connections or the proxy.

mod backoff;
mod clock;
mod commit;
mod copy;
mod housekeeping;
mod image;
mod layout;
mod leadership;
mod leadership_rpc;
mod presence;
mod reader;
mod task;
mod transaction;
mod transfer;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use registry_nodes::{ConfigError, Error};
use tokio::sync::{mpsc, oneshot, watch};

use crate::server::registry::persist::{SavedState, StoreChange};
use crate::server::registry::{StoreRevision, Term, Tx};

use super::{Decision, Store};

pub use presence::{Presence, RELAY, SETTINGS};
pub use transfer::{TransferError, export_cluster, import_cluster};

/// How many changes may wait. Beyond that a change is rejected at once.
const OUTSTANDING: usize = 65_536;
/// How much a registry may be behind before this waits for it.
const FEED: usize = 64;

/// How the store is reached, and who this replica is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// etcd, and the path below which everything is. One base path is one cluster.
    pub etcd: registry_nodes::Config,
    /// What tells this replica from the others. It may be the same after a restart.
    pub replica: String,
    /// In whole seconds: for how long a leader that is gone is waited for.
    pub ttl: Duration,
    /// The boot in which this server runs.
    pub boot_id: String,
    /// How often to say that this server is alive.
    pub alive: Duration,
    /// What this replica says of itself, [`RELAY`] and [`SETTINGS`] included.
    pub presence: Presence,
    /// STATE_FILE: where a copy of what etcd holds is kept; `None`: nowhere.
    pub copy: Option<PathBuf>,
}

/// What the registry of a replica is told, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Feed {
    /// Everything that is held at a revision: at the beginning, after this replica has led, and after changes were missed.
    /// Revision 0: that is the copy in the local file, and what etcd holds comes later.
    Loaded(StoreRevision, Box<SavedState>),
    /// What the commit of a revision changed. Only a replica that follows is told.
    Changed(StoreRevision, Vec<StoreChange>),
    /// This replica leads. It has been told of everything that was committed before.
    Lead(Term),
    /// This replica follows; `None`: nobody leads. [`Feed::Loaded`] comes next, unless only the leader is another one.
    Follow(Option<LeaderInfo>),
    /// What is known may be out of date: etcd does not answer.
    Unreachable(Error),
    /// What is known is up to date again.
    Back,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderInfo {
    /// Which replica.
    pub replica: String,
    /// Where it takes the connections of other replicas; `None`: nowhere.
    pub relay: Option<String>,
    /// Since when.
    pub term: Term,
}

/// How things are, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The revision that this replica knows; 0: it has not read anything yet.
    pub revision: u64,
    /// How many sessions are held.
    pub sessions: usize,
    /// Who leads, this replica included.
    pub leader: Option<LeaderInfo>,
    /// Whether this replica leads.
    pub leads: bool,
    /// Why what is known may be out of date.
    pub trouble: Option<Error>,
    /// The replicas that are present, by their ids.
    pub replicas: BTreeMap<String, Presence>,
    /// The keys that this version cannot read, and why. A replica with such keys does not stand.
    pub unreadable: BTreeMap<String, String>,
}

/// The shared store as the registry of a replica sees it. When it is dropped, the changes that wait are written, the
/// leadership is given up, and [`Store::take_end`] ends.
#[derive(Debug)]
pub struct SharedStore {
    changes: mpsc::UnboundedSender<(Tx, StoreChange)>,
    said: mpsc::UnboundedReceiver<Said>,
    turns: mpsc::UnboundedSender<()>,
    outstanding: usize,
    end: Option<oneshot::Receiver<()>>,
}

/// What the store tells the registry's task.
#[derive(Debug)]
enum Said {
    Decided(Tx, Decision),
    /// It is to show that it still has turns.
    Turn,
}

/// The cluster as the rest of the server sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster {
    proven_until: Arc<AtomicU64>,
    status: watch::Receiver<Status>,
    stop: mpsc::UnboundedSender<()>,
}

/// Begins to follow the cluster, and to stand for its leadership. etcd need not be there yet.
///
/// # Errors
/// What is wrong with the settings, files that cannot be read included.
///
/// # Panics
/// Outside a runtime of tokio.
pub fn start(settings: Settings) -> Result<(SharedStore, Cluster, mpsc::Receiver<Feed>), ConfigError> {
    let (changes, queue) = mpsc::unbounded_channel();
    let (say, said) = mpsc::unbounded_channel();
    let (turns, turned) = mpsc::unbounded_channel();
    let (stop, stops) = mpsc::unbounded_channel();
    let (tell, feed) = mpsc::channel(FEED);
    let (show, status) = watch::channel(Status::default());
    let (running, end) = oneshot::channel();
    let proven_until = Arc::new(AtomicU64::new(0));
    let ends = task::Ends { queue, say, turned, stops, tell, show, proven_until: proven_until.clone() };
    let task = task::Task::new(settings, ends)?;
    tokio::spawn(async move {
        task.run().await;
        drop(running);
    });
    let store = SharedStore { changes, said, turns, outstanding: 0, end: Some(end) };
    Ok((store, Cluster { proven_until, status, stop }, feed))
}

impl Store for SharedStore {
    fn take_end(&mut self) -> Option<oneshot::Receiver<()>> {
        self.end.take()
    }

    fn commit(&mut self, tx: Tx, change: StoreChange) -> Poll<Decision> {
        if self.outstanding >= OUTSTANDING || self.changes.send((tx, change)).is_err() {
            return Poll::Ready(Decision::Rejected);
        }
        self.outstanding += 1;
        Poll::Pending
    }

    fn poll_decision(&mut self, cx: &mut Context<'_>) -> Poll<(Tx, Decision)> {
        loop {
            match self.said.poll_recv(cx) {
                Poll::Ready(Some(Said::Decided(tx, decision))) => {
                    self.outstanding = self.outstanding.saturating_sub(1);
                    return Poll::Ready((tx, decision));
                }
                // Whoever polls this has a turn.
                Poll::Ready(Some(Said::Turn)) => drop(self.turns.send(())),
                // The task is gone. `commit` rejects further changes.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Cluster {
    /// Whether it is proven that this replica led less than a TTL ago. Without that no reply and no table may go out that
    /// says what is held.
    pub fn may_answer(&self) -> bool {
        let now = u64::try_from(clock::now().as_nanos()).unwrap_or(u64::MAX);
        now < self.proven_until.load(Ordering::Acquire)
    }

    /// How things are now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// How things are, as they change.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Gives the leadership up for good, as soon as the changes that wait are written. The next replica leads at once.
    pub fn stop(&self) {
        // A task that has ended leads no more.
        let _ = self.stop.send(());
    }
}
