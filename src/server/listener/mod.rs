//! The registry's port, TCP 81: connections become calls of the registry (PROTOCOL section 1).
//!
//! One task accepts, one task for each connection reads, parses and writes, and one task owns the
//! [`Registry`]: the connections' lines come to it over one bounded channel, in batches, and its replies go
//! back over one bounded channel each. Nothing here knows what a command does.
//!
//! | file | what it does |
//! |---|---|
//! | `mod` (this) | start and stop |
//! | `accept` | who may connect |
//! | `connection` | one peer: lines in, lines out, limits |
//! | `task` | the task that owns the registry |
//! | `message` | what connections tell that task |
//! | `outgoing` | replies and events on their way to a peer |
//! | `desk` | the operators' way to the registry |
//! | `log` | the registry's lines in the log |

mod accept;
mod connection;
mod desk;
mod log;
mod message;
mod outgoing;
mod task;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use ipnet::IpNet;
use registry_client::protocol::BackendUrl;
use registry_client::protocol::report::BackendReport;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};

pub use desk::{Desk, DeskError};
pub(crate) use message::Message;
pub(crate) use outgoing::{PeerSender, RelayQueue, ToReplica};

use crate::server::live_table::LiveTable;
use crate::server::registry::{DrainShare, Input, Registry, RegistryConfig};
use crate::server::routing::{Probe, ProbeFailure};
use crate::server::store::Store;

/// How many messages of all connections may wait for the registry. Connections with more of them wait.
const INBOX: usize = 1024;
/// How many events operators may be behind before they lose the oldest.
const EVENTS: usize = 512;
/// How long a stop waits for the last lines to be written.
const STOP_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a stop then waits for the store. What was answered is on the disk already. The store still writes that the
/// server was alive, and releases the file for the next server.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// How the listener and the registry behind it behave.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Who may connect (SEMANTICS section 9, REGISTRY_ALLOW).
    pub allow: Vec<IpNet>,
    /// How the registry behaves.
    pub registry: RegistryConfig,
}

impl Default for ListenerConfig {
    /// Allows private ranges and loopback.
    fn default() -> Self {
        let private = ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7"];
        let allow = private.iter().filter_map(|net| net.parse().ok()).collect();
        ListenerConfig { allow, registry: RegistryConfig::default() }
    }
}

/// Asks backends on the registry's behalf.
pub trait Prober: Send + Sync + 'static {
    /// Asks a probe at once, and then repeatedly until [`Prober::forget`].
    fn watch(&self, probe: Probe);

    /// Stops asking a probe.
    fn forget(&self, probe: &Probe);

    /// BACKEND_TEST: tests a backend once for a session from `peer`. The listener drops the future after 5 s.
    fn test(&self, url: BackendUrl, peer: IpAddr) -> BoxFuture<'static, Result<BackendReport, String>>;
}

/// The results of the probes of a [`Prober`].
pub type ProbeResults = mpsc::Receiver<(Probe, Result<(), ProbeFailure>)>;

/// Inputs from the rest of the server, certificates for example. The listener runs on when the channel is closed.
pub type ExternalInputs = mpsc::Receiver<Input>;

/// The registry on its port.
#[derive(Debug)]
pub struct RegistryServer;

/// A registry that runs and has no port yet.
#[derive(Debug)]
pub struct RegistryCore {
    allow: Vec<IpNet>,
    queue: usize,
    inbox: mpsc::Sender<Message>,
    drains: watch::Sender<Vec<DrainShare>>,
    desk: Desk,
    stop: watch::Sender<bool>,
    sessions: watch::Receiver<usize>,
    task: JoinHandle<()>,
    stored: Option<oneshot::Receiver<()>>,
}

/// A running registry. Dropping it stops the registry without waiting for its end.
#[derive(Debug)]
pub struct RegistryHandle {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    /// Keeps the registry itself from being stopped, where replicas use it too.
    _core: Option<watch::Sender<bool>>,
    sessions: watch::Receiver<usize>,
    tasks: Vec<JoinHandle<()>>,
    stored: Option<oneshot::Receiver<()>>,
}

impl RegistryServer {
    /// Serves the registry on `listener` and puts what is applied into `table`. What the store held is in the table when
    /// this returns. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the system has no random bits, or the listener no address.
    pub fn start(
        listener: TcpListener,
        config: ListenerConfig,
        table: Arc<LiveTable>,
        store: Box<dyn Store>,
        prober: Arc<dyn Prober>,
        results: ProbeResults,
        external: ExternalInputs,
    ) -> std::io::Result<RegistryHandle> {
        RegistryCore::start(config, table, store, prober, results, external)?.listen(listener)
    }
}

impl RegistryCore {
    /// Starts the task that owns the registry. What the store held is in the table when this returns. Must be called within
    /// a Tokio runtime.
    ///
    /// # Errors
    /// When the system has no random bits.
    pub fn start(
        mut config: ListenerConfig,
        table: Arc<LiveTable>,
        mut store: Box<dyn Store>,
        prober: Arc<dyn Prober>,
        results: ProbeResults,
        external: ExternalInputs,
    ) -> std::io::Result<RegistryCore> {
        let (saved, stored) = (store.take_saved(), store.take_end());
        if let Some(saved) = saved.as_ref().filter(|saved| !saved.cluster_id.is_empty()) {
            config.registry.cluster_id.clone_from(&saved.cluster_id);
        }
        if config.registry.cluster_id.is_empty() {
            let id = random().ok_or_else(|| std::io::Error::other("the system has no random bits"))?;
            config.registry.cluster_id = format!("{id:032x}");
        }
        let queue = config.registry.limits.queue;
        let registry = Registry::new(config.registry, Box::new(random));
        let (stop, stopped) = watch::channel(false);
        let (count, sessions) = watch::channel(0);
        let (inbox, messages) = mpsc::channel(INBOX);
        let drains = watch::Sender::new(Vec::new());
        let events = broadcast::Sender::new(EVENTS);
        let desk = Desk::new(&inbox, events.clone());
        let mut core = task::RegistryTask::new(registry, table, store, prober, count, drains.clone(), events);
        if let Some(saved) = saved {
            core.restore(saved);
        }
        let task = tokio::spawn(core.run(messages, results, external, stopped));
        Ok(RegistryCore { allow: config.allow, queue, inbox, drains, desk, stop, sessions, task, stored })
    }

    /// The operators' way to it.
    pub fn desk(&self) -> Desk {
        self.desk.clone()
    }

    /// Passes everything from the connections of `listener` to the registry.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn listen(self, listener: TcpListener) -> std::io::Result<RegistryHandle> {
        let address = listener.local_addr()?;
        let acceptor = accept::Acceptor::new(self.allow, self.queue);
        let accepting = tokio::spawn(acceptor.accept(listener, self.inbox, self.stop.subscribe()));
        Ok(RegistryHandle {
            address,
            stop: self.stop,
            _core: None,
            sessions: self.sessions,
            tasks: vec![accepting, self.task],
            stored: self.stored,
        })
    }

    /// Passes everything from the connections of `listener` to what `between` starts. `between` gets the
    /// registry's ends, and what says that the server stops. The registry itself stops when nobody can tell it anything any more.
    ///
    /// # Errors
    /// When the listener has no address.
    pub(crate) fn listen_through(
        self,
        listener: TcpListener,
        between: impl FnOnce(RegistryEnds, watch::Receiver<bool>) -> Between,
    ) -> std::io::Result<RegistryHandle> {
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let Between { inbox, tasks } =
            between(RegistryEnds { inbox: self.inbox, drains: self.drains.subscribe() }, stopped.clone());
        let acceptor = accept::Acceptor::new(self.allow, self.queue);
        let accepting = tokio::spawn(acceptor.accept(listener, inbox, stopped));
        let tasks = tasks.into_iter().chain([accepting, self.task]).collect();
        let (sessions, stored) = (self.sessions, self.stored);
        Ok(RegistryHandle { address, stop, _core: Some(self.stop), sessions, tasks, stored })
    }
}

/// The registry for what stands between it and connections.
pub(crate) struct RegistryEnds {
    /// The way to it.
    pub(crate) inbox: mpsc::Sender<Message>,
    /// What this server has left to do for sessions that are being drained.
    pub(crate) drains: watch::Receiver<Vec<DrainShare>>,
}

/// What stands between connections and the registry.
pub(crate) struct Between {
    /// Where connections send their messages.
    pub(crate) inbox: mpsc::Sender<Message>,
    /// The tasks that end when the server stops.
    pub(crate) tasks: Vec<JoinHandle<()>>,
}

impl RegistryHandle {
    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many sessions there are, lost ones in grace included.
    pub fn sessions(&self) -> watch::Receiver<usize> {
        self.sessions.clone()
    }

    /// Sends `SHUTDOWN` and then EOF to every connection (PROTOCOL section 2), and waits until that is done,
    /// at most half a second, and then until the store has ended, at most 2 s. The routing table stays as it is.
    pub async fn stop(self) {
        // The tasks that are waited for next are receivers, so this cannot fail.
        let _ = self.stop.send(true);
        let aborts: Vec<_> = self.tasks.iter().map(JoinHandle::abort_handle).collect();
        if tokio::time::timeout(STOP_TIMEOUT, join_all(self.tasks)).await.is_err() {
            aborts.iter().for_each(AbortHandle::abort);
        }
        // The registry's task has dropped the store, which lets the store end.
        if let Some(stored) = self.stored
            && tokio::time::timeout(STORE_TIMEOUT, stored).await.is_err()
        {
            tracing::warn!("the store is still writing; everything that was answered is on the disk");
        }
    }
}

/// 128 random bits from the system.
fn random() -> Option<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(u128::from_ne_bytes(bytes))
}
