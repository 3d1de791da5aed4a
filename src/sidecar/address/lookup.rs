//! Asks the system what the choice of an address depends on, and chooses.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::sidecar::config::{AddressConfig, Endpoint};
use registry_client::protocol::Host;
use registry_client::{Endpoint as Name, Resolver, SystemResolver};

use super::choice::{AddressError, BackendHost, Choice, Doubtful, Inputs, choose};
use super::interfaces::interfaces;

/// How long a name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// The first and the longest pause between two tries to find an address.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long BACKEND_HOST may have several addresses at the start. While an orchestrator replaces an instance, its name
/// may lead to both for a moment.
const AMBIGUITY_LIMIT: Duration = Duration::from_secs(15);

/// How the address of this instance is found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lookup<'a, R> {
    /// BACKEND_HOST and WEB_NET_CIDR.
    pub(crate) config: &'a AddressConfig,
    /// The registries. Where nothing better decides, the address that leads to one of them is chosen.
    pub(crate) registries: &'a [Endpoint],
    /// Whether the application runs under this process, so that our address is its address.
    pub(crate) wrapped: bool,
    /// Finds the addresses of BACKEND_HOST.
    pub(crate) resolver: &'a R,
}

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// The interfaces cannot be listed.
    #[error("cannot list the interfaces: {0}")]
    Interfaces(String),
    /// The proxy could reach none of the addresses, or it is not known which one is the application's.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// The addresses that a name had at the same time for longer than [`AMBIGUITY_LIMIT`]. One that is left of them later
/// may be another application's, so it is not taken.
#[derive(Debug, Default)]
struct Doubt {
    since: Option<Instant>,
    addresses: Doubtful,
}

impl Doubt {
    /// Takes the result of a lookup: refuses an address that is in doubt.
    fn on_lookup(&mut self, found: Result<Choice, LookupError>) -> Result<Choice, LookupError> {
        match &found {
            Err(LookupError::Address(AddressError::Ambiguous { host, addresses })) => {
                let since = *self.since.get_or_insert_with(Instant::now);
                if since.elapsed() >= AMBIGUITY_LIMIT {
                    self.addresses.add(host, addresses.iter().copied());
                }
            }
            Ok(choice) => {
                self.since = None;
                if let Some(objection) = self.addresses.objection(choice) {
                    return Err(objection.into());
                }
            }
            Err(_) => self.since = None,
        }
        found
    }

    /// Whether `error` is to be reported as lasting.
    fn is_lasting(&self, error: &LookupError) -> bool {
        !self.addresses.is_empty() && error.is_ambiguity()
    }
}

impl LookupError {
    /// Whether there are addresses, but it is not known which one is the application's.
    fn is_ambiguity(&self) -> bool {
        use AddressError::{Ambiguous, Remaining};
        matches!(self, LookupError::Address(Ambiguous { .. } | Remaining { .. }))
    }
}

impl<R: Resolver> Lookup<'_, R> {
    /// Tries until there is an address. It logs the choice, and an obstacle only when it changes. Where BACKEND_HOST
    /// has had several addresses for [`AMBIGUITY_LIMIT`], it logs an error and passes it to `unknown`; `None` means
    /// that this is over.
    ///
    /// Cancel-safe.
    pub(crate) async fn until_found(&self, unknown: impl Fn(Option<String>)) -> Choice {
        let (mut pause, mut logged) = (FIRST_PAUSE, String::new());
        let mut doubt = Doubt::default();
        loop {
            match doubt.on_lookup(self.once().await) {
                Ok(choice) => {
                    unknown(None);
                    match choice.is_doubtful() {
                        true => warn!("{choice}"),
                        false => info!("{choice}"),
                    }
                    return choice;
                }
                Err(reason) => {
                    let lasting = doubt.is_lasting(&reason).then(|| format!("not registered: {reason}"));
                    let line = match &lasting {
                        Some(line) => line.clone(),
                        None if reason.is_ambiguity() => {
                            format!("waiting {AMBIGUITY_LIMIT:?} for one address: {reason}")
                        }
                        None => format!("no address to advertise yet: {reason}"),
                    };
                    if line != logged {
                        match lasting {
                            Some(_) => error!("{line}"),
                            None => warn!("{line}"),
                        }
                        unknown(lasting);
                        logged = line;
                    }
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// All addresses of BACKEND_HOST. Cancel-safe.
    ///
    /// # Errors
    /// The resolver's, or that it has not answered in time.
    pub(super) async fn backend_addresses(&self, host: &Host) -> io::Result<Vec<IpAddr>> {
        resolve(self.resolver, host, RESOLVE_TIMEOUT).await
    }

    /// One try. Cancel-safe.
    ///
    /// # Errors
    /// Says, for a person, why no address can be advertised: the interfaces cannot be listed, or the proxy could
    /// reach none of them.
    pub(crate) async fn once(&self) -> Result<Choice, LookupError> {
        let interfaces = interfaces().map_err(|error| LookupError::Interfaces(error.to_string()))?;
        let backend_host = match &self.config.backend_host {
            None => None,
            Some(host) => {
                let addresses = resolve(self.resolver, host, RESOLVE_TIMEOUT).await.unwrap_or_default();
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
        Ok(choose(&interfaces, &inputs)?)
    }
}

/// Our address on the way to the first registry that resolves. Connecting a UDP socket consults the kernel's routing
/// table and sends nothing.
async fn local_end(registries: &[Endpoint]) -> Option<IpAddr> {
    for registry in registries {
        for ip in resolve(&SystemResolver, &registry.host, RESOLVE_TIMEOUT).await.unwrap_or_default() {
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
async fn resolve(resolver: &impl Resolver, host: &Host, limit: Duration) -> io::Result<Vec<IpAddr>> {
    let name = match host {
        Host::Ip(ip) => return Ok(vec![*ip]),
        Host::Name(name) => name.as_str(),
    };
    let found = tokio::time::timeout(limit, resolver.resolve(&Name::new(name, 0)))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}")))??;
    let mut addresses: Vec<IpAddr> = found.iter().map(|address| address.ip().to_canonical()).collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Mutex;

    use super::*;

    /// What the name `app` leads to: the last octets at the first lookups, the last one from then on.
    struct Answers(Mutex<Vec<&'static [u8]>>);

    impl Resolver for Answers {
        async fn resolve(&self, name: &Name) -> io::Result<Vec<SocketAddr>> {
            let mut answers = self.0.lock().unwrap();
            let now = if answers.len() > 1 { answers.remove(0) } else { answers[0] };
            Ok(now.iter().map(|last| SocketAddr::from(([127, 0, 0, *last], name.port))).collect())
        }
    }

    /// What is found within a minute, when, and what was unknown meanwhile.
    async fn found(answers: Vec<&'static [u8]>) -> (Option<Choice>, Duration, Vec<Option<String>>) {
        let resolver = Answers(Mutex::new(answers));
        let config = AddressConfig {
            backend_host: Some(Host::Name("app".to_owned())),
            each_address: false,
            web_net: "10.2.2.0/24".parse().unwrap(),
        };
        let lookup = Lookup { config: &config, registries: &[], wrapped: false, resolver: &resolver };
        let (unknown, begun) = (RefCell::new(Vec::new()), Instant::now());
        let finding = lookup.until_found(|problem| unknown.borrow_mut().push(problem));
        let found = tokio::time::timeout(Duration::from_secs(60), finding).await.ok();
        (found, begun.elapsed(), unknown.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn several_addresses_at_the_start_are_waited_out_and_no_longer_than_the_limit() {
        // The predecessor goes.
        let (choice, took, unknown) = found(vec![&[5, 6], &[5, 6], &[6]]).await;
        assert_eq!(choice.unwrap().ip, IpAddr::from([127, 0, 0, 6]));
        assert!(took < AMBIGUITY_LIMIT && unknown.iter().all(Option::is_none), "{took:?} {unknown:?}");

        // Both stay.
        let (choice, _, unknown) = found(vec![&[5, 6]]).await;
        let problems: Vec<&String> = unknown.iter().flatten().collect();
        assert!(choice.is_none() && problems.len() == 1, "{choice:?} {unknown:?}");
        assert!(problems[0].contains("has the addresses 127.0.0.5, 127.0.0.6"), "{unknown:?}");

        // Of two that both stayed for long, the one that is left may be the other application's.
        let mut answers: Vec<&'static [u8]> = vec![&[5, 6]; 11];
        answers.push(&[6]);
        let (choice, _, unknown) = found(answers.clone()).await;
        assert!(
            choice.is_none() && unknown.last().unwrap().as_ref().unwrap().contains("only 127.0.0.6 is left")
        );

        // One that was not there is the application's.
        answers.push(&[7]);
        let (choice, _, unknown) = found(answers).await;
        assert_eq!((choice.unwrap().ip, unknown.last()), (IpAddr::from([127, 0, 0, 7]), Some(&None)));
    }

    #[tokio::test]
    async fn a_name_resolves_to_its_addresses_and_an_address_to_itself() {
        let limit = Duration::from_secs(10);
        let found = resolve(&SystemResolver, &Host::Name("localhost".to_owned()), limit).await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty(), "{found:?}");
        let ip = IpAddr::from([10, 2, 2, 9]);
        assert_eq!(resolve(&SystemResolver, &Host::Ip(ip), limit).await.unwrap(), [ip]);
    }
}
