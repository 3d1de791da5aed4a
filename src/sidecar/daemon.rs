//! The two ways to run: beside an application ([`run`]), and around a command ([`wrap`]). Puts the parts together.

use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::shutdown::Shutdown;
use registry_client::{Resolver, SystemResolver};

use super::address::{Lookup, follow_replicas, until_stranded};
use super::admin::{control, serve_metrics};
use super::config::{
    CommandConfig, Config, Endpoint, Off, Place, ReadinessConfig, ReadyCheck, RegistrationConfig,
};
use super::maintenance::{Maintenance, end_expired_windows, serve_page};
use super::nodes::NodePresence;
use super::process::reaper::Reaper;
use super::process::wrapper::{Wrapper, listen_to_signals};
use super::process::{exec_check, shell_line};
use super::readiness::{self, Shell, Tried};
use super::registries::keep_registered;
use super::state::{CommandStatus, DaemonState};

/// The exit code of a daemon that is left without a network (WHEN_STRANDED): the engine is to try again, by the
/// convention of sysexits.
const STRANDED: u8 = 75;

/// Runs beside an application until asked to stop, and has left every registry when it returns: each is drained
/// within DRAIN_TIMEOUT where it can be, and then has 500 ms for its answer (SEMANTICS section 8), all at the same
/// time. Returns the code to exit with: 0, or 75 where it is left without a network.
///
/// Dropping it ends the sessions without a word; their routes stay for the registry's grace period.
pub async fn run(config: Config, shutdown: Shutdown) -> u8 {
    run_with(config, shutdown, SystemResolver).await
}

/// Like [`run`], with another way to find the addresses of names: BACKEND_HOST's and the registries'.
pub async fn run_with(config: Config, shutdown: Shutdown, resolver: impl Resolver + Clone) -> u8 {
    config.warnings.iter().for_each(|line| warn!("{line}"));
    let (config, (state, maintenance)) = (Arc::new(config), new_state());
    let _services = start_services(&config, &state, &maintenance);
    match (&config.registration, &config.etcd) {
        (Some(registration), _) => announce(registration),
        (None, Some(_)) => info!("{}: there is only the node in etcd", config.off.unwrap_or(Off::Disabled)),
        (None, None) => {
            info!("{}: there is nothing to do", config.off.unwrap_or(Off::Disabled));
            shutdown.requested().await;
            return 0;
        }
    }
    let node = NodePresence::start(&config, &state);
    let registries = config.registration.as_ref().map_or(&[][..], |it| &it.registry.endpoints);
    let stranded = |is| state.change_conditions(|conditions| conditions.stranded = is);
    let code = tokio::select! {
        biased;
        () = register_when_ready(&config, &state, &maintenance, &shutdown, node, resolver) => 0,
        () = until_stranded(registries, config.when_stranded, stranded) => STRANDED,
    };
    info!("stopped");
    code
}

/// Registers the application when it is ready for the first time, and returns when it has left after a request to stop.
async fn register_when_ready(
    config: &Config,
    state: &DaemonState,
    maintenance: &Maintenance,
    shutdown: &Shutdown,
    node: NodePresence,
    resolver: impl Resolver + Clone,
) {
    let is_each = config.address.each_address && config.registration.is_some();
    let (found, replicas) = watch::channel(Vec::new());
    let replicas = is_each.then_some(replicas);
    let following = async {
        let registries = config.registration.as_ref().map_or(&[][..], |it| &it.registry.endpoints);
        let lookup = Lookup { config: &config.address, registries, wrapped: false, resolver: &resolver };
        match is_each {
            true => follow_replicas(lookup, |addresses| drop(found.send_replace(addresses))).await,
            false => pending().await,
        }
    };
    let shell = shell_for_checks(&config.readiness);
    let mut conditions = state.watch_conditions();
    let registered = async {
        let ready = async { conditions.wait_for(|conditions| conditions.ready).await.is_ok() };
        tokio::select! {
            true = ready => {}
            () = shutdown.requested() => return info!("nothing was registered yet"),
        }
        let resolver = resolver.clone();
        let registered =
            keep_registered(config, state, maintenance, shutdown.clone(), resolver, replicas.clone());
        tokio::join!(registered, async {
            // At once, while the routes are drained.
            shutdown.requested().await;
            node.leave().await;
        });
    };
    tokio::select! {
        () = registered => {}
        () = following => {}
        () = watch_readiness(config, state, shell.as_ref(), shutdown, replicas.clone()) => {}
    }
}

/// Keeps the state up to date on whether the application is ready, until asked to stop. It never returns.
async fn watch_readiness(
    config: &Config,
    state: &DaemonState,
    shell: Option<&Shell>,
    shutdown: &Shutdown,
    replicas: Option<watch::Receiver<Vec<IpAddr>>>,
) {
    let set_ready = |ready| state.change_conditions(|conditions| conditions.ready = ready);
    if !config.readiness.wait {
        set_ready(true);
        return pending().await;
    }
    let first = replicas.as_ref().map(|replicas| replicas.borrow().clone());
    let (wanted, places) = watch::channel(config.places(first.as_deref()));
    let followed = async {
        let Some(mut replicas) = replicas else { return pending::<()>().await };
        while replicas.changed().await.is_ok() {
            let now = config.places(Some(&replicas.borrow_and_update()));
            let names: Vec<String> = now.iter().map(Place::name).collect();
            set_ready(state.retain_places(|name| names.iter().any(|known| known == name)));
            wanted.send_replace(now);
        }
        pending().await
    };
    let tried = |tried: Tried<'_>| set_ready(state.set_place(tried.place, tried.is_ready, tried.problem));
    tokio::select! {
        () = readiness::follow(&config.readiness, shell, places, |_| false, tried) => {}
        () = followed => {}
        // What the application does from now on is of no interest any more.
        () = shutdown.requested() => {}
    }
    pending().await
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
    // From the first moment on health checks are about the command, and not about a sidecar beside an application.
    state.set_command(CommandStatus::default());
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
