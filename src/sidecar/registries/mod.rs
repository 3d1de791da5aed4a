//! Keeps the application registered with every registry.
//!
//! | module | what it does |
//! |---|---|
//! | `intent` | pure: configuration to the intent that all sessions share |
//! | `session_set`, `session` | starts and ends sessions; one session with its log |
//! | `discovery`, `address_plan` | follows the addresses of a name; pure: which session has which addresses |
//! | `cluster_check` | warns where a name stands for registries that share no state |
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
mod reload;
mod requests_in_flight;
mod session;
mod session_set;
mod side_connection;

use std::net::IpAddr;
use std::time::Instant;

use tracing::info;

use crate::shutdown::Shutdown;
use registry_client::{Intent, Resolver};

use crate::sidecar::address::{Lookup, follow};
use crate::sidecar::config::{Config, RegistrationConfig};
use crate::sidecar::maintenance::Maintenance;
use crate::sidecar::state::DaemonState;
use discovery::follow_names;
pub(crate) use intent::intent;
use leave::Left;
pub(crate) use leave::finish_in_flight;
use reload::reload_when_asked;
use session_set::Sessions;

/// Registers the application with the visibility that `state` asks for, and keeps it registered until asked to
/// stop. It has left every registry when it returns: each is drained within DRAIN_TIMEOUT where it can be, and then
/// has 500 ms for its answer (SEMANTICS section 8), all at the same time. Around a command it also waits, within
/// DRAIN_TIMEOUT in all, until no request is in flight that a registry could not tell of or has not stopped sending.
/// Without a registration it returns at once.
///
/// Dropping it ends the sessions without a word; their routes stay for the registry's grace period.
pub(crate) async fn keep_registered(
    config: &Config,
    state: &DaemonState,
    maintenance: &Maintenance,
    shutdown: Shutdown,
    resolver: impl Resolver + Clone,
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
        choice = lookup.until_found(unknown) => choice,
        () = shutdown.requested() => {
            state.set_address_problem(None);
            state.clear_application();
            return info!("nothing was registered yet");
        }
    };
    state.set_advertised(choice.ip);
    let intent = intent_with_page(config, registration, choice.ip);
    let sessions =
        Sessions::start(&registration.registry, intent, state.clone(), maintenance.clone(), resolver.clone());
    let moved = |old, new| {
        state.set_advertised(new);
        sessions.change_address(old, new);
    };
    tokio::select! {
        () = follow(lookup, choice, || sessions.network_changed(), moved, unknown) => {}
        () = reload_when_asked(config, state, |intent| sessions.set_intent(intent)) => {}
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
        let (ports, rest) = (registration.own_ports(), limit.saturating_sub(begun.elapsed()));
        tokio::select! {
            () = requests_in_flight::until_none(&ports, unsure, rest) => {}
            _ = shutdown.forced() => {}
        }
    }
}

/// The intent of the configuration, with the maintenance page's URL, when our address is `advertised`.
fn intent_with_page(config: &Config, registration: &RegistrationConfig, advertised: IpAddr) -> Intent {
    let mut intent = intent(registration, advertised);
    intent.maintenance_port = config.maintenance.port;
    intent.maintenance_page = config.maintenance.url(advertised);
    intent
}
