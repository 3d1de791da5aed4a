//! What the tasks of a replica share: its name and secrets, whether it leads, and the way to its registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};

use super::handshake::Secrets;
use super::relayed::ConnNumbers;
use crate::server::listener::Message;
use crate::server::registry::Term;

/// Whether the proof that this replica leads is young enough to answer anybody.
pub type Proof = Arc<dyn Fn() -> bool + Send + Sync>;

pub(super) struct Shared {
    /// This replica's name.
    pub(super) name: String,
    pub(super) secrets: Secrets,
    /// CLUSTER_TTL
    pub(super) ttl: Duration,
    /// REGISTRY_ALLOW, which holds for the clients of other replicas too.
    pub(super) allow: Arc<[IpNet]>,
    pub(super) registry: mpsc::Sender<Message>,
    pub(super) numbers: ConnNumbers,
    /// The term in which this replica leads. It changes before the registry hears that it follows.
    pub(super) leads: watch::Receiver<Option<Term>>,
    pub(super) proof: Proof,
    pub(super) stopped: watch::Receiver<bool>,
    /// The revision of the store that this replica's registry has, and that of the leader as far as it is known.
    pub(super) revisions: Arc<Revisions>,
}

#[derive(Debug, Default)]
pub(super) struct Revisions {
    pub(super) ours: AtomicU64,
    pub(super) leaders: AtomicU64,
}

impl Shared {
    /// A link that is silent for so long is broken.
    pub(super) fn silence(&self) -> Duration {
        self.ttl
    }

    /// How often a replica shows that it lives.
    pub(super) fn heartbeat(&self) -> Duration {
        self.ttl / 4
    }

    /// Whether what the registry says in this term may still go out.
    pub(super) fn may_speak(&self, term: Term) -> bool {
        *self.leads.borrow() == Some(term) && (self.proof)()
    }

    pub(super) fn revision(&self) -> u64 {
        self.revisions.ours.load(Ordering::Relaxed)
    }
}

/// Returns when the server stops.
pub(super) async fn server_stops(mut stopped: watch::Receiver<bool>) {
    // An error means that the server is gone.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
