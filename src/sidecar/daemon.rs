//! The two ways to run: beside an application ([`run`]), and around a command ([`wrap`]). Puts the parts together.

use std::io;
use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::shutdown::Shutdown;
use registry_client::{Resolver, SystemResolver};

use super::admin::{control, serve_metrics};
use super::config::{CommandConfig, Config, Endpoint, Off, ReadinessConfig, ReadyCheck, RegistrationConfig};
use super::maintenance::{Maintenance, end_expired_windows, serve_page};
use super::nodes::NodePresence;
use super::process::reaper::Reaper;
use super::process::wrapper::{Wrapper, listen_to_signals};
use super::process::{exec_check, shell_line};
use super::readiness::{Shell, wait_until_ready, watch};
use super::registries::keep_registered;
use super::state::DaemonState;

/// Runs beside an application until asked to stop, and has left every registry when it returns: each is drained
/// within DRAIN_TIMEOUT where it can be, and then has 500 ms for its answer (SEMANTICS section 8), all at the same
/// time.
///
/// Dropping it ends the sessions without a word; their routes stay for the registry's grace period.
pub async fn run(config: Config, shutdown: Shutdown) {
    run_with(config, shutdown, SystemResolver).await;
}

/// Like [`run`], with another way to find the addresses of names: BACKEND_HOST's and the registries'.
pub async fn run_with(config: Config, shutdown: Shutdown, resolver: impl Resolver + Clone) {
    config.warnings.iter().for_each(|line| warn!("{line}"));
    let (config, (state, maintenance)) = (Arc::new(config), new_state());
    let _services = start_services(&config, &state, &maintenance);
    match (&config.registration, &config.etcd) {
        (Some(registration), _) => announce(registration),
        (None, Some(_)) => info!("{}: there is only the node in etcd", config.off.unwrap_or(Off::Disabled)),
        (None, None) => {
            info!("{}: there is nothing to do", config.off.unwrap_or(Off::Disabled));
            return shutdown.requested().await;
        }
    }
    let node = NodePresence::start(&config, &state);
    let shell = shell_for_checks(&config.readiness);
    tokio::select! {
        () = wait_until_ready(&config.readiness, shell.as_ref()) => {
            state.change_conditions(|conditions| conditions.ready = true);
            let ready = |ready| state.change_conditions(|conditions| conditions.ready = ready);
            let watched = async {
                tokio::select! {
                    () = watch(&config.readiness, shell.as_ref(), ready) => {}
                    () = shutdown.requested() => {}
                }
            };
            let registered = keep_registered(&config, &state, &maintenance, shutdown.clone(), resolver);
            tokio::join!(registered, watched, async {
                // At once, while the routes are drained.
                shutdown.requested().await;
                node.leave().await;
            });
        }
        () = shutdown.requested() => info!("nothing was registered yet"),
    }
    info!("stopped");
}

/// Runs `command` with everything around it, and returns the code to exit with when it has ended for good. Call it
/// on the main thread, once.
///
/// # Errors
/// Where signals cannot be listened to.
pub async fn wrap(config: Config, command: CommandConfig) -> io::Result<u8> {
    // First of all: at PID 1 a signal that nobody listens to is lost.
    let signals = listen_to_signals(&command)?;
    let reaper = Reaper::start()?;
    config.warnings.iter().for_each(|line| warn!("{line}"));
    match (&config.registration, config.off) {
        (Some(registration), _) => announce(registration),
        (None, Some(off)) => info!("{off}"),
        (None, None) => {}
    }
    let config = Arc::new(config);
    let (state, maintenance) = new_state();
    let wrapper = Wrapper::new(Arc::clone(&config), command, reaper, state.clone(), maintenance.clone());
    let services = start_services(&config, &state, &maintenance);
    let node = NodePresence::start(&config, &state);
    let code = wrapper.run(signals).await;
    node.leave().await;
    drop(services);
    Ok(code)
}

fn new_state() -> (DaemonState, Maintenance) {
    let state = DaemonState::new();
    (state.clone(), Maintenance::new(state))
}

/// What runs the `exec:` checks beside an application; `None` where there are none.
fn shell_for_checks(config: &ReadinessConfig) -> Option<Shell> {
    if !config.checks.iter().any(|check| matches!(check, ReadyCheck::Exec(_))) {
        return None;
    }
    match Reaper::start() {
        Ok(reaper) => {
            let environment = config.environment.clone();
            Some(exec_check::shell(reaper, move |line| {
                let mut command = shell_line::command(line);
                command.env_clear().envs(environment.reveal());
                command
            }))
        }
        Err(error) => {
            error!("no exec: check can pass, because processes cannot be waited for: {error}");
            None
        }
    }
}

/// Starts what runs from the first moment to the last: control socket, maintenance page and metrics. Dropping the
/// set ends it.
fn start_services(config: &Config, state: &DaemonState, maintenance: &Maintenance) -> JoinSet<()> {
    // Where nothing is registered and no command runs, there is no application to wait for.
    let nothing_to_wait_for =
        config.registration.is_none() && config.etcd.is_none() && config.command.is_none();
    state.change_conditions(|conditions| conditions.ready = nothing_to_wait_for);
    let mut services = JoinSet::new();
    services.spawn(control::serve(config.control_socket.clone(), state.clone(), maintenance.clone()));
    if let Some(path) = &config.maintenance.state {
        maintenance.restore(path.clone());
    }
    services.spawn(end_expired_windows(maintenance.clone()));
    services.spawn(serve_metrics(config.metrics_listen, state.clone()));
    let service = config.registration.as_ref().map(|registration| registration.service.to_string());
    let service = service.unwrap_or_else(|| "this service".to_owned());
    services.spawn(serve_page(config.maintenance.clone(), service, state.clone(), maintenance.clone()));
    services
}

fn announce(config: &RegistrationConfig) {
    let registries: Vec<String> = config.registry.endpoints.iter().map(Endpoint::to_string).collect();
    info!(
        "registry-sidecar {}: service {}, instance {}, registry {}",
        env!("CARGO_PKG_VERSION"),
        config.service,
        config.instance,
        registries.join(", ")
    );
}
