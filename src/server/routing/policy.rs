//! Which addresses a backend, a page or a check may have (SEMANTICS section 9, BACKEND_ALLOW).

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// What backends may be reached. Checked on the resolved address, at connect time too.
#[derive(Debug, Clone, Default)]
pub struct BackendPolicy {
    /// BACKEND_ALLOW; `None`: the peer's own address and private ranges, loopback for loopback peers.
    pub allow: Option<Vec<IpNet>>,
    /// Our own listeners, which are never a backend.
    pub own: Vec<SocketAddr>,
}

impl BackendPolicy {
    /// Whether a registration from `peer` may have `target` as a backend.
    pub fn permits(&self, _peer: IpAddr, _target: SocketAddr) -> bool {
        true
    }
}
