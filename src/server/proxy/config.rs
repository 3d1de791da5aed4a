//! What a proxy is configured with, and why it may not start.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::server::routing::{BackendPolicy, ResponseHeaders, StickyKey, Via};

use crate::server::proxy::certificates::Certificates;
use crate::server::proxy::telemetry::access_log::AccessLog;
use crate::server::proxy::telemetry::request_metrics::RequestMetrics;
use crate::server::proxy::upstream::tls::Trust;

/// The settings of a [`Proxy`](super::Proxy). They do not change while it runs.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// HTTP_LISTEN. Port 0: any free port, see [`Proxy::local_addr`](super::Proxy::local_addr).
    pub listen: SocketAddr,
    /// How many workers there are: threads, each with its own listener and its own upstream connections. 0: one for
    /// each core.
    pub workers: usize,
    /// MAX_CONNECTIONS, over all workers. Further clients wait until one leaves or an idle one was closed.
    pub max_connections: usize,
    /// MAX_CLIENT_CONNECTIONS_PER_ADDRESS; `None`: any number. An IPv6 network of 64 bits counts as one address.
    pub max_connections_per_address: Option<NonZeroUsize>,
    /// MAX_BUFFERED: how many bytes of responses HTTP/2 clients may leave unread, all together.
    pub max_buffered: usize,
    /// How long a client may take to send a request's head, and how long a connection may be idle.
    pub header_timeout: Duration,
    /// How long a client may leave unread what was sent to it.
    pub write_timeout: Duration,
    /// TRUSTED_PROXIES: the peers whose forwarding headers are believed (SEMANTICS section 9).
    pub trusted_proxies: Vec<IpNet>,
    /// Which backends may be connected to. The proxy adds its own listeners to those it refuses.
    pub policy: BackendPolicy,
    /// The certificate authorities that may sign certificates of backends with a name.
    pub trust: Trust,
    /// HTTPS_LISTEN and CERT_DIR; `None`: plain HTTP only.
    pub https: Option<HttpsConfig>,
    /// ACCESS_LOG. If there is one, requests get an X-Request-Id too.
    pub access_log: Option<AccessLog>,
    /// DEFAULT_HEADERS: headers of every response that does not have them.
    pub default_headers: Option<ResponseHeaders>,
    /// VIA: the proxy's name in the header Via; `None`: it does not name itself.
    pub via: Option<Via>,
    /// TRACE_SAMPLE: the share of requests without a trace for which one is begun, from 0 to 1.
    pub trace_sample: f64,
    /// What the cookies of sticky routes are hashed with: the same on all replicas, and after a restart.
    pub sticky_key: StickyKey,
    /// Where requests are counted; `None`: they are not counted.
    pub metrics: Option<Arc<RequestMetrics>>,
}

/// The listener for TLS and its certificates.
#[derive(Debug, Clone)]
pub struct HttpsConfig {
    /// HTTPS_LISTEN. Port 0: any free port, see [`Proxy::https_addr`](super::Proxy::https_addr).
    pub listen: SocketAddr,
    /// The certificates, chosen by the server name that the client sends. A name without one fails the handshake.
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
            max_connections_per_address: None,
            max_buffered: 1 << 30,
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            trusted_proxies: Vec::new(),
            policy: BackendPolicy::default(),
            trust: Trust::system(),
            https: None,
            access_log: None,
            default_headers: None,
            via: None,
            trace_sample: 0.0,
            sticky_key: StickyKey::default(),
            metrics: None,
        }
    }
}
