//! Whether the application is ready: tries its checks often while it starts, and then at a fixed interval.
//!
//! `probe` makes one try of one check, with a module for each complicated kind; `gate` counts and decides. Nothing
//! here knows what readiness is used for.

mod failure;
mod fastcgi;
mod gate;
#[cfg(feature = "server")]
mod https;
mod probe;
mod shell;

use std::collections::BTreeSet;
use std::future::pending;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::sidecar::config::{Place, ReadinessConfig, ReadyCheck};

pub(crate) use failure::Failure;
use gate::{FLAP_WINDOW, Gate, GateConfig, Notice};
pub(crate) use shell::Shell;

/// The shortest pause between two tries at an address. A refused connection costs some 30 µs.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// The shortest pause where each try asks a name server or starts a process.
const SHORTEST_PAUSE_IF_COSTLY: Duration = Duration::from_millis(100);

/// What a try at a place has brought.
#[derive(Debug)]
pub(crate) struct Tried<'a> {
    /// The place's name.
    pub(crate) place: &'a str,
    /// Whether it is ready now (READY_RISE, READY_FALL).
    pub(crate) is_ready: bool,
    /// Why the try failed.
    pub(crate) problem: Option<String>,
}

/// Follows the readiness of each place for itself, for as long as it is among `places`, and calls `tried` after each try.
/// A place of which `was_ready` says so begins as one that is ready. There is no limit, but the log reminds of a long
/// wait. It never returns.
///
/// Cancel-safe: what was counted is lost, nothing else.
pub(crate) async fn follow(
    config: &ReadinessConfig,
    shell: Option<&Shell>,
    mut places: watch::Receiver<Vec<Place>>,
    was_ready: impl Fn(&str) -> bool,
    tried: impl Fn(Tried<'_>),
) {
    let (mut followed, mut running) = (BTreeSet::new(), FuturesUnordered::new());
    let mut is_open = true;
    loop {
        let wanted = places.borrow_and_update().clone();
        let is_one_of_several = wanted.len() > 1 || !running.is_empty();
        let new: Vec<Place> = wanted.into_iter().filter(|place| followed.insert(place.name())).collect();
        let waiting: Vec<String> = new.iter().map(Place::name).filter(|name| !was_ready(name)).collect();
        if !waiting.is_empty() {
            info!("waiting for {} to answer", waiting.join(" and "));
        }
        for place in new {
            let subject = match is_one_of_several {
                true => format!("the application at {}", place.name()),
                false => "the application".to_owned(),
            };
            let was_ready = was_ready(&place.name());
            let gone = is_gone(places.clone(), place.name());
            let follow = follow_place(config, shell, place.clone(), subject, was_ready, &tried);
            running.push(async move {
                tokio::select! {
                    () = follow => {}
                    () = gone => {}
                }
                place.name()
            });
        }
        tokio::select! {
            Some(gone) = running.next(), if !running.is_empty() => drop(followed.remove(&gone)),
            changed = places.changed(), if is_open => is_open = changed.is_ok(),
            else => pending().await,
        }
    }
}

/// Returns when the place is not wanted any more.
async fn is_gone(mut places: watch::Receiver<Vec<Place>>, name: String) {
    let gone = places.wait_for(|places| !places.iter().any(|place| place.name() == name)).await.is_ok();
    if !gone {
        // Nobody changes the places any more.
        pending().await
    }
}

async fn follow_place(
    config: &ReadinessConfig,
    shell: Option<&Shell>,
    place: Place,
    subject: String,
    was_ready: bool,
    tried: &impl Fn(Tried<'_>),
) {
    let (gate_config, name) = (gate_config(config, &place), place.name());
    let mut gate = match was_ready {
        true => Gate::opened(gate_config, now()),
        false => Gate::new(gate_config, now()),
    };
    if was_ready {
        sleep(gate_config.interval).await;
    }
    loop {
        let outcome = try_all(&place.checks, config.timeout.get(), shell).await;
        let decision = gate.on_try(outcome.is_ok(), now());
        log(&subject, decision.notice, outcome.as_ref().err());
        let problem = outcome.err().map(|failure| failure.to_string());
        tried(Tried { place: &name, is_ready: gate.is_ready(), problem });
        sleep(decision.pause).await;
    }
}

/// The thresholds and intervals of a configuration.
fn gate_config(config: &ReadinessConfig, place: &Place) -> GateConfig {
    let costly = place.checks.iter().any(ReadyCheck::is_costly);
    GateConfig {
        shortest: if costly { SHORTEST_PAUSE_IF_COSTLY } else { SHORTEST_PAUSE },
        interval: config.interval.get(),
        rise: config.rise,
        fall: config.fall,
        overdue: config.overdue.get(),
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn log(subject: &str, notice: Option<Notice>, failure: Option<&Failure>) {
    let state = failure.map_or("it passes now".to_owned(), Failure::to_string);
    match notice {
        None => {}
        Some(Notice::Ready(waited)) => info!("{subject} is ready, after {waited:.0?}"),
        Some(Notice::Lost(lasted)) => {
            warn!("{subject} is not ready any more, after {lasted:.0?}: {state}")
        }
        Some(Notice::Flapping { lasted, losses, steady }) => warn!(
            "{subject} is not ready any more, after {lasted:.0?}, {losses} times within {FLAP_WINDOW:.0?} by \
             now: {state}; its routes come back when it has been ready for {steady:.0?}"
        ),
        Some(Notice::Waiting(waited)) => {
            info!("still waiting for {subject}, for {waited:.0?}: {state}")
        }
        Some(Notice::Overdue(waited)) => warn!(
            "{subject} is not ready after {waited:.0?}: {state}; its routes wait until it is. {}",
            failure.map_or("It passes now.", Failure::hint)
        ),
    }
}

/// Tries all checks in their order, up to the first that fails.
///
/// # Errors
/// Says which check failed and why. Each check may take `limit`, and before that its name as long to resolve.
pub(crate) async fn try_all(
    checks: &[ReadyCheck],
    limit: Duration,
    shell: Option<&Shell>,
) -> Result<(), Failure> {
    for check in checks {
        probe::probe(check, limit, shell).await.map_err(|failure| failure.of(check))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use futures_util::FutureExt;

    use super::*;
    use crate::sidecar::config::{Endpoint, Environment};
    use registry_client::protocol::Host;

    fn tcp(address: SocketAddr) -> ReadyCheck {
        ReadyCheck::Tcp(Endpoint { host: Host::Ip(address.ip()), port: address.port() })
    }

    fn readiness() -> ReadinessConfig {
        let second = registry_client::protocol::GoDuration::from_secs(1);
        ReadinessConfig {
            wait: true,
            checks: Vec::new(),
            whole: false,
            interval: "10ms".parse().unwrap(),
            timeout: second,
            rise: 1,
            fall: 2,
            overdue: second,
            environment: Environment::default(),
        }
    }

    /// Follows these places until `over` says so of what each has become.
    async fn follow_until(
        places: watch::Receiver<Vec<Place>>,
        was_ready: &[&str],
        over: impl Fn(&BTreeMap<String, bool>) -> bool,
    ) {
        let (sender, mut seen) = watch::channel(BTreeMap::new());
        let tried = |tried: Tried<'_>| {
            sender.send_modify(|seen| {
                seen.insert(tried.place.to_owned(), tried.is_ready);
            });
        };
        let config = readiness();
        tokio::select! {
            () = follow(&config, None, places, |name| was_ready.contains(&name), tried) => unreachable!(),
            seen = tokio::time::timeout(Duration::from_secs(20), seen.wait_for(over)) => drop(seen.unwrap()),
        }
    }

    fn place(address: SocketAddr) -> Place {
        Place { checks: vec![tcp(address)] }
    }

    /// A port that is taken and refuses connections until `listen`.
    fn reserved() -> (socket2::Socket, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn a_port_is_ready_when_it_accepts_connections_and_not_before() {
        let (socket, address) = reserved();
        let refused = try_all(&[tcp(address)], Duration::from_secs(5), None).await.unwrap_err().to_string();
        assert!(
            refused.starts_with(&format!("tcp://{address}: ")) && refused.contains("refused"),
            "{refused}"
        );
        let (_sender, places) = watch::channel(vec![place(address)]);
        let name = place(address).name();
        follow_until(places.clone(), &[], |seen| seen.get(&name) == Some(&false)).await;
        socket.listen(16).unwrap();
        follow_until(places, &[], |seen| seen.get(&name) == Some(&true)).await;
    }

    #[tokio::test]
    async fn each_place_is_ready_by_itself_and_only_while_it_is_wanted() {
        let ((listening, open), (_held, shut)) = (reserved(), reserved());
        listening.listen(16).unwrap();
        let (sender, places) = watch::channel(vec![place(shut)]);
        let (open_name, shut_name) = (place(open).name(), place(shut).name());
        let both = |seen: &BTreeMap<String, bool>| {
            sender.send_if_modified(|places| {
                let is_new = places.len() == 1;
                if is_new {
                    places.push(place(open));
                }
                is_new
            });
            seen.get(&open_name) == Some(&true) && seen.get(&shut_name) == Some(&false)
        };
        follow_until(places.clone(), &[], both).await;
        // One that was ready is lost after READY_FALL tries.
        follow_until(places.clone(), &[&shut_name], |seen| seen.get(&shut_name) == Some(&false)).await;
        sender.send_replace(Vec::new());
        let config = readiness();
        let nothing = follow(&config, None, places, |_| false, |tried| panic!("{tried:?}"));
        assert!(nothing.now_or_never().is_none());
    }

    #[tokio::test]
    async fn one_of_several_checks_that_fails_is_named() {
        let (listening, open) = reserved();
        listening.listen(16).unwrap();
        let (_held, shut) = reserved();
        let failed =
            try_all(&[tcp(open), tcp(shut)], Duration::from_secs(5), None).await.unwrap_err().to_string();
        assert!(failed.contains(&shut.to_string()), "{failed}");
    }
}
