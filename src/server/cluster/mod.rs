//! Several servers that are one registry: one leads, and the others pass the commands of their clients on to it
//! (`docs/internals/cluster.md`).
//!
//! Every replica runs the registry. That of the leader answers commands; those of the others follow the shared store. A
//! client's connection ends at the replica that it was made to. The router there passes what the client says to whoever
//! leads, and the leader's registry sees the connections of all replicas alike.
//!
//! | file | what it does |
//! |---|---|
//! | `mod` (this) | starts a replica |
//! | `frame` | pure: what two replicas tell each other, and its bytes |
//! | `handshake` | pure: how they show each other that they know CLUSTER_SECRET |
//! | `seal` | pure: a MAC behind each message |
//! | `router` | pure: what becomes of each client's connection as leaders come and go |
//! | `role`, `shared` | who leads; what the tasks of a replica share |
//! | `task` | carries out what the router decides |
//! | `upstream` | the way to whoever leads |
//! | `link` | one connection between two replicas |
//! | `leader_end`, `relayed` | CLUSTER_LISTEN; the connections of other replicas as the leader's registry sees them |
//! | `conductor` | from what the shared store says to the registry, the router and the status |
//! | `status` | what people are told of it |
//!
//! Nothing here knows what a command does, or what etcd is.

mod conductor;
mod frame;
mod handshake;
mod leader_end;
mod link;
mod relayed;
mod role;
mod router;
mod seal;
mod shared;
mod status;
mod task;
#[cfg(test)]
mod tests;
mod upstream;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::environment::Secret;
use crate::server::listener::{Between, RegistryEnds};

use conductor::Conductor;
use handshake::Secrets;
use relayed::ConnNumbers;
use shared::{Shared, server_stops};
use task::RouterTask;

pub use conductor::{News, StoreView};
pub use role::{Leader, Role};
pub use shared::Proof;
pub use status::{ClusterStatus, StatusReader};

/// How many messages of connections may wait for the router. Connections with more of them wait.
const INBOX: usize = 1024;

/// Who this replica is, and how it deals with the others.
#[derive(Debug, Clone)]
pub struct ReplicaSettings {
    /// What tells it from the others, in the log and in the store.
    pub name: String,
    /// CLUSTER_SECRET
    pub secret: Secret,
    /// CLUSTER_SECRET_PREVIOUS
    pub previous_secret: Option<Secret>,
    /// CLUSTER_TTL
    pub ttl: Duration,
    /// REGISTRY_ALLOW
    pub allow: Vec<IpNet>,
}

/// What a replica hears from the shared store.
pub struct StoreEnds {
    /// What is held, and who leads.
    pub news: mpsc::Receiver<News>,
    /// How the store is, for people.
    pub view: watch::Receiver<StoreView>,
    /// Whether the proof that this replica leads is young enough to answer anybody.
    pub proof: Proof,
}

/// A replica that is ready to start, and what people are told of it.
pub struct Replica {
    settings: ReplicaSettings,
    listener: TcpListener,
    store: StoreEnds,
    status: status::StatusWriter,
}

impl Replica {
    /// A replica to which the others connect at `listener`.
    pub fn new(settings: ReplicaSettings, listener: TcpListener, store: StoreEnds) -> (Self, StatusReader) {
        let (status, reader) = status::channel(&settings.name);
        (Replica { settings, listener, store, status }, reader)
    }

    /// Starts its tasks. They end when `stopped` says so and all connections have ended.
    ///
    /// # Panics
    /// Outside a runtime of tokio.
    pub(crate) fn start(
        self,
        RegistryEnds { inbox: registry, drains }: RegistryEnds,
        stopped: watch::Receiver<bool>,
    ) -> Between {
        let Replica { settings, listener, store, status } = self;
        let (leads, leading) = watch::channel(None);
        let (roles, role) = watch::channel(Role::Leaderless);
        let shared = Arc::new(Shared {
            secrets: Secrets::new(&settings.secret, settings.previous_secret.as_ref()),
            name: settings.name,
            ttl: settings.ttl,
            allow: settings.allow.into(),
            registry: registry.clone(),
            numbers: ConnNumbers::default(),
            leads: leading,
            proof: store.proof,
            stopped: stopped.clone(),
            drains,
            revisions: status.revisions(),
            parked: Mutex::default(),
            parkings: AtomicU64::default(),
        });
        let conductor = Conductor::new(registry, leads, roles, status, &shared);
        let conducting = tokio::spawn(conductor.run(store.news, store.view, stopped.clone()));
        let accepting = tokio::spawn(accept_until(listener, Arc::clone(&shared), stopped));
        let (inbox, messages) = mpsc::channel(INBOX);
        let routing = tokio::spawn(RouterTask::new(shared).run(messages, role));
        Between { inbox, tasks: vec![conducting, accepting, routing] }
    }
}

async fn accept_until(listener: TcpListener, shared: Arc<Shared>, stopped: watch::Receiver<bool>) {
    tokio::select! {
        () = leader_end::accept(listener, shared) => {}
        () = server_stops(stopped) => {}
    }
}
