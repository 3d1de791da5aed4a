//! Keeps the application registered with every registry.
//!
//! | module | what it does |
//! |---|---|
//! | `intent`, `wanted` | pure: configuration to the intent that all sessions share; which of its routes are wanted now |
//! | `session_set`, `session` | starts and ends sessions; one session with its log |
//! | `discovery`, `address_plan` | follows the addresses of a name; pure: which session has which addresses |
//! | `cluster_check`, `reference_gaps` | warn where a name stands for registries that share no state; of what does nothing at a reference server |
//! | `backend_test` | asks the proxy whether it reaches the backend |
//! | `proxy_health` | follows whether the proxy sends requests to it |
//! | `hints`, `log_throttle` | pure: what a person can do about a failure, and how often it is logged |
//! | `reload` | reads the configuration again |
//! | `side_connection` | one command over a connection of its own |
//! | `leave`, `requests_in_flight` | leaves without losing requests; what the application's connections show of them |

mod address_plan;
mod backend_test;
mod cluster_check;
mod discovery;
mod hints;
mod intent;
mod leave;
mod log_throttle;
mod proxy_health;
mod reference_gaps;
mod reload;
mod requests_in_flight;
mod session;
mod session_set;
mod side_connection;
mod wanted;

use std::future::pending;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::info;

use crate::shutdown::Shutdown;
use registry_client::Resolver;

use crate::sidecar::address::{Choice, Lookup, follow};
use crate::sidecar::config::Config;
use crate::sidecar::maintenance::Maintenance;
use crate::sidecar::state::{DaemonState, Places};
use discovery::follow_names;
pub(crate) use intent::intent;
use leave::Left;
pub(crate) use leave::finish_in_flight;
use reload::reload_when_asked;
use requests_in_flight::Since;
use session_set::Sessions;
use wanted::Wanted;

/// Registers the application with the visibility that `state` asks for, and keeps it registered until asked to
/// stop. It has left every registry when it returns: each is drained within DRAIN_TIMEOUT where it can be, and then
/// has 500 ms for its answer (SEMANTICS section 8), all at the same time. Around a command it also waits, within
/// DRAIN_TIMEOUT in all, until no request is in flight that a registry could not tell of or has not stopped sending.
/// Without a registration it returns at once.
///
/// `replicas` are the application's addresses where BACKEND_EACH_ADDRESS is set; otherwise it looks for the one address.
///
/// Dropping it ends the sessions without a word; their routes stay for the registry's grace period.
pub(crate) async fn keep_registered(
    config: &Config,
    state: &DaemonState,
    maintenance: &Maintenance,
    shutdown: Shutdown,
    resolver: impl Resolver + Clone,
    mut replicas: Option<watch::Receiver<Vec<IpAddr>>>,
) {
    let Some(registration) = &config.registration else { return };
    let wrapped = config.command.is_some();
    let lookup = Lookup {
        config: &config.address,
        registries: &registration.registry.endpoints,
        wrapped,
        resolver: &resolver,
    };
    let unknown = |problem| state.set_address_problem(problem);
    let choice = tokio::select! {
        choice = first_address(&lookup, replicas.as_mut(), unknown) => choice,
        () = shutdown.requested() => {
            state.set_address_problem(None);
            state.clear_application();
            return info!("nothing was registered yet");
        }
    };
    let own = match &choice {
        Address::One(choice) => choice.ip,
        Address::Each(first) => *first,
    };
    state.set_advertised(own);
    let mut places = state.watch_places();
    let mut wanted = Wanted::new(config, registration, own);
    if let Some(replicas) = &mut replicas {
        wanted.set_replicas(replicas.borrow_and_update().clone());
    }
    let intent = wanted.intent(&places.borrow_and_update(), state.conditions());
    let wanted = Mutex::new(wanted);
    let sessions =
        Sessions::start(registration, intent, state.clone(), maintenance.clone(), resolver.clone());
    let moved = |old, new| {
        state.set_advertised(new);
        locked(&wanted).set_own(new);
        sessions.change_address(old, new);
    };
    let update = || sessions.set_intent(locked(&wanted).intent(&state.places(), state.conditions()));
    let reload = |config, registration, own| {
        locked(&wanted).set_config(config, registration, own);
        update();
        sessions.route_count()
    };
    tokio::select! {
        () = follow_address(lookup, choice, || sessions.network_changed(), moved, unknown) => {}
        () = follow_places(state, places, replicas, &wanted, update) => {}
        () = reload_when_asked(config, state, reload) => {}
        () = follow_names(&sessions) => {}
        () = shutdown.requested() => {}
    }
    state.set_address_problem(None);
    state.set_clients(Vec::new());
    state.clear_application();
    let (begun, limit) = (Instant::now(), config.drain_timeout.get());
    let left = sessions.leave(limit, &shutdown).await;
    if wrapped && let Some(unsure) = Left::least_certain(left) {
        // The command ends when this returns, and requests may be in flight that no registry can tell of.
        let (ports, rest) = (locked(&wanted).own_ports(), limit.saturating_sub(begun.elapsed()));
        tokio::select! {
            () = requests_in_flight::until_none(&ports, unsure, rest) => {}
            _ = shutdown.forced() => {}
        }
    }
}

/// Where the application is.
enum Address {
    /// At this address.
    One(Choice),
    /// At the addresses of its replicas, of which this is the first.
    Each(IpAddr),
}

async fn first_address(
    lookup: &Lookup<'_, impl Resolver>,
    replicas: Option<&mut watch::Receiver<Vec<IpAddr>>>,
    unknown: impl Fn(Option<String>),
) -> Address {
    let Some(replicas) = replicas else { return Address::One(lookup.until_found(unknown).await) };
    let found = replicas.wait_for(|replicas| !replicas.is_empty()).await;
    let first = found.ok().and_then(|replicas| replicas.first().copied());
    match first {
        Some(first) => Address::Each(first),
        // Whoever follows the replicas has ended, and this task will.
        None => pending().await,
    }
}

/// Follows the application's one address; never returns.
async fn follow_address(
    lookup: Lookup<'_, impl Resolver>,
    address: Address,
    network_changed: impl Fn(),
    moved: impl Fn(IpAddr, IpAddr),
    unknown: impl Fn(Option<String>),
) {
    match address {
        Address::One(choice) => follow(lookup, choice, network_changed, moved, unknown).await,
        Address::Each(_) => pending().await,
    }
}

/// Calls `update` when a route may have come or gone: a place was ready for the first time, maintenance began, or a replica
/// came or went. Never returns.
async fn follow_places(
    state: &DaemonState,
    mut places: watch::Receiver<Places>,
    mut replicas: Option<watch::Receiver<Vec<IpAddr>>>,
    wanted: &Mutex<Wanted>,
    update: impl Fn(),
) {
    let mut conditions = state.watch_conditions();
    let opened = |places: &Places| places.values().filter(|place| place.was_ready).count();
    let (mut before, mut was) =
        (opened(&places.borrow_and_update()), conditions.borrow_and_update().visibility());
    loop {
        let replicas_changed = async {
            match &mut replicas {
                Some(replicas) => replicas.changed().await,
                None => pending().await,
            }
        };
        let (opened, now) = tokio::select! {
            Ok(()) = replicas_changed => {
                let all = replicas.as_mut().map(|replicas| replicas.borrow_and_update().clone());
                if let Some(all) = all {
                    all.first().iter().for_each(|first| state.set_advertised(**first));
                    locked(wanted).set_replicas(all);
                }
                update();
                continue;
            }
            Ok(()) = places.changed() => (opened(&places.borrow_and_update()), was),
            Ok(()) = conditions.changed() => (before, conditions.borrow_and_update().visibility()),
            else => pending().await,
        };
        if (opened, now) != (before, was) {
            (before, was) = (opened, now);
            update();
        }
    }
}

/// Returns when no request is in flight on connections to these local ports, whoever sends them, or after `limit`.
///
/// Cancel-safe.
pub(crate) async fn no_requests_at(ports: &[u16], limit: Duration) {
    requests_in_flight::until_none(ports, Since::Unknown, limit).await;
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
