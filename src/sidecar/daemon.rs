//! The daemon: waits for the application, finds its address, registers it, and leaves when asked to.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::client::Client;
use crate::shutdown::Shutdown;

use super::address::{self, BackendHost, Choice, Inputs};
use super::agent::Agent;
use super::config::{AddressConfig, Config, Endpoint, Off, RegistrationConfig};
use super::follow::follow;
use super::intent::intent;
use super::leave::leave;
use super::readiness::{wait_until_ready, watch};
use super::registration::Registration;
use super::{control, maintenance};

/// How long a name may take to resolve while the address is chosen.
const RESOLVE: Duration = Duration::from_secs(2);
/// How long the sessions may take to tell what became of them, once they were left.
const LAST_WORDS: Duration = Duration::from_millis(20);
/// Between two tries to find an address: the first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Runs until asked to stop, and has left every registry when it returns: each is drained within DRAIN_TIMEOUT
/// where it can be, and then given 500 ms for its answer (SEMANTICS section 8), all at the same time.
///
/// Dropping it ends the sessions without a word; their routes stay for the registry's grace period.
pub async fn run(config: Config, shutdown: Shutdown) {
    config.warnings.iter().for_each(|line| warn!("{line}"));
    let agent = Agent::new();
    let _beside = beside(&config, &agent);
    let Some(registration) = &config.registration else {
        let off = config.off.unwrap_or(Off::Disabled);
        info!("{off}: there is nothing to do");
        return shutdown.requested().await;
    };
    announce(registration);
    tokio::select! {
        () = wait_until_ready(&config.readiness) => serve(&config, &agent, shutdown).await,
        () = shutdown.requested() => info!("nothing was registered yet"),
    }
    info!("stopped");
}

/// What runs beside the sessions, from the first moment to the last: the control socket and the maintenance
/// page. It ends when the set is dropped.
pub(super) fn beside(config: &Config, agent: &Agent) -> JoinSet<()> {
    // Who registers nothing has nobody to be ready for.
    agent.change(|conditions| conditions.ready = config.registration.is_none());
    let mut beside = JoinSet::new();
    let service = config.registration.as_ref().map(|registration| registration.service.to_string());
    beside.spawn(control::serve(config.control_socket.clone(), agent.clone()));
    if let Some(path) = &config.maintenance.state {
        agent.keep_maintenance_in(path.clone());
    }
    beside.spawn(maintenance::end_windows(agent.clone()));
    let service = service.unwrap_or_else(|| "this service".to_owned());
    beside.spawn(maintenance::serve(config.maintenance.clone(), service, agent.clone()));
    beside
}

/// Registers an application that is ready and keeps it registered until asked to stop; has left every registry
/// when it returns, like [`run`].
pub(super) async fn serve(config: &Config, agent: &Agent, shutdown: Shutdown) {
    let Some(registration) = &config.registration else { return };
    let (registries, wrapped) = (&registration.registry.endpoints, config.command.is_some());
    agent.change(|conditions| conditions.ready = true);
    let choice = tokio::select! {
        choice = find_address(&config.address, registries, wrapped) => choice,
        () = shutdown.requested() => return info!("nothing was registered yet"),
    };
    let (clients, mut sessions) = register(config, registration, agent, choice.ip);
    agent.set_clients(clients.clone());
    let ready = |ready| agent.change(|conditions| conditions.ready = ready);
    let moved = |old, new| {
        for client in &clients {
            // One that has stopped has no routes that could follow.
            let _ = client.change_address(old, new);
        }
    };
    tokio::select! {
        () = watch(&config.readiness, ready) => {}
        () = follow(&config.address, registries, wrapped, choice, moved) => {}
        () = reload_when_asked(config, agent) => {}
        () = shutdown.requested() => {}
    }
    agent.set_clients(Vec::new());
    agent.change(|conditions| conditions.ready = false);
    let limit = config.drain_timeout.get();
    let leaves: JoinSet<()> =
        clients.into_iter().map(|client| leave(client, limit, shutdown.clone())).collect();
    leaves.join_all().await;
    // Whoever left has stopped and tells its last; a registry that was silent is not waited for.
    let told = async { while sessions.join_next().await.is_some() {} };
    let _ = timeout(LAST_WORDS, told).await;
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

/// One session for each registry, each with its own state: one that is down delays nothing on the others.
fn register(
    config: &Config,
    registration: &RegistrationConfig,
    agent: &Agent,
    advertised: IpAddr,
) -> (Vec<Client>, JoinSet<()>) {
    let (mut clients, mut sessions) = (Vec::new(), JoinSet::new());
    for endpoint in &registration.registry.endpoints {
        let mut intent = intent(registration, advertised);
        intent.visibility = agent.wanted();
        intent.maintenance_port = config.maintenance.port;
        intent.maintenance_page = config.maintenance.url(advertised);
        intent.maintenance = agent.keeper().requests(intent.maintenance_page.as_ref());
        let registration = Registration::start(endpoint, &registration.registry, intent, agent.clone());
        clients.push(registration.client());
        sessions.spawn(registration.run());
    }
    (clients, sessions)
}

/// Reads the environment and the files it names again whenever somebody asks for it, and wants the routes and
/// uses the tokens that follow. What is wrong with it is said, and nothing changes.
async fn reload_when_asked(config: &Config, agent: &Agent) {
    loop {
        let asked = agent.reload_requested().await;
        let reloaded = reload(config, agent).await;
        match &reloaded {
            Ok(done) => info!("{done}"),
            Err(trouble) => warn!("{trouble}"),
        }
        // Whoever asked may have gone.
        let _ = asked.send(reloaded);
    }
}

async fn reload(config: &Config, agent: &Agent) -> Result<String, String> {
    let unchanged = |trouble: &dyn std::fmt::Display| format!("nothing is changed: {trouble}");
    let read = config.load_again().map_err(|errors| unchanged(&errors))?;
    let Some(registration) = &read.registration else {
        return Err(unchanged(&"there would be no route any more"));
    };
    let wrapped = config.command.is_some();
    let choice = choose(&read.address, &registration.registry.endpoints, wrapped).await;
    let wanted = intent(registration, choice.map_err(|trouble| unchanged(&trouble))?.ip);
    for client in agent.clients() {
        // One that has stopped wants nothing any more.
        let _ = client.set_metadata(wanted.metadata.clone());
        let _ = client.set_routes(wanted.routes.clone());
    }
    Ok(format!("read the configuration again, routes wanted: {}", wanted.routes.len()))
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
