//! Notices when this process is left in a network namespace that nobody reaches: the container whose network it shares
//! (`network_mode: "service:…"`) has stopped, and was started again in another namespace.
//!
//! [`Stranding`] decides what a look at the interfaces means; [`until_stranded`] looks.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::sidecar::config::{Endpoint, WhenStranded};
use registry_client::protocol::Host;

use super::interfaces::{Interface, interfaces};

/// The pause between two looks at the interfaces.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long there must be nothing but loopback before we exit: while a network is disconnected and connected again, there
/// is nothing else either.
const PATIENCE: Duration = Duration::from_secs(15);

/// What has been seen of the interfaces.
#[derive(Debug)]
struct Stranding {
    /// There is, or was, more than loopback, or the registry is beyond it: without a network we are of no use.
    needs_network: bool,
    since: Option<Instant>,
}

/// What follows from a look at the interfaces.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    None,
    /// Only loopback is left.
    Stranded,
    /// There is more than loopback again.
    Joined,
    /// Only loopback has been left for [`PATIENCE`].
    Lasting,
}

impl Stranding {
    fn on_look(&mut self, interfaces: &[Interface], now: Instant) -> Change {
        if interfaces.iter().any(|interface| !interface.is_loopback()) {
            self.needs_network = true;
            return if self.since.take().is_some() { Change::Joined } else { Change::None };
        }
        match self.since {
            _ if !self.needs_network => Change::None,
            None => {
                self.since = Some(now);
                Change::Stranded
            }
            Some(since) if now.saturating_duration_since(since) >= PATIENCE => Change::Lasting,
            Some(_) => Change::None,
        }
    }
}

/// Looks at the interfaces for as long as it runs, and calls `stranded` when only loopback is left and when there is more
/// again. Returns when this process is to exit for that reason; never where it is to stay.
///
/// Cancel-safe.
pub(crate) async fn until_stranded(
    registries: &[Endpoint],
    consequence: WhenStranded,
    stranded: impl Fn(bool),
) {
    let is_local = |endpoint: &Endpoint| match &endpoint.host {
        Host::Ip(ip) => ip.is_loopback(),
        Host::Name(name) => name == "localhost",
    };
    let needs_network = !registries.is_empty() && !registries.iter().any(is_local);
    let mut stranding = Stranding { needs_network, since: None };
    loop {
        if let Ok(interfaces) = interfaces() {
            match stranding.on_look(&interfaces, Instant::now()) {
                Change::Stranded => {
                    stranded(true);
                    let then = match consequence {
                        WhenStranded::Exit => {
                            "in 15 s this process exits with 75, so that the engine joins it again"
                        }
                        WhenStranded::Stay => "restart this container after that one",
                    };
                    error!(
                        "only the loopback interface is left: the container whose network this one shares has stopped; {then}"
                    );
                }
                Change::Joined => {
                    stranded(false);
                    info!("there is a network again");
                }
                Change::Lasting if consequence == WhenStranded::Exit => {
                    return warn!("still only the loopback interface: exiting with 75");
                }
                Change::Lasting | Change::None => {}
            }
        }
        sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(stranding: &mut Stranding, names: &[&str], now: Instant) -> Change {
        let interface = |name: &&str| Interface {
            name: (*name).to_owned(),
            index: 1,
            ip: if *name == "lo" { [127, 0, 0, 1].into() } else { [10, 2, 2, 7].into() },
            prefix_len: 24,
        };
        stranding.on_look(&names.iter().map(interface).collect::<Vec<_>>(), now)
    }

    #[test]
    fn only_loopback_after_more_than_that_is_stranded_at_once_and_for_good_after_a_while() {
        let (start, mut stranding) = (Instant::now(), Stranding { needs_network: false, since: None });
        // A machine that never had a network: its registry is on it.
        assert_eq!(look(&mut stranding, &["lo"], start), Change::None);
        assert_eq!(look(&mut stranding, &["lo", "eth0"], start), Change::None);
        assert_eq!(look(&mut stranding, &["lo"], start), Change::Stranded);
        assert_eq!(look(&mut stranding, &["lo"], start + PATIENCE / 2), Change::None);
        assert_eq!(look(&mut stranding, &["lo", "eth0"], start + PATIENCE / 2), Change::Joined);
        assert_eq!(look(&mut stranding, &["lo"], start + PATIENCE), Change::Stranded);
        assert_eq!(look(&mut stranding, &[], start + PATIENCE * 2), Change::Lasting);
    }

    #[test]
    fn a_registry_that_is_elsewhere_needs_a_network_from_the_start() {
        let mut stranding = Stranding { needs_network: true, since: None };
        assert_eq!(look(&mut stranding, &["lo"], Instant::now()), Change::Stranded);
    }
}
