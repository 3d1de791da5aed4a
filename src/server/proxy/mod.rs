//! The data plane: listeners, forwarding, upstream connections, probes.
//!
//! | module | what it is |
//! |---|---|
//! | `worker` | one thread, one runtime, one listener: accepts, spreads and ends client connections |
//! | `connection` | one client connection: its socket, and what is watched about it |
//! | `exchange` | one request from its head to the response's head |
//! | `hygiene`, `headers`, `forwarded` | what is refused, removed and added |
//! | `upstream`, `dial` | kept-alive connections to members; making new ones |
//! | `tls` | to backends: whom we trust; to clients: which certificate |
//! | `redirect` | from HTTP to HTTPS |
//! | `access_log`, `meter` | one line a request; what is counted |
//! | `alarm`, `hangup` | when a wait has taken too long; when the client is gone meanwhile |
//! | `body`, `record` | what streams in between, and what is known when it is over |
//! | `coding`, `compress` | which responses are compressed; compressing them as they stream |
//! | `tunnel`, `websocket` | after an upgrade |
//! | `page`, `polite` | what we say ourselves; what hyper says, made readable |
//! | `schedule`, `prober` | the registry's questions to backends: which is due when; asking them |
//!
//! It reads a snapshot of the routing table for each request, and must not know the registry.

mod access_log;
mod alarm;
mod body;
mod coding;
mod compress;
mod connection;
mod dial;
mod exchange;
mod forwarded;
mod hangup;
mod headers;
mod hygiene;
mod meter;
mod page;
mod polite;
mod prober;
mod record;
mod redirect;
mod schedule;
mod tls;
mod tunnel;
mod upstream;
mod websocket;
mod worker;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::server::live_table::LiveTable;
use crate::server::routing::BackendPolicy;

pub use access_log::{AccessFormat, AccessLog};
pub use meter::{Counted, Meters, Requests};
pub use prober::{
    BackendTest, ProbeCounts, ProbeResult, Prober, ProberHandle, test_backend, test_backend_trusting,
};
pub use tls::{CERTIFICATE_CHECK_INTERVAL, CertificateEvent, Certificates, Trust, TrustError};

/// What a [`Proxy`] is told once, at its start.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// HTTP_LISTEN. Port 0: any free one, see [`Proxy::local_addr`].
    pub listen: SocketAddr,
    /// Threads, each with its own listener and its own upstream connections. 0: one for each core.
    pub workers: usize,
    /// MAX_CONNECTIONS, over all workers. Further clients wait in the kernel's queue.
    pub max_connections: usize,
    /// How long a client may take to send a request's head, and how long a connection may be idle.
    pub header_timeout: Duration,
    /// How long a client may leave what was sent to it unread.
    pub write_timeout: Duration,
    /// TRUSTED_PROXIES: whose forwarding headers count (SEMANTICS section 9).
    pub trusted_proxies: Vec<IpNet>,
    /// Which backends may be connected to. The proxy adds its own listener to those it refuses.
    pub policy: BackendPolicy,
    /// Who may vouch for backends that have a name and TLS.
    pub trust: Trust,
    /// HTTPS_LISTEN and CERT_DIR; `None`: plain HTTP only.
    pub https: Option<HttpsConfig>,
    /// ACCESS_LOG; with one, requests have an X-Request-Id too.
    pub access_log: Option<AccessLog>,
    /// Where requests are counted; `None`: nowhere.
    pub meters: Option<Arc<Meters>>,
}

/// Where TLS is taken, and with which certificates.
#[derive(Debug, Clone)]
pub struct HttpsConfig {
    /// HTTPS_LISTEN. Port 0: any free one, see [`Proxy::https_addr`].
    pub listen: SocketAddr,
    /// Chosen by the name that the client asks for; a client that asks for none of them is refused.
    pub certificates: Certificates,
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The address for plain HTTP cannot be listened on, or a thread cannot start.
    #[error(transparent)]
    Http(#[from] io::Error),
    /// The address for TLS cannot be listened on.
    #[error("with TLS: {0}")]
    Https(#[source] io::Error),
}

impl Default for ProxyConfig {
    fn default() -> Self {
        ProxyConfig {
            listen: SocketAddr::from(([0, 0, 0, 0], 80)),
            workers: 0,
            max_connections: 10_000,
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            trusted_proxies: Vec::new(),
            policy: BackendPolicy::default(),
            trust: Trust::system(),
            https: None,
            access_log: None,
            meters: None,
        }
    }
}

/// A running proxy. Dropping it cuts everything off; [`Proxy::stop`] is the polite way.
#[derive(Debug)]
pub struct Proxy {
    local_addr: SocketAddr,
    load: ProxyLoad,
    https_addr: Option<SocketAddr>,
    /// `Some(deadline)`: finish what is in flight until then.
    stop: watch::Sender<Option<Instant>>,
    /// Each worker sends the number of connections that it cut off and hangs up.
    ended: mpsc::Receiver<usize>,
}

/// How much a proxy has to do, for whoever wants to know. Cheap to clone.
#[derive(Clone)]
pub struct ProxyLoad(Arc<worker::Shared>);

impl ProxyLoad {
    /// Connections of clients that are open.
    pub fn connections(&self) -> usize {
        self.0.open_connections()
    }
}

impl fmt::Debug for ProxyLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyLoad").field("connections", &self.connections()).finish()
    }
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Client connections that were cut off when the budget was used up.
    pub cut_off: usize,
}

/// A proxy whose clients wait in the kernel's queue until it serves.
#[derive(Debug)]
pub struct BoundProxy {
    config: ProxyConfig,
    local_addr: SocketAddr,
    https_addr: Option<SocketAddr>,
    listeners: Vec<std::net::TcpListener>,
    /// As many, or none.
    secure: Vec<std::net::TcpListener>,
}

impl BoundProxy {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where it takes TLS, if it does.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.https_addr
    }

    /// Starts the workers; requests are served by `table` when this returns. Needs no runtime.
    ///
    /// # Errors
    /// When a thread cannot start.
    pub fn serve(self, table: Arc<LiveTable>) -> Result<Proxy, ProxyError> {
        let BoundProxy { config, local_addr, https_addr, listeners, secure } = self;
        let workers = listeners.len();
        let (stop, stopping) = watch::channel(None);
        let (end, ended) = mpsc::channel(workers);
        let mut secure = secure.into_iter();
        let crew = worker::Crew::new(config, https_addr, table, workers)?;
        for (number, (plain, inbox)) in listeners.into_iter().zip(crew.inboxes).enumerate() {
            let listeners = worker::Listeners { plain, secure: secure.next() };
            let worker = worker::Seat { shared: Arc::clone(&crew.shared), number, listeners, inbox };
            let (stopping, end) = (stopping.clone(), end.clone());
            let run = move || worker.run(stopping, end);
            thread::Builder::new().name(format!("proxy-{number}")).spawn(run)?;
        }
        let load = ProxyLoad(Arc::clone(&crew.shared));
        Ok(Proxy { local_addr, load, https_addr, stop, ended })
    }
}

impl Proxy {
    /// Binds the listener and starts the workers; requests are served when this returns. Several may run in
    /// one process. Needs no runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on (in use, not ours, no permission), or a thread cannot start.
    pub fn start(config: ProxyConfig, table: Arc<LiveTable>) -> Result<Proxy, ProxyError> {
        Proxy::bind(config)?.serve(table)
    }

    /// Binds the listener and serves nobody yet. Needs no runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on (in use, not ours, no permission).
    pub fn bind(mut config: ProxyConfig) -> Result<BoundProxy, ProxyError> {
        let workers = match config.workers {
            0 => thread::available_parallelism().map_or(1, usize::from),
            given => given,
        };
        let listeners = worker::listen(config.listen, workers)?;
        let local_addr = listeners[0].local_addr()?;
        config.policy.own.push(local_addr);
        let mut secure = Vec::new();
        if let Some(https) = &config.https {
            secure = worker::listen(https.listen, workers).map_err(ProxyError::Https)?;
        }
        let https_addr = secure.first().map(|listener| listener.local_addr()).transpose()?;
        config.policy.own.extend(https_addr);
        Ok(BoundProxy { config, local_addr, https_addr, listeners, secure })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Watches how much it has to do.
    pub fn load(&self) -> ProxyLoad {
        self.load.clone()
    }

    /// Where it takes TLS, if it does.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.https_addr
    }

    /// Accepts nothing new, tells kept-alive clients to go (`Connection: close`), lets requests in flight
    /// finish for at most `budget`, and returns as soon as there are none. Upgraded connections are not
    /// waited for (SEMANTICS section 6).
    ///
    /// Dropping the future does not call the stop off; it only stops watching it.
    pub async fn stop(mut self, budget: Duration) -> Stopped {
        self.stop.send_replace(Some(Instant::now() + budget));
        let mut cut_off = 0;
        while let Some(more) = self.ended.recv().await {
            cut_off += more;
        }
        Stopped { cut_off }
    }
}
