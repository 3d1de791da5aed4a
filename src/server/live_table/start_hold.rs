//! Holds requests that nobody claims, for a while after a start without the routes of before (SEMANTICS section 6).
//!
//! A proxy that has just started knows no route until the services have registered again. Until then a request that
//! nobody claims says nothing about the service that it is for, so it waits. Anybody can send such requests, so those of
//! one client and those of all have a limit.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::server::routing::network;

/// How many requests may wait; further ones are answered at once.
pub const MAX_WAITING_AT_START: usize = 1_000;

/// How many of them may come from one client: an IPv4 address, or an IPv6 network of 64 bits.
pub const MAX_WAITING_OF_CLIENT: usize = 8;

/// Until when requests that nobody claims may wait, and how many do.
#[derive(Debug)]
pub struct StartHold {
    until: Instant,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

impl StartHold {
    /// Requests may wait until then.
    pub fn new(until: Instant) -> Self {
        StartHold { until, waiting: Mutex::default() }
    }

    /// Until when a request that arrives at `now` may wait; `None`: it may not.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        (self.until > now).then_some(self.until)
    }

    /// Counts one more request of `client`; `None`: as many wait as may, of this client or of all.
    pub fn enter(&self, client: IpAddr) -> Option<UnclaimedRequest<'_>> {
        let client = network(client);
        let mut waiting = self.waiting();
        let of_client = waiting.by_client.get(&client).copied().unwrap_or(0);
        if waiting.all >= MAX_WAITING_AT_START || of_client >= MAX_WAITING_OF_CLIENT {
            return None;
        }
        waiting.all += 1;
        waiting.by_client.insert(client, of_client + 1);
        Some(UnclaimedRequest { hold: self, client })
    }

    /// How many requests wait.
    pub fn waiting_requests(&self) -> usize {
        self.waiting().all
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits, counted until this is dropped.
#[derive(Debug)]
pub struct UnclaimedRequest<'a> {
    hold: &'a StartHold,
    client: IpAddr,
}

impl Drop for UnclaimedRequest<'_> {
    fn drop(&mut self) {
        let mut waiting = self.hold.waiting();
        waiting.all -= 1;
        if let Some(of_client) = waiting.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                waiting.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    fn client(number: usize) -> IpAddr {
        Ipv4Addr::from_bits(number as u32).into()
    }

    #[test]
    fn one_client_has_few_places_and_all_have_one_pool() {
        let hold = StartHold::new(Instant::now());
        let own: Vec<_> = (0..MAX_WAITING_OF_CLIENT).map(|_| hold.enter(client(0)).unwrap()).collect();
        assert!(hold.enter(client(0)).is_none());
        let others = MAX_WAITING_AT_START - MAX_WAITING_OF_CLIENT;
        let others: Vec<_> = (1..=others).map(|number| hold.enter(client(number)).unwrap()).collect();
        assert!(hold.enter(client(1_000_000)).is_none());
        assert_eq!(hold.waiting_requests(), MAX_WAITING_AT_START);
        drop(own);
        assert!(hold.enter(client(1_000_000)).is_some(), "whoever goes leaves a place");
        drop(others);
        assert_eq!(hold.waiting_requests(), 0);
        assert!(hold.waiting().by_client.is_empty());
    }

    #[test]
    fn all_addresses_of_a_small_ipv6_network_are_one_client() {
        let hold = StartHold::new(Instant::now());
        let address = |last: usize| format!("2001:db8::{last:x}").parse().unwrap();
        let own: Vec<_> = (0..MAX_WAITING_OF_CLIENT).map(|last| hold.enter(address(last)).unwrap()).collect();
        assert!(hold.enter(address(99)).is_none());
        assert!(hold.enter("2001:db8:0:1::1".parse().unwrap()).is_some());
        drop(own);
    }

    #[test]
    fn nobody_waits_after_the_time() {
        let now = Instant::now();
        let hold = StartHold::new(now + Duration::from_secs(10));
        assert_eq!(hold.deadline(now), Some(now + Duration::from_secs(10)));
        assert_eq!(hold.deadline(now + Duration::from_secs(10)), None);
    }
}
