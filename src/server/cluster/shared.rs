//! What the tasks of a replica share: its name and secrets, whether it leads, and the way to its registry.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::handshake::Secrets;
use super::relayed::{ConnNumbers, RelayedConnections};
use crate::server::listener::Message;
use crate::server::registry::{DrainShare, Term};

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
    /// What this replica's proxy has left to do for sessions that are being drained.
    pub(super) drains: watch::Receiver<Vec<DrainShare>>,
    /// The revision of the store that this replica's registry has, and that of the leader as far as it is known.
    pub(super) revisions: Arc<Revisions>,
    /// By the name of their replica, the connections that the registry still takes for open, while it may say nothing to
    /// them: no session is lost because nobody could prove who leads.
    pub(super) parked: Mutex<HashMap<String, (u64, RelayedConnections)>>,
    /// How often some were parked.
    pub(super) parkings: AtomicU64,
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

    /// Returns when what the registry says in this term may not go out any more.
    pub(super) async fn must_be_silent(&self, term: Term) {
        while self.may_speak(term) {
            sleep(self.ttl / 20).await;
        }
    }

    /// The way to a replica is gone, and its connections with it: at once, or, where that is for want of a proof, when it
    /// comes back or a TTL after there is a proof again. After the term the registry has let go of them by itself.
    pub(super) fn lose(self: &Arc<Self>, replica: &str, connections: RelayedConnections, term: Term) {
        let number = self.parkings.fetch_add(1, Ordering::Relaxed);
        self.parked().insert(replica.to_owned(), (number, connections));
        let (shared, replica) = (Arc::clone(self), replica.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                () = shared.settle(&replica, number, term) => {}
                () = server_stops(shared.stopped.clone()) => {}
            }
        });
    }

    async fn settle(&self, replica: &str, number: u64, term: Term) {
        let was_silent = !self.may_speak(term);
        while !self.may_speak(term) && *self.leads.borrow() == Some(term) {
            sleep(self.ttl / 20).await;
        }
        if was_silent {
            sleep(self.ttl).await;
        }
        let is_it = |(parked, _): &(u64, RelayedConnections)| *parked == number;
        if self.parked().get(replica).is_some_and(is_it) {
            self.came_back(replica).await;
        }
    }

    /// The replica is about to say which connections it has: the registry lets go of those that it had.
    pub(super) async fn came_back(&self, replica: &str) {
        let parked = self.parked().remove(replica);
        if let Some((_, mut connections)) = parked {
            connections.close_all().await;
        }
    }

    fn parked(&self) -> MutexGuard<'_, HashMap<String, (u64, RelayedConnections)>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
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
