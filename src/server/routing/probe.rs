//! Probes: what a health check asks a backend (SEMANTICS sections 3 and 4).

use std::net::IpAddr;
use std::time::Duration;

use registry_client::protocol::{AcceptedStatuses, BackendUrl, Domain, HealthPath};

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
    /// GET without following redirects.
    Get {
        /// The path, which is appended to the backend's base path.
        path: HealthPath,
        /// The Host header: that of the option `health_host`, else the route's first exact domain, or `www` below its
        /// first wildcard; else the backend's own authority.
        host: Option<Domain>,
        /// The statuses that pass. `None`: for the path `/` those below 500, for other paths 2xx and 3xx.
        statuses: Option<AcceptedStatuses>,
    },
}

/// Why a probe failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFailure {
    /// For people.
    pub reason: String,
    /// The backend accepted the connection, and its answer did not come in time.
    pub is_slow: bool,
}

impl ProbeFailure {
    /// The backend accepted the connection, and its answer did not come in time.
    pub fn slow(reason: String) -> Self {
        ProbeFailure { reason, is_slow: true }
    }
}

/// A failure of another kind: refused, unreachable, or answered with a status that does not pass.
impl From<String> for ProbeFailure {
    fn from(reason: String) -> Self {
        ProbeFailure { reason, is_slow: false }
    }
}
