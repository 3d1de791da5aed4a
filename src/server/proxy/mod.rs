//! The data plane: accepts client connections, forwards requests to members, probes backends.
//!
//! | module | what it does |
//! |---|---|
//! | `config` | the settings of a proxy |
//! | `workers` | the threads: accept, balance, stop |
//! | `downstream` | serves one client connection, with a service that answers its requests |
//! | `exchange` | that service: one request, from its head to the end of its response |
//! | `client_state` | the state that a client connection and its requests share |
//! | `context` | the configuration, table, pool and counters that the requests of a worker share |
//! | `buffered` | counts what HTTP/2 clients leave unread |
//! | `upstream` | connections to backends |
//! | `health` | probes, and BACKEND_TEST |
//! | `certificates` | the certificates of CERT_DIR |
//! | `telemetry` | access log and metrics |
//! | `http` | what HTTP asks of a proxy, as pure functions |
//! | `passwords` | checks passwords, beside the workers |
//! | `local_executor` | runs hyper's tasks on the worker's thread |
//!
//! The imports go one way:
//!
//! ```text
//! workers ─> downstream, exchange ─> client_state ─> context ─> upstream, telemetry, certificates, passwords
//!                            exchange, telemetry, downstream ─> http       health ─> upstream
//!        exchange, client_state, context, upstream ─> buffered
//! ```
//!
//! The proxy reads a snapshot of the routing table for each request, and must not know the registry.

mod buffered;
mod certificates;
mod client_state;
mod config;
mod context;
mod downstream;
mod exchange;
mod health;
mod http;
mod local_executor;
mod passwords;
mod telemetry;
mod upstream;
mod workers;

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::server::live_table::LiveTable;

use buffered::Buffered;
pub use certificates::{CERTIFICATE_CHECK_INTERVAL, CertificateEvent, Certificates};
pub use config::{HttpsConfig, ProxyConfig, ProxyError};
pub use health::{
    BackendTest, ProbeCounts, ProbeResult, Prober, ProberHandle, test_backend, test_backend_trusting,
};
pub use telemetry::access_log::{AccessFormat, AccessLog};
pub use telemetry::request_metrics::{RequestCounts, RequestMetrics, ServiceLabel};
pub use upstream::tls::{Trust, TrustError};
use workers::{Balancer, Workers, listen};

/// A running proxy. Dropping it closes all connections; [`Proxy::stop`] lets requests finish.
#[derive(Debug)]
pub struct Proxy {
    local_addr: SocketAddr,
    https_addr: Option<SocketAddr>,
    load: ProxyLoad,
    workers: Workers,
}

/// Tells how many clients a proxy has. Cheap to clone.
#[derive(Clone)]
pub struct ProxyLoad {
    balancer: Arc<Balancer>,
    buffered: Arc<Buffered>,
}

impl ProxyLoad {
    /// Client connections that are open.
    pub fn connections(&self) -> usize {
        self.balancer.open_connections()
    }

    /// Bytes that HTTP/2 clients have not taken, and what compresses responses.
    pub fn buffered(&self) -> usize {
        self.buffered.bytes()
    }

    /// HTTP/2 clients that were cut off for MAX_BUFFERED.
    pub fn cut_off(&self) -> u64 {
        self.buffered.cut_off()
    }
}

impl fmt::Debug for ProxyLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyLoad").field("connections", &self.connections()).finish()
    }
}

/// The result of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Client connections that were cut off when the budget was used up.
    pub cut_off: usize,
}

/// A proxy that listens and does not accept yet: clients wait in the kernel's queue.
#[derive(Debug)]
pub struct BoundProxy {
    config: ProxyConfig,
    local_addr: SocketAddr,
    https_addr: Option<SocketAddr>,
    plain: Vec<TcpListener>,
    /// As many, or none.
    secure: Vec<TcpListener>,
}

impl BoundProxy {
    /// The address for plain HTTP.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The address for TLS, if there is one.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.https_addr
    }

    /// Starts the workers. When this returns, requests are served by `table`. Needs no runtime.
    ///
    /// # Errors
    /// If a thread cannot start.
    pub fn serve(self, table: Arc<LiveTable>) -> Result<Proxy, ProxyError> {
        let BoundProxy { config, local_addr, https_addr, plain, secure } = self;
        let (workers, load) = Workers::start(config, https_addr, table, plain, secure)?;
        Ok(Proxy { local_addr, https_addr, load, workers })
    }
}

impl Proxy {
    /// Binds the listeners and starts the workers. When this returns, requests are served. Several proxies may run in
    /// one process. Needs no runtime.
    ///
    /// # Errors
    /// If an address cannot be listened on (in use, not ours, no permission), or a thread cannot start.
    pub fn start(config: ProxyConfig, table: Arc<LiveTable>) -> Result<Proxy, ProxyError> {
        Proxy::bind(config)?.serve(table)
    }

    /// Binds the listeners and serves nobody yet. Needs no runtime.
    ///
    /// # Errors
    /// If an address cannot be listened on (in use, not ours, no permission).
    pub fn bind(mut config: ProxyConfig) -> Result<BoundProxy, ProxyError> {
        let workers = match config.workers {
            0 => thread::available_parallelism().map_or(1, usize::from),
            given => given,
        };
        let plain = listen(config.listen, workers)?;
        let local_addr = plain[0].local_addr()?;
        config.policy.own.push(local_addr);
        let mut secure = Vec::new();
        if let Some(https) = &config.https {
            secure = listen(https.listen, workers).map_err(ProxyError::Https)?;
        }
        let https_addr = secure.first().map(|listener| listener.local_addr()).transpose()?;
        config.policy.own.extend(https_addr);
        Ok(BoundProxy { config, local_addr, https_addr, plain, secure })
    }

    /// The address for plain HTTP.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// A handle that tells how many clients there are.
    pub fn load(&self) -> ProxyLoad {
        self.load.clone()
    }

    /// The address for TLS, if there is one.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.https_addr
    }

    /// Accepts nothing new, asks keep-alive clients to leave (`Connection: close`), lets requests in flight finish
    /// for at most `budget`, and returns as soon as there are none. Does not wait for upgraded connections (SEMANTICS
    /// section 6).
    ///
    /// Dropping the future does not cancel the stop.
    pub async fn stop(self, budget: Duration) -> Stopped {
        Stopped { cut_off: self.workers.stop(Instant::now() + budget).await }
    }
}
