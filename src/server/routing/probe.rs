//! What is asked of a backend to know whether it serves (SEMANTICS sections 3 and 4).

use std::net::IpAddr;
use std::time::Duration;

use registry_client::protocol::{BackendUrl, Domain, HealthPath};

/// One repeated question to one backend. Equal probes are one probe, whoever wants them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Probe {
    /// Who is asked.
    pub backend: BackendUrl,
    /// Whose registration it is: what may be reached depends on it.
    pub peer: IpAddr,
    /// What is asked.
    pub kind: ProbeKind,
    /// From one to the next; the first is sent at once.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
}

/// The question.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// Does it accept a connection?
    Connect,
    /// GET without following redirects. For the path `/` anything below 500 passes, for any other one 2xx
    /// and 3xx.
    Get {
        /// What is asked for, appended to the backend's base path.
        path: HealthPath,
        /// The Host header: the route's first exact domain, else the backend's own authority.
        host: Option<Domain>,
    },
}
