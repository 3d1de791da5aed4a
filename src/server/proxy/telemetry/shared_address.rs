//! Warns when a rate limit refuses requests from an address that many clients share: behind swarm's ingress or behind
//! another proxy all clients have one address, and the limit would count them as one client.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::server::routing::is_private;

/// This many connections of one address to one worker belong to more than one client: a browser opens six in all.
const MANY_CONNECTIONS: usize = 8;

/// One worker's connections for each loopback or private address. Other addresses belong to one client each.
pub(crate) struct SharedAddresses {
    connections: RefCell<HashMap<IpAddr, usize, foldhash::fast::RandomState>>,
    /// Whether any worker has warned already.
    warned: Arc<AtomicBool>,
}

impl SharedAddresses {
    pub(crate) fn new(warned: Arc<AtomicBool>) -> Self {
        SharedAddresses { connections: RefCell::default(), warned }
    }

    pub(crate) fn connection_opened(&self, address: IpAddr) {
        if may_be_shared(address) {
            *self.connections.borrow_mut().entry(address).or_default() += 1;
        }
    }

    pub(crate) fn connection_closed(&self, address: IpAddr) {
        let mut connections = self.connections.borrow_mut();
        let Some(count) = connections.get_mut(&address) else { return };
        *count -= 1;
        if *count == 0 {
            connections.remove(&address);
        }
    }

    /// A rate limit refused a request from `address`: warns, once in the proxy's life, if many clients share it.
    pub(crate) fn request_limited(&self, address: IpAddr) {
        let connections = self.connections.borrow().get(&address).copied().unwrap_or(0);
        if connections >= MANY_CONNECTIONS && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %address,
                "a rate limit refuses requests from an address that many clients seem to share. Behind swarm's \
                 ingress, publish the proxy's ports with `mode: host`; behind another proxy, put that into \
                 TRUSTED_PROXIES"
            );
        }
    }
}

fn may_be_shared(address: IpAddr) -> bool {
    address.is_loopback() || is_private(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_open_connections_of_a_private_address_lead_to_one_warning() {
        let warned = Arc::new(AtomicBool::new(false));
        let addresses = SharedAddresses::new(Arc::clone(&warned));
        let (private, public) = (IpAddr::from([10, 2, 2, 7]), IpAddr::from([203, 0, 113, 9]));
        for _ in 0..MANY_CONNECTIONS {
            addresses.request_limited(private);
            assert!(!warned.load(Ordering::Relaxed), "fewer connections may belong to one client");
            addresses.connection_opened(private);
            addresses.connection_opened(public);
        }
        addresses.connection_closed(private);
        addresses.connection_opened(private);
        addresses.request_limited(public);
        assert!(!warned.load(Ordering::Relaxed), "a public address belongs to one client");
        addresses.request_limited(private);
        assert!(warned.load(Ordering::Relaxed));
        for _ in 0..MANY_CONNECTIONS {
            addresses.connection_closed(private);
            addresses.connection_closed(public);
        }
        assert!(addresses.connections.borrow().is_empty());
    }
}
