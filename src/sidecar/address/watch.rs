//! Following the application's address: interfaces come and go, and BACKEND_HOST leads to the next container
//! (the routes follow by the client's rules: new in, applied, then the old one out).
//!
//! [`AddressWatch`] decides what a new look at the addresses means; [`follow`] checks.

use std::mem::discriminant;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::protocol::Host;

use super::choice::Choice;
use super::interfaces::{Interface, interfaces};
use super::lookup::Lookup;

/// Between two checks at the interfaces.
const INTERVAL: Duration = Duration::from_secs(2);
/// BACKEND_HOST is resolved at every so many checks.
const CHECKS_PER_RESOLUTION: u32 = 3;

/// What follows from a look.
#[derive(Debug, PartialEq)]
enum Change {
    /// Everything is as it was, or not certain enough to do anything about it.
    Keep,
    /// The routes lead from the first address to the choice's.
    Move(IpAddr, Choice),
    /// There is no address any more, and that is news.
    Lost(String),
}

/// Which address is advertised, and what speaks against it.
#[derive(Debug)]
struct AddressWatch {
    current: Choice,
    /// Another address, for another reason than the present one: it must be seen twice.
    candidate: Option<Choice>,
    reported: Option<String>,
}

impl AddressWatch {
    fn new(current: Choice) -> Self {
        AddressWatch { current, candidate: None, reported: None }
    }

    /// What a look has found.
    ///
    /// A guess never replaces what was known: while a network is being disconnected and connected again, the
    /// first other address is somebody else's idea of us.
    fn on_lookup(&mut self, found: Result<Choice, String>) -> Change {
        let found = match found {
            Ok(found) => found,
            Err(reason) if self.reported.as_ref() == Some(&reason) => return Change::Keep,
            Err(reason) => {
                self.reported = Some(reason.clone());
                return Change::Lost(reason);
            }
        };
        self.reported = None;
        let candidate = self.candidate.take();
        if found.ip == self.current.ip {
            self.current = found;
            return Change::Keep;
        }
        let same_reason = discriminant(&found.reason) == discriminant(&self.current.reason);
        let seen_twice = candidate.is_some_and(|candidate| candidate.ip == found.ip);
        if same_reason || (seen_twice && !found.is_doubtful()) {
            let old = std::mem::replace(&mut self.current, found.clone());
            return Change::Move(old.ip, found);
        }
        self.candidate = Some(found);
        Change::Keep
    }
}

/// Looks for as long as it lives, and calls `moved` with the old and the new address. Says what stands in the
/// way, once; that a network namespace was left behind (only `lo` is there) as an error, because nothing that
/// this process could do helps.
pub(crate) async fn follow(lookup: Lookup<'_>, current: Choice, mut moved: impl FnMut(IpAddr, IpAddr)) {
    let by_name = matches!(lookup.config.backend_host, Some(Host::Name(_)));
    let mut watch = AddressWatch::new(current);
    let mut seen = interfaces().ok();
    let mut checks: u32 = 0;
    loop {
        sleep(INTERVAL).await;
        checks = checks.wrapping_add(1);
        let now = interfaces().ok();
        let due = by_name && checks.is_multiple_of(CHECKS_PER_RESOLUTION);
        // An address that was there is reported from one that is there again only by looking at it.
        if now == seen && !due && watch.candidate.is_none() && watch.reported.is_none() {
            continue;
        }
        seen = now;
        match watch.on_lookup(lookup.once().await) {
            Change::Keep => debug!("the address is the same"),
            Change::Move(old, new) => {
                info!("{new}; it was {old}");
                moved(old, new.ip);
            }
            Change::Lost(reason) if only_loopback(seen.as_deref()) => {
                error!("nobody can be reached from here any more: {reason}");
            }
            Change::Lost(reason) => warn!("the advertised address may not be right any more: {reason}"),
        }
    }
}

/// Only loopback is left: the container whose network this one shares is gone.
fn only_loopback(interfaces: Option<&[Interface]>) -> bool {
    interfaces.is_some_and(|interfaces| interfaces.iter().all(|interface| interface.ip.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::address::choice::Reason;

    fn choice(last: u8, reason: Reason) -> Choice {
        Choice { ip: [10, 2, 2, last].into(), interface: Some("eth0".to_owned()), reason, others: Vec::new() }
    }

    fn web_net(last: u8) -> Choice {
        choice(last, Reason::WebNet("10.2.2.0/24".parse().unwrap(), Vec::new()))
    }

    fn guess(last: u8) -> Choice {
        choice(last, Reason::FirstOther("10.2.2.0/24".parse().unwrap()))
    }

    #[test]
    fn another_address_for_the_same_reason_is_followed_at_once() {
        let mut watch = AddressWatch::new(web_net(7));
        assert_eq!(watch.on_lookup(Ok(web_net(7))), Change::Keep);
        assert_eq!(watch.on_lookup(Ok(web_net(9))), Change::Move([10, 2, 2, 7].into(), web_net(9)));
        assert_eq!(watch.on_lookup(Ok(web_net(9))), Change::Keep);
    }

    #[test]
    fn a_guess_never_replaces_what_was_known() {
        let mut watch = AddressWatch::new(web_net(7));
        for _ in 0..5 {
            assert_eq!(watch.on_lookup(Ok(guess(200))), Change::Keep);
        }
        assert_eq!(watch.on_lookup(Ok(web_net(7))), Change::Keep);
    }

    #[test]
    fn a_good_address_for_another_reason_is_followed_when_it_stays() {
        let net = "10.2.2.0/24".parse().unwrap();
        let by_registry = || choice(99, Reason::RegistryConnection(net));
        let mut watch = AddressWatch::new(web_net(7));
        assert_eq!(watch.on_lookup(Ok(by_registry())), Change::Keep);
        assert_eq!(watch.on_lookup(Ok(by_registry())), Change::Move([10, 2, 2, 7].into(), by_registry()));
    }

    #[test]
    fn trouble_is_told_once_and_again_after_it_was_over() {
        let mut watch = AddressWatch::new(web_net(7));
        let lost = || Err("only lo".to_owned());
        assert_eq!(watch.on_lookup(lost()), Change::Lost("only lo".to_owned()));
        assert_eq!(watch.on_lookup(lost()), Change::Keep);
        watch.on_lookup(Ok(web_net(7))).eq(&Change::Keep).then_some(()).unwrap();
        assert_eq!(watch.on_lookup(lost()), Change::Lost("only lo".to_owned()));
    }
}
