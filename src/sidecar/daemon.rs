//! The daemon: waits for the application, finds its address, registers it, and leaves when asked to.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::client::{Intent, Resolver, SystemResolver};
use crate::shutdown::Shutdown;

use super::address::{self, BackendHost, Choice, Inputs};
use super::agent::Agent;
use super::config::{AddressConfig, Config, Endpoint, Off, ReadinessConfig, ReadyCheck, RegistrationConfig};
use super::follow::follow;
use super::intent::intent;
use super::leave::cannot_count;
use super::readiness::{Shell, wait_until_ready, watch};
use super::reaper::Reaper;
use super::sessions::Sessions;
use super::{connections, control, maintenance, metrics};

/// What runs shell lines.
pub(super) const SHELL: &str = "/bin/sh";
/// How long a name may take to resolve while the address is chosen.
const RESOLVE: Duration = Duration::from_secs(2);
/// Between two tries to find an address: the first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Runs until asked to stop, and has left every registry when it returns: each is drained within DRAIN_TIMEOUT
/// where it can be, and then given 500 ms for its answer (SEMANTICS section 8), all at the same time.
///
/// Dropping it ends the sessions without a word; their routes stay for the registry's grace period.
pub async fn run(config: Config, shutdown: Shutdown) {
    run_with(config, shutdown, SystemResolver).await;
}

/// The same with another way to find the addresses of the registries' names.
pub async fn run_with(config: Config, shutdown: Shutdown, resolver: impl Resolver + Clone) {
    config.warnings.iter().for_each(|line| warn!("{line}"));
    let agent = Agent::new();
    let _beside = beside(&config, &agent);
    let Some(registration) = &config.registration else {
        let off = config.off.unwrap_or(Off::Disabled);
        info!("{off}: there is nothing to do");
        return shutdown.requested().await;
    };
    announce(registration);
    let shell = shell(&config.readiness);
    tokio::select! {
        () = wait_until_ready(&config.readiness, shell.as_ref()) => {
            agent.change(|conditions| conditions.ready = true);
            let ready = |ready| agent.change(|conditions| conditions.ready = ready);
            let watched = async {
                tokio::select! {
                    () = watch(&config.readiness, shell.as_ref(), ready) => {}
                    () = shutdown.requested() => {}
                }
            };
            tokio::join!(serve(&config, &agent, shutdown.clone(), resolver), watched);
        }
        () = shutdown.requested() => info!("nothing was registered yet"),
    }
    info!("stopped");
}

/// What runs the `exec:` checks beside an application; `None` where there are none.
fn shell(config: &ReadinessConfig) -> Option<Shell> {
    if !config.checks.iter().any(|check| matches!(check, ReadyCheck::Exec(_))) {
        return None;
    }
    match Reaper::start() {
        Ok(reaper) => {
            let environment = config.environment.clone();
            Some(Shell::new(reaper, move |line| {
                let mut command = Command::new(SHELL);
                command.args(["-c", line]).env_clear().envs(environment.reveal());
                command
            }))
        }
        Err(error) => {
            error!("no exec: check can pass, because processes cannot be waited for: {error}");
            None
        }
    }
}

/// What runs beside the sessions, from the first moment to the last: the control socket and the maintenance
/// page. It ends when the set is dropped.
pub(super) fn beside(config: &Config, agent: &Agent) -> JoinSet<()> {
    // Who registers nothing and runs nothing has nobody to be ready for.
    agent.change(|conditions| conditions.ready = config.registration.is_none() && config.command.is_none());
    let mut beside = JoinSet::new();
    let service = config.registration.as_ref().map(|registration| registration.service.to_string());
    beside.spawn(control::serve(config.control_socket.clone(), agent.clone()));
    if let Some(path) = &config.maintenance.state {
        agent.keep_maintenance_in(path.clone());
    }
    beside.spawn(maintenance::end_windows(agent.clone()));
    let service = service.unwrap_or_else(|| "this service".to_owned());
    beside.spawn(metrics::serve(config.metrics_listen, agent.clone()));
    beside.spawn(maintenance::serve(config.maintenance.clone(), service, agent.clone()));
    beside
}

/// Registers the application as the agent's conditions want it and keeps it registered until asked to stop; has
/// left every registry when it returns, like [`run`].
pub(super) async fn serve(
    config: &Config,
    agent: &Agent,
    shutdown: Shutdown,
    resolver: impl Resolver + Clone,
) {
    let Some(registration) = &config.registration else { return };
    let (registries, wrapped) = (&registration.registry.endpoints, config.command.is_some());
    let choice = tokio::select! {
        choice = find_address(&config.address, registries, wrapped) => choice,
        () = shutdown.requested() => {
            agent.forget_application();
            return info!("nothing was registered yet");
        }
    };
    let intent = whole_intent(config, registration, choice.ip);
    let sessions = Sessions::start(&registration.registry, intent, agent.clone(), resolver);
    let moved = |old, new| sessions.moved(old, new);
    tokio::select! {
        () = follow(&config.address, registries, wrapped, choice, moved) => {}
        () = reload_when_asked(config, agent, |intent| sessions.set_intent(intent)) => {}
        () = sessions.run() => {}
        () = shutdown.requested() => {}
    }
    // What a registry cannot tell of what is in flight, the wrapped application's own connections do.
    let is_blind = wrapped && agent.clients().iter().any(|client| cannot_count(&client.status()));
    agent.set_clients(Vec::new());
    agent.forget_application();
    let limit = config.drain_timeout.get();
    sessions.leave(limit, &shutdown).await;
    if is_blind {
        let ports = registration.own_ports();
        tokio::select! {
            () = connections::ended(&ports, limit) => {}
            _ = shutdown.forced() => {}
        }
    }
}

pub(super) fn announce(config: &RegistrationConfig) {
    let registries: Vec<String> = config.registry.endpoints.iter().map(Endpoint::to_string).collect();
    info!(
        "registry-sidecar {}: service {}, instance {}, registry {}",
        env!("CARGO_PKG_VERSION"),
        config.service,
        config.instance,
        registries.join(", ")
    );
}

/// The routes and the maintenance page, when our address is `advertised`.
fn whole_intent(config: &Config, registration: &RegistrationConfig, advertised: IpAddr) -> Intent {
    let mut intent = intent(registration, advertised);
    intent.maintenance_port = config.maintenance.port;
    intent.maintenance_page = config.maintenance.url(advertised);
    intent
}

/// Reads the environment and the files it names again whenever somebody asks for it, and wants the routes and
/// uses the tokens that follow. What is wrong with it is said, and nothing changes.
async fn reload_when_asked(config: &Config, agent: &Agent, wanted: impl Fn(Intent)) {
    loop {
        let asked = agent.reload_requested().await;
        let reloaded = reload(config, &wanted).await;
        match &reloaded {
            Ok(done) => info!("{done}"),
            Err(trouble) => warn!("{trouble}"),
        }
        // Whoever asked may have gone.
        let _ = asked.send(reloaded);
    }
}

async fn reload(config: &Config, wanted: impl Fn(Intent)) -> Result<String, String> {
    let unchanged = |trouble: &dyn std::fmt::Display| format!("nothing is changed: {trouble}");
    let read = config.load_again().map_err(|errors| unchanged(&errors))?;
    let Some(registration) = &read.registration else {
        return Err(unchanged(&"there would be no route any more"));
    };
    let wrapped = config.command.is_some();
    let choice = choose(&read.address, &registration.registry.endpoints, wrapped).await;
    let intent = intent(registration, choice.map_err(|trouble| unchanged(&trouble))?.ip);
    let routes = intent.routes.len();
    wanted(intent);
    Ok(format!("read the configuration again, routes wanted: {routes}"))
}

/// The address to advertise. What stands in the way may pass, so it is tried for ever; the same trouble is
/// told once.
async fn find_address(config: &AddressConfig, registries: &[Endpoint], wrapped: bool) -> Choice {
    let (mut pause, mut told) = (FIRST_PAUSE, String::new());
    loop {
        match choose(config, registries, wrapped).await {
            Ok(choice) if choice.is_doubtful() => {
                warn!("{choice}");
                return choice;
            }
            Ok(choice) => {
                info!("{choice}");
                return choice;
            }
            Err(trouble) if trouble != told => {
                warn!("no address to advertise yet: {trouble}");
                told = trouble;
            }
            Err(_) => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One try to choose the address, beside an application or (`wrapped`) around it; the error is what a person is told.
///
/// # Errors
/// Where the interfaces cannot be listed or none has an address that the proxy could reach.
pub(super) async fn choose(
    config: &AddressConfig,
    registries: &[Endpoint],
    wrapped: bool,
) -> Result<Choice, String> {
    let interfaces = address::interfaces().map_err(|error| format!("cannot list the interfaces: {error}"))?;
    let backend_host = match &config.backend_host {
        None => None,
        Some(host) => {
            let addresses = address::resolve(host, RESOLVE).await.unwrap_or_default();
            Some(BackendHost { host: host.clone(), addresses })
        }
    };
    let has_web_net = interfaces.iter().any(|interface| config.web_net.contains(&interface.ip));
    // Only asked where it matters, because it needs the registry's name resolved: where nothing better
    // decides, and where a loopback address is right only if the registry is on loopback too.
    let registry_local = match &backend_host {
        None if !has_web_net => local_end(registries).await,
        Some(backend) if backend.addresses.iter().any(IpAddr::is_loopback) => local_end(registries).await,
        _ => None,
    };
    let inputs = Inputs { backend_host, web_net: config.web_net, registry_local, wrapped };
    address::choose(&interfaces, &inputs).map_err(|error| error.to_string())
}

/// Our address on the way to the first registry that resolves. A connected UDP socket asks the kernel's
/// routing table and sends nothing.
async fn local_end(registries: &[Endpoint]) -> Option<IpAddr> {
    for registry in registries {
        for ip in address::resolve(&registry.host, RESOLVE).await.unwrap_or_default() {
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
