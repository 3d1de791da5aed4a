//! Following the application's address: interfaces come and go, and BACKEND_HOST leads to the next container
//! (the routes follow by the client's rules: new in, applied, then the old one out).
//!
//! [`Follower`] decides what a new look at the addresses means; [`follow`] looks.

use std::mem::discriminant;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::protocol::Host;

use super::choice::Choice;
use super::interfaces::{Interface, interfaces};
use super::lookup::Lookup;

/// Between two looks at the interfaces.
const LOOK: Duration = Duration::from_secs(2);
/// BACKEND_HOST is resolved at every so many looks.
const LOOKS_PER_NAME: u32 = 3;

/// What follows from a look.
#[derive(Debug, PartialEq)]
enum Move {
    /// Everything is as it was, or not certain enough to do anything about it.
    Stay,
    /// The routes lead from the first address to the choice's.
    To(IpAddr, Choice),
    /// There is no address any more, and that is news.
    Lost(String),
}

/// Which address is advertised, and what speaks against it.
#[derive(Debug)]
struct Follower {
    current: Choice,
    /// Another address, for another reason than the present one: it must be seen twice.
    doubt: Option<Choice>,
    told: Option<String>,
}

impl Follower {
    fn new(current: Choice) -> Self {
        Follower { current, doubt: None, told: None }
    }

    /// What a look has found.
    ///
    /// A guess never replaces what was known: while a network is being disconnected and connected again, the
    /// first other address is somebody else's idea of us.
    fn on_look(&mut self, found: Result<Choice, String>) -> Move {
        let found = match found {
            Ok(found) => found,
            Err(trouble) if self.told.as_ref() == Some(&trouble) => return Move::Stay,
            Err(trouble) => {
                self.told = Some(trouble.clone());
                return Move::Lost(trouble);
            }
        };
        self.told = None;
        let doubt = self.doubt.take();
        if found.ip == self.current.ip {
            self.current = found;
            return Move::Stay;
        }
        let same_reason = discriminant(&found.reason) == discriminant(&self.current.reason);
        let seen_twice = doubt.is_some_and(|doubt| doubt.ip == found.ip);
        if same_reason || (seen_twice && !found.is_doubtful()) {
            let old = std::mem::replace(&mut self.current, found.clone());
            return Move::To(old.ip, found);
        }
        self.doubt = Some(found);
        Move::Stay
    }
}

/// Looks for as long as it lives, and calls `moved` with the old and the new address. Says what stands in the
/// way, once; that a network namespace was left behind (only `lo` is there) as an error, because nothing that
/// this process could do helps.
pub(crate) async fn follow(lookup: Lookup<'_>, current: Choice, mut moved: impl FnMut(IpAddr, IpAddr)) {
    let by_name = matches!(lookup.config.backend_host, Some(Host::Name(_)));
    let mut follower = Follower::new(current);
    let mut seen = interfaces().ok();
    let mut looks: u32 = 0;
    loop {
        sleep(LOOK).await;
        looks = looks.wrapping_add(1);
        let now = interfaces().ok();
        let due = by_name && looks.is_multiple_of(LOOKS_PER_NAME);
        // An address that was there is told from one that is there again only by looking at it.
        if now == seen && !due && follower.doubt.is_none() && follower.told.is_none() {
            continue;
        }
        seen = now;
        match follower.on_look(lookup.once().await) {
            Move::Stay => debug!("the address is the same"),
            Move::To(old, new) => {
                info!("{new}; it was {old}");
                moved(old, new.ip);
            }
            Move::Lost(trouble) if stranded(seen.as_deref()) => {
                error!("nobody can be reached from here any more: {trouble}");
            }
            Move::Lost(trouble) => warn!("the advertised address may not be right any more: {trouble}"),
        }
    }
}

/// Only loopback is left: the container whose network this one shares is gone.
fn stranded(interfaces: Option<&[Interface]>) -> bool {
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
        let mut follower = Follower::new(web_net(7));
        assert_eq!(follower.on_look(Ok(web_net(7))), Move::Stay);
        assert_eq!(follower.on_look(Ok(web_net(9))), Move::To([10, 2, 2, 7].into(), web_net(9)));
        assert_eq!(follower.on_look(Ok(web_net(9))), Move::Stay);
    }

    #[test]
    fn a_guess_never_replaces_what_was_known() {
        let mut follower = Follower::new(web_net(7));
        for _ in 0..5 {
            assert_eq!(follower.on_look(Ok(guess(200))), Move::Stay);
        }
        assert_eq!(follower.on_look(Ok(web_net(7))), Move::Stay);
    }

    #[test]
    fn a_good_address_for_another_reason_is_followed_when_it_stays() {
        let net = "10.2.2.0/24".parse().unwrap();
        let by_registry = || choice(99, Reason::RegistryConnection(net));
        let mut follower = Follower::new(web_net(7));
        assert_eq!(follower.on_look(Ok(by_registry())), Move::Stay);
        assert_eq!(follower.on_look(Ok(by_registry())), Move::To([10, 2, 2, 7].into(), by_registry()));
    }

    #[test]
    fn trouble_is_told_once_and_again_after_it_was_over() {
        let mut follower = Follower::new(web_net(7));
        let lost = || Err("only lo".to_owned());
        assert_eq!(follower.on_look(lost()), Move::Lost("only lo".to_owned()));
        assert_eq!(follower.on_look(lost()), Move::Stay);
        follower.on_look(Ok(web_net(7))).eq(&Move::Stay).then_some(()).unwrap();
        assert_eq!(follower.on_look(lost()), Move::Lost("only lo".to_owned()));
    }
}
