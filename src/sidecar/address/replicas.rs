//! BACKEND_EACH_ADDRESS: follows the addresses of BACKEND_HOST, each of which is a replica of one service.
//!
//! [`Replicas`] decides what a resolution means; [`follow_replicas`] resolves.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, info, warn};

use registry_client::Resolver;

use super::choice::same_network;
use super::interfaces::interfaces;
use super::lookup::Lookup;

/// The pause between two resolutions.
const INTERVAL: Duration = Duration::from_secs(2);
/// The first pause after a resolution that found nothing; it doubles up to [`INTERVAL`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How many resolutions in a row must miss an address before it counts as gone: name servers have gaps.
const MISSES_UNTIL_GONE: u32 = 2;
/// The most replicas. Further ones get no requests from here.
const MAX_REPLICAS: usize = 64;

/// The replicas, each with how many resolutions in a row have missed it.
#[derive(Debug, Default)]
struct Replicas {
    known: BTreeMap<IpAddr, u32>,
    /// How many addresses there were beyond [`MAX_REPLICAS`] at the last resolution.
    surplus: usize,
}

impl Replicas {
    /// The name leads to these addresses now. Do not call it for a resolution that failed. Returns whether the replicas
    /// are others than before.
    fn on_resolved(&mut self, found: &[IpAddr]) -> bool {
        let before: Vec<IpAddr> = self.addresses();
        for (address, missed) in &mut self.known {
            *missed = if found.contains(address) { 0 } else { missed.saturating_add(1) };
        }
        self.known.retain(|_, missed| *missed < MISSES_UNTIL_GONE);
        let new: Vec<IpAddr> = found.iter().filter(|ip| !self.known.contains_key(*ip)).copied().collect();
        let room = MAX_REPLICAS.saturating_sub(self.known.len());
        self.surplus = new.len().saturating_sub(room);
        self.known.extend(new.into_iter().take(room).map(|address| (address, 0)));
        self.addresses() != before
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.known.keys().copied().collect()
    }
}

/// Follows the replicas for as long as it runs, and calls `changed` with all of them when one comes or goes. A name that
/// does not resolve changes nothing, and is logged once.
///
/// Cancel-safe. It never returns.
pub(crate) async fn follow_replicas(lookup: Lookup<'_, impl Resolver>, changed: impl Fn(Vec<IpAddr>)) {
    let Some(host) = &lookup.config.backend_host else { return std::future::pending().await };
    let (mut replicas, mut pause, mut logged) = (Replicas::default(), FIRST_PAUSE, None);
    let mut surplus_logged = false;
    loop {
        let failure = match lookup.backend_addresses(host).await {
            Ok(found) if !found.is_empty() => {
                let interfaces = interfaces().unwrap_or_default();
                let found = same_network(&interfaces, &found, lookup.config.web_net);
                if replicas.on_resolved(&found) {
                    let all = replicas.addresses();
                    info!("BACKEND_HOST {host} has {} replicas: {}", all.len(), listed(&all));
                    changed(all);
                }
                (pause, logged) = (INTERVAL, None);
                None
            }
            Ok(_) => Some("it has no address".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        match failure {
            Some(failure) if logged.as_ref() != Some(&failure) => {
                warn!(
                    "BACKEND_HOST {host} does not resolve ({failure}): is a replica running, on a network that we share?"
                );
                logged = Some(failure);
            }
            Some(failure) => debug!("BACKEND_HOST {host}: {failure}"),
            None => {}
        }
        if replicas.surplus > 0 && !surplus_logged {
            surplus_logged = true;
            warn!(
                "BACKEND_HOST {host} has {} addresses more than the {MAX_REPLICAS} that get a route",
                replicas.surplus
            );
        }
        sleep(pause).await;
        pause = (pause * 2).min(INTERVAL);
    }
}

fn listed(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(lasts: impl IntoIterator<Item = u8>) -> Vec<IpAddr> {
        lasts.into_iter().map(|last| IpAddr::from([10, 2, 2, last])).collect()
    }

    #[test]
    fn replicas_come_at_once_and_go_when_two_resolutions_have_missed_them() {
        let mut replicas = Replicas::default();
        assert!(replicas.on_resolved(&ips([7, 8])));
        assert!(!replicas.on_resolved(&ips([8])));
        assert!(!replicas.on_resolved(&ips([7, 8])), "one gap is nothing");
        assert!(replicas.on_resolved(&ips([8, 9])));
        assert_eq!(replicas.addresses(), ips([7, 8, 9]));
        assert!(replicas.on_resolved(&ips([8, 9])));
        assert_eq!(replicas.addresses(), ips([8, 9]));
    }

    #[test]
    fn there_are_at_most_64_and_those_that_are_known_stay() {
        let mut replicas = Replicas::default();
        replicas.on_resolved(&ips(100..150));
        replicas.on_resolved(&ips(0..200));
        assert_eq!((replicas.addresses().len(), replicas.surplus), (MAX_REPLICAS, 136));
        assert!(ips(100..150).iter().all(|ip| replicas.known.contains_key(ip)));
    }
}
