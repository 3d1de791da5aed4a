//! Follows the application's address: interfaces come and go, and BACKEND_HOST may lead to another container.
//!
//! [`AddressWatch`] decides what a new lookup means; [`follow`] looks the address up.

use std::mem::discriminant;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use registry_client::protocol::Host;

use super::choice::Choice;
use super::interfaces::{Interface, interfaces};
use super::lookup::Lookup;

/// The pause between two checks of the interfaces.
const INTERVAL: Duration = Duration::from_secs(2);
/// How many checks of the interfaces pass between two resolutions of BACKEND_HOST.
const CHECKS_PER_RESOLUTION: u32 = 3;

/// What follows from a lookup.
#[derive(Debug, PartialEq)]
enum Change {
    /// The advertised address stays: it is the same, or the new one is not certain enough.
    Keep,
    /// The routes move from this address to the choice's.
    Move(IpAddr, Choice),
    /// There is no address any more, for a reason that was not reported yet.
    Lost(String),
}

/// Which address is advertised, and what has been seen since.
#[derive(Debug)]
struct AddressWatch {
    current: Choice,
    /// Another address, chosen for another reason than the current one. It must be seen twice before it replaces it.
    candidate: Option<Choice>,
    reported: Option<String>,
}

impl AddressWatch {
    fn new(current: Choice) -> Self {
        AddressWatch { current, candidate: None, reported: None }
    }

    /// Takes the result of a lookup.
    ///
    /// A guess never replaces an address that was known: while a network is disconnected and connected again, the
    /// first other address belongs to some other network.
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

/// Follows the address for as long as it runs, and calls `moved` with the old and the new one. It logs each obstacle
/// once. A network namespace with nothing but `lo` is logged as an error, because only a restart of this container
/// helps there.
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
        // Look the address up only when the interfaces changed, a resolution is due, or an earlier result is open.
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

/// Whether only loopback is left: the container whose network this one shares is gone.
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
