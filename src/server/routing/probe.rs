//! Probes: what a health check asks a backend (SEMANTICS sections 3 and 4).

use std::net::IpAddr;
use std::time::Duration;

use registry_client::protocol::{BackendUrl, Domain, HealthPath};

/// A check of one backend that is repeated. Equal probes run once, however many members need the result.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Probe {
    /// The backend.
    pub backend: BackendUrl,
    /// The address that its session was registered from. The backend policy depends on it.
    pub peer: IpAddr,
    /// What it asks.
    pub kind: ProbeKind,
    /// The time from one start to the next. The first starts at once.
    pub interval: Duration,
    /// How long the backend may take to answer.
    pub timeout: Duration,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// Whether the backend accepts a connection.
    Connect,
    /// GET without following redirects. For the path `/` a status below 500 passes, for other paths 2xx and 3xx.
    Get {
        /// The path, which is appended to the backend's base path.
        path: HealthPath,
        /// The Host header: the route's first exact domain, else the backend's own authority.
        host: Option<Domain>,
    },
}
