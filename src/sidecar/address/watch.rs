//! Follows the application's address: interfaces come and go, and BACKEND_HOST may lead to another container.
//!
//! [`AddressWatch`] decides what a new lookup means; [`follow`] looks the address up.

use std::mem::discriminant;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use registry_client::Resolver;
use registry_client::protocol::Host;

use super::choice::{AddressError, Choice, Doubtful};
use super::interfaces::{Interface, interfaces};
use super::lookup::{Lookup, LookupError};

/// The pause between two checks of the interfaces. Until a new address is known, requests go to the old one.
const INTERVAL: Duration = Duration::from_millis(500);
/// How many checks of the interfaces pass between two resolutions of BACKEND_HOST.
const CHECKS_PER_RESOLUTION: u32 = 12;
/// The same while an earlier result is open.
const CHECKS_PER_REPETITION: u32 = 4;

/// What follows from a lookup.
#[derive(Debug, PartialEq)]
enum Change {
    /// The advertised address stays: it is the same, or the new one is not certain enough.
    Keep,
    /// The routes move from this address to the choice's.
    Move(IpAddr, Choice),
    /// There is no address any more, for a reason that was not reported yet.
    Lost(String),
    /// The advertised address stays, but BACKEND_HOST has others beside it, which was not reported yet.
    Shared(String),
    /// BACKEND_HOST has addresses, and which one is the application's is not known any more.
    Unknown(String),
    /// The advertised address is known again.
    Known,
}

/// Which address is advertised, and what has been seen since.
#[derive(Debug)]
struct AddressWatch {
    current: Choice,
    /// Another address, chosen for another reason than the current one. It must be seen twice before it replaces it.
    candidate: Option<Choice>,
    /// What BACKEND_HOST had beside the advertised address when that was last seen: another application's addresses.
    beside: Doubtful,
    /// Whether it is not known which address is the application's.
    unknown: bool,
    reported: Option<String>,
}

impl AddressWatch {
    fn new(current: Choice) -> Self {
        AddressWatch { current, candidate: None, beside: Doubtful::default(), unknown: false, reported: None }
    }

    /// Takes the result of a lookup.
    ///
    /// A guess never replaces an address that was known: while a network is disconnected and connected again, the
    /// first other address belongs to some other network.
    ///
    /// Nor does an address that BACKEND_HOST had beside the advertised one: it is that of another container with the same
    /// name.
    fn on_lookup(&mut self, found: Result<Choice, LookupError>) -> Change {
        let found = match found {
            Ok(found) => found,
            Err(LookupError::Address(error @ AddressError::Ambiguous { .. })) => {
                return self.on_ambiguous(error);
            }
            Err(reason) => return self.report(reason.to_string(), Change::Lost),
        };
        if let Some(objection) = self.beside.objection(&found) {
            return self.on_unknown(&objection);
        }
        self.reported = None;
        let candidate = self.candidate.take();
        if found.ip == self.current.ip {
            self.current = found;
            self.beside.clear();
            return if std::mem::take(&mut self.unknown) { Change::Known } else { Change::Keep };
        }
        let same_reason = discriminant(&found.reason) == discriminant(&self.current.reason);
        let seen_twice = candidate.is_some_and(|candidate| candidate.ip == found.ip);
        if same_reason || (seen_twice && !found.is_doubtful()) {
            let old = std::mem::replace(&mut self.current, found.clone());
            self.beside.clear();
            self.unknown = false;
            return Change::Move(old.ip, found);
        }
        self.candidate = Some(found);
        Change::Keep
    }

    /// BACKEND_HOST has several addresses: the advertised one is kept if it is among them.
    fn on_ambiguous(&mut self, error: AddressError) -> Change {
        let AddressError::Ambiguous { host, addresses } = &error else { return self.on_unknown(&error) };
        let own = self.current.ip;
        if !addresses.contains(&own) {
            return self.on_unknown(&error);
        }
        self.beside.clear();
        self.beside.add(host, addresses.iter().copied().filter(|ip| *ip != own));
        let known_again = std::mem::take(&mut self.unknown);
        match self.report(format!("{own} is still advertised, but {error}"), Change::Shared) {
            Change::Keep if known_again => Change::Known,
            change => change,
        }
    }

    fn on_unknown(&mut self, error: &AddressError) -> Change {
        self.unknown = true;
        self.report(error.to_string(), Change::Unknown)
    }

    /// The change, unless its reason was the last one that was reported.
    fn report(&mut self, reason: String, change: fn(String) -> Change) -> Change {
        if self.reported.as_ref() == Some(&reason) {
            return Change::Keep;
        }
        self.reported = Some(reason.clone());
        change(reason)
    }
}

/// Follows the address for as long as it runs, and calls `moved` with the old and the new one. When the interfaces have
/// changed it calls `changed` first, because connections may have lost their own address. It logs each obstacle
/// once. A network namespace with nothing but `lo` is logged as an error, because only a restart of this container
/// helps there. Where it is not known any more which address is the application's, it passes the error to `unknown`;
/// `None` means that it is known.
pub(crate) async fn follow(
    lookup: Lookup<'_, impl Resolver>,
    current: Choice,
    changed: impl Fn(),
    moved: impl Fn(IpAddr, IpAddr),
    unknown: impl Fn(Option<String>),
) {
    let by_name = matches!(lookup.config.backend_host, Some(Host::Name(_)));
    let mut watch = AddressWatch::new(current);
    let mut seen = interfaces().ok();
    let mut checks: u32 = 0;
    loop {
        sleep(INTERVAL).await;
        checks = checks.wrapping_add(1);
        let now = interfaces().ok();
        let is_open = watch.candidate.is_some() || watch.reported.is_some();
        let due = by_name && checks.is_multiple_of(CHECKS_PER_RESOLUTION)
            || is_open && checks.is_multiple_of(CHECKS_PER_REPETITION);
        let has_changed = now != seen;
        // Look the address up only when the interfaces changed, a resolution is due, or an earlier result is open.
        if !has_changed && !due {
            continue;
        }
        seen = now;
        if has_changed {
            changed();
        }
        match watch.on_lookup(lookup.once().await) {
            Change::Keep => debug!("the address is the same"),
            Change::Move(old, new) => {
                info!("{new}; it was {old}");
                moved(old, new.ip);
                unknown(None);
            }
            Change::Shared(reason) => {
                warn!("{reason}");
                unknown(None);
            }
            Change::Known => {
                info!("{} is the address of BACKEND_HOST again", watch.current.ip);
                unknown(None);
            }
            Change::Unknown(reason) => {
                error!("{reason}");
                unknown(Some(reason));
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
        let lost = || Err(AddressError::OnlyLoopback.into());
        let text = AddressError::OnlyLoopback.to_string();
        assert_eq!(watch.on_lookup(lost()), Change::Lost(text.clone()));
        assert_eq!(watch.on_lookup(lost()), Change::Keep);
        watch.on_lookup(Ok(web_net(7))).eq(&Change::Keep).then_some(()).unwrap();
        assert_eq!(watch.on_lookup(lost()), Change::Lost(text.clone()));
    }

    fn app() -> Host {
        Host::Name("app".to_owned())
    }

    fn by_name(last: u8) -> Choice {
        choice(last, Reason::BackendHost(app()))
    }

    fn ambiguous(lasts: &[u8]) -> Result<Choice, LookupError> {
        let addresses = lasts.iter().map(|last| IpAddr::from([10, 2, 2, *last])).collect();
        Err(AddressError::Ambiguous { host: app(), addresses }.into())
    }

    #[test]
    fn beside_others_of_its_name_the_own_address_is_kept_and_theirs_is_never_taken() {
        let mut watch = AddressWatch::new(by_name(7));
        let Change::Shared(text) = watch.on_lookup(ambiguous(&[7, 9])) else { panic!() };
        assert!(text.contains("10.2.2.7 is still advertised") && text.contains("10.2.2.9"), "{text}");
        assert_eq!(watch.on_lookup(ambiguous(&[7, 9])), Change::Keep);
        // Ours goes, also by way of nothing at all: what is left is not ours.
        let Change::Lost(_) = watch.on_lookup(Err(AddressError::Unresolved(app()).into())) else { panic!() };
        let Change::Unknown(text) = watch.on_lookup(Ok(by_name(9))) else { panic!() };
        assert!(text.contains("only 10.2.2.9 is left"), "{text}");
        assert_eq!(watch.on_lookup(Ok(by_name(9))), Change::Keep);
        // A third one beside it may be anybody's.
        assert!(matches!(watch.on_lookup(ambiguous(&[9, 11])), Change::Unknown(_)));
        // Ours comes back, first beside the other, then alone.
        assert!(matches!(watch.on_lookup(ambiguous(&[7, 9])), Change::Shared(_)));
        assert_eq!(watch.on_lookup(Ok(by_name(7))), Change::Keep);
        // The other one has long gone when ours gets its address.
        assert_eq!(watch.on_lookup(Ok(by_name(9))), Change::Move([10, 2, 2, 7].into(), by_name(9)));
    }

    #[test]
    fn an_address_that_was_not_beside_the_own_one_is_the_successor() {
        let mut watch = AddressWatch::new(by_name(7));
        watch.on_lookup(ambiguous(&[7, 9]));
        assert!(matches!(watch.on_lookup(Ok(by_name(9))), Change::Unknown(_)));
        assert_eq!(watch.on_lookup(Ok(by_name(12))), Change::Move([10, 2, 2, 7].into(), by_name(12)));
        // Of two new ones nobody knows which, until only the own one is there.
        assert!(matches!(watch.on_lookup(ambiguous(&[13, 14])), Change::Unknown(_)));
        assert_eq!(watch.on_lookup(Ok(by_name(12))), Change::Known);
    }
}
