//! The sessions of this daemon: starts, changes and ends them. Each has a state of its own, so a registry that is
//! down, or a name that does not resolve, delays no other session.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::shutdown::Shutdown;
use crate::sidecar::config::{Endpoint, RegistrationConfig, RegistryConfig};
use crate::sidecar::maintenance::Maintenance;
use crate::sidecar::state::DaemonState;
use registry_client::protocol::Host;
use registry_client::{Client, Endpoint as Registry, Intent, Resolver, TcpConnector};

use super::address_plan::SessionNo;
use super::cluster_check::warn_if_split;
use super::leave::{Left, leave};
use super::reference_gaps::{gaps, warn_of_gaps};
use super::session::{CONNECT_TIMEOUT, Session};

/// How long the sessions have to log their end once they have left.
const LAST_EVENTS: Duration = Duration::from_millis(20);

/// All sessions, and the intent that they share.
pub(super) struct Sessions<R> {
    state: DaemonState,
    maintenance: Maintenance,
    config: RegistryConfig,
    /// What is set and does nothing at a reference server.
    reference_gaps: Vec<String>,
    resolver: R,
    intent: Mutex<Intent>,
    clients: Mutex<BTreeMap<SessionKey, Client>>,
    /// Every session's task holds a copy; `ended` completes when the last one is dropped.
    alive: mpsc::Sender<Infallible>,
    ended: mpsc::Receiver<Infallible>,
}

/// The index of the endpoint in REGISTRY_HOST, and the session's number there. An endpoint with one session
/// numbers it 0.
pub(super) type SessionKey = (usize, SessionNo);

impl<R: Resolver + Clone> Sessions<R> {
    /// Starts a session for every endpoint that has only one. Those of the other endpoints are started as their
    /// addresses are discovered.
    pub(super) fn start(
        registration: &RegistrationConfig,
        intent: Intent,
        state: DaemonState,
        maintenance: Maintenance,
        resolver: R,
    ) -> Self {
        let (alive, ended) = mpsc::channel(1);
        let config = &registration.registry;
        let sessions = Sessions {
            state,
            maintenance,
            config: config.clone(),
            reference_gaps: gaps(registration),
            resolver,
            intent: Mutex::new(intent),
            clients: Mutex::new(BTreeMap::new()),
            alive,
            ended,
        };
        for (index, endpoint) in config.endpoints.iter().enumerate() {
            if !sessions.is_per_address(endpoint) {
                let (registry, resolver) = (registry(endpoint), sessions.resolver.clone());
                let client = sessions.begin((index, 0), registry.clone(), Place::Named(resolver.clone()));
                if matches!(endpoint.host, Host::Name(_)) {
                    tokio::spawn(warn_if_split(client.watch(), registry, resolver));
                }
            }
        }
        sessions
    }

    /// The endpoints of which each address has a session, with their index.
    pub(super) fn endpoints_per_address(&self) -> impl Iterator<Item = (usize, &Endpoint)> {
        self.config.endpoints.iter().enumerate().filter(|(_, endpoint)| self.is_per_address(endpoint))
    }

    fn is_per_address(&self, endpoint: &Endpoint) -> bool {
        self.config.each_address && matches!(endpoint.host, Host::Name(_))
    }

    pub(super) fn resolver(&self) -> R {
        self.resolver.clone()
    }

    /// The application has moved to another address: the backends and the page follow in every session.
    pub(super) fn change_address(&self, old: IpAddr, new: IpAddr) {
        let mut intent = locked(&self.intent);
        let Intent { routes, maintenance_page, .. } = &mut *intent;
        let backends = routes.values_mut().map(|route| &mut route.backend);
        backends.chain(maintenance_page).for_each(|url| url.follow(old, new));
        for client in locked(&self.clients).values() {
            // A client that has stopped has no routes left to change.
            let _ = client.change_address(old, new);
        }
    }

    /// This host's addresses have changed.
    pub(super) fn network_changed(&self) {
        locked(&self.clients).values().for_each(Client::network_changed);
    }

    /// Replaces routes and metadata in every session, also in those that start later. What is the same changes nothing.
    pub(super) fn set_intent(&self, intent: Intent) {
        let mut shared = locked(&self.intent);
        for client in locked(&self.clients).values() {
            // A client that has stopped has nothing left to change.
            if intent.metadata != shared.metadata {
                let _ = client.set_metadata(intent.metadata.clone());
            }
            if intent.routes != shared.routes {
                let _ = client.set_routes(intent.routes.clone());
            }
        }
        (shared.routes, shared.metadata) = (intent.routes, intent.metadata);
    }

    /// How many routes are wanted.
    pub(super) fn route_count(&self) -> usize {
        locked(&self.intent).routes.len()
    }

    /// Ends all sessions at the same time: each is drained within `limit` where the registry can do that, and then
    /// has 500 ms for its answer (SEMANTICS section 8). Returns what is known of the requests of each.
    pub(super) async fn leave(self, limit: Duration, shutdown: &Shutdown) -> Vec<Left> {
        let Sessions { clients, alive, mut ended, .. } = self;
        let clients = std::mem::take(&mut *locked(&clients)).into_values();
        let left = join_all(clients.map(|client| leave(client, limit, shutdown.clone()))).await;
        // Let the sessions log their last events, but do not wait for a registry that stays silent.
        drop(alive);
        let _ = timeout(LAST_EVENTS, ended.recv()).await;
        left
    }

    /// Starts a session with the registry at `place`.
    pub(super) fn begin(&self, key: SessionKey, registry: Registry, place: Place<R>) -> Client {
        let mut intent = locked(&self.intent).clone();
        intent.visibility = self.state.visibility();
        intent.maintenance = self.maintenance.requests(intent.maintenance_page.as_ref());
        let connector = TcpConnector::new(registry.clone(), CONNECT_TIMEOUT).with_resolver(place);
        let session = Session::start(connector, registry, &self.config, intent, self.state.clone());
        let client = session.client();
        if !self.reference_gaps.is_empty() {
            tokio::spawn(warn_of_gaps(client.watch(), self.reference_gaps.clone()));
        }
        let alive = self.alive.clone();
        tokio::spawn(async move {
            session.run().await;
            drop(alive);
        });
        locked(&self.clients).insert(key, client.clone());
        self.publish_clients();
        client
    }

    /// Ends a session in a task of its own, in order where its registry still answers.
    pub(super) fn end(&self, key: SessionKey) {
        let Some(client) = locked(&self.clients).remove(&key) else { return };
        self.publish_clients();
        tokio::spawn(async move { client.shutdown().await });
    }

    fn publish_clients(&self) {
        self.state.set_clients(locked(&self.clients).values().cloned().collect());
    }
}

/// The endpoint as the client knows it.
pub(super) fn registry(endpoint: &Endpoint) -> Registry {
    match &endpoint.host {
        Host::Name(name) => Registry::new(name.clone(), endpoint.port),
        Host::Ip(ip) => Registry::new(ip.to_string(), endpoint.port),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a session's registry is.
pub(super) enum Place<R> {
    /// At any of the addresses of its name.
    Named(R),
    /// At one of these addresses, which discovery keeps up to date.
    At(watch::Receiver<Vec<SocketAddr>>),
}

impl<R: Resolver> Resolver for Place<R> {
    async fn resolve(&self, registry: &Registry) -> io::Result<Vec<SocketAddr>> {
        match self {
            Place::Named(resolver) => resolver.resolve(registry).await,
            Place::At(addresses) => Ok(addresses.borrow().clone()),
        }
    }
}
