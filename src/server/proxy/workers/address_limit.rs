//! How many connections one client address may have (MAX_CLIENT_CONNECTIONS_PER_ADDRESS).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

/// The connections of each address.
pub(super) struct AddressLimit {
    limit: NonZeroUsize,
    /// TRUSTED_PROXIES, which connect for many clients.
    exempt: Vec<IpNet>,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection counts for its address until this is dropped.
pub(super) struct AddressPlace {
    limit: Arc<AddressLimit>,
    address: IpAddr,
}

/// An address has as many connections as it may have.
#[derive(Debug)]
pub(super) struct TooMany;

impl AddressLimit {
    pub(super) fn new(limit: NonZeroUsize, exempt: Vec<IpNet>) -> Self {
        AddressLimit { limit, exempt, open: Mutex::default() }
    }

    /// Counts a connection of `peer`; `None`: this address does not count.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> Result<Option<AddressPlace>, TooMany> {
        let peer = peer.to_canonical();
        if self.exempt.iter().any(|network| network.contains(&peer)) {
            return Ok(None);
        }
        let address = counted_as(peer);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= self.limit.get() {
            return Err(TooMany);
        }
        *count += 1;
        Ok(Some(AddressPlace { limit: Arc::clone(self), address }))
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut open = self.limit.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// A customer gets an IPv6 network of 64 bits at least, so that is what counts as one.
fn counted_as(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_counts_until_its_places_are_given_back() {
        let limit = NonZeroUsize::new(2).unwrap();
        let limit = Arc::new(AddressLimit::new(limit, vec!["10.0.0.0/8".parse().unwrap()]));
        let enter = |peer: &str| limit.enter(peer.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_err(), "in either notation");
        assert!(enter("192.0.2.2").is_ok());
        drop(first);
        assert!(enter("192.0.2.1").is_ok());
        let _network = (enter("2001:db8::1").unwrap(), enter("2001:db8::2").unwrap());
        assert!(enter("2001:db8::3").is_err() && enter("2001:db8:0:1::3").is_ok());
        assert!((0..3).map(|_| enter("10.1.2.3")).all(|place| matches!(place, Ok(None))));
        drop(_second);
        assert!(!limit.open.lock().unwrap().contains_key(&"192.0.2.1".parse::<IpAddr>().unwrap()));
    }
}
