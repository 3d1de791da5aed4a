//! Asks the system what the choice of an address depends on, and chooses.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use crate::sidecar::config::{AddressConfig, Endpoint};
use registry_client::protocol::Host;

use super::choice::{BackendHost, Choice, Inputs, choose};
use super::interfaces::interfaces;

/// How long a name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// The first and the longest pause between two tries to find an address.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How the address of this instance is found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lookup<'a> {
    /// BACKEND_HOST and WEB_NET_CIDR.
    pub(crate) config: &'a AddressConfig,
    /// The registries. Where nothing better decides, the address that leads to one of them is chosen.
    pub(crate) registries: &'a [Endpoint],
    /// Whether the application runs under this process, so that our address is its address.
    pub(crate) wrapped: bool,
}

impl Lookup<'_> {
    /// Tries until there is an address. It logs the choice, and an obstacle only when it changes.
    ///
    /// Cancel-safe.
    pub(crate) async fn until_found(&self) -> Choice {
        let (mut pause, mut logged) = (FIRST_PAUSE, String::new());
        loop {
            match self.once().await {
                Ok(choice) if choice.is_doubtful() => {
                    warn!("{choice}");
                    return choice;
                }
                Ok(choice) => {
                    info!("{choice}");
                    return choice;
                }
                Err(reason) if reason != logged => {
                    warn!("no address to advertise yet: {reason}");
                    logged = reason;
                }
                Err(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One try. Cancel-safe.
    ///
    /// # Errors
    /// Says, for a person, why no address can be advertised: the interfaces cannot be listed, or the proxy could
    /// reach none of them.
    pub(crate) async fn once(&self) -> Result<Choice, String> {
        let interfaces = interfaces().map_err(|error| format!("cannot list the interfaces: {error}"))?;
        let backend_host = match &self.config.backend_host {
            None => None,
            Some(host) => {
                let addresses = resolve(host, RESOLVE_TIMEOUT).await.unwrap_or_default();
                Some(BackendHost { host: host.clone(), addresses })
            }
        };
        let has_web_net = interfaces.iter().any(|interface| self.config.web_net.contains(&interface.ip));
        // Finding our end means resolving the registry's name. Do that only where it matters: where nothing better
        // decides, and for a loopback address, which is right only if the registry is on loopback too.
        let registry_local = match &backend_host {
            None if !has_web_net => local_end(self.registries).await,
            Some(backend) if backend.addresses.iter().any(IpAddr::is_loopback) => {
                local_end(self.registries).await
            }
            _ => None,
        };
        let inputs =
            Inputs { backend_host, web_net: self.config.web_net, registry_local, wrapped: self.wrapped };
        choose(&interfaces, &inputs).map_err(|error| error.to_string())
    }
}

/// Our address on the way to the first registry that resolves. Connecting a UDP socket consults the kernel's routing
/// table and sends nothing.
async fn local_end(registries: &[Endpoint]) -> Option<IpAddr> {
    for registry in registries {
        for ip in resolve(&registry.host, RESOLVE_TIMEOUT).await.unwrap_or_default() {
            let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let connected = UdpSocket::bind(any).and_then(|socket| {
                socket.connect(SocketAddr::new(ip, registry.port))?;
                socket.local_addr()
            });
            if let Ok(local) = connected {
                return Some(local.ip());
            }
        }
    }
    None
}

/// The addresses of `host`, sorted and without duplicates; an address resolves to itself.
///
/// Cancel-safe. After a time-out the system's resolver still runs to its end in a thread of its own.
///
/// # Errors
/// The resolver's, or [`io::ErrorKind::TimedOut`] after `limit`.
async fn resolve(host: &Host, limit: Duration) -> io::Result<Vec<IpAddr>> {
    let name = match host {
        Host::Ip(ip) => return Ok(vec![*ip]),
        Host::Name(name) => name.as_str(),
    };
    let found = tokio::time::timeout(limit, tokio::net::lookup_host((name, 0)))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}")))??;
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_resolves_to_its_addresses_and_an_address_to_itself() {
        let limit = Duration::from_secs(10);
        let found = resolve(&Host::Name("localhost".to_owned()), limit).await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty(), "{found:?}");
        let ip = IpAddr::from([10, 2, 2, 9]);
        assert_eq!(resolve(&Host::Ip(ip), limit).await.unwrap(), [ip]);
    }
}
