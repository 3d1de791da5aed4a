//! What the tasks of one daemon share: what decides visibility, the sessions, what the wrapped command does, and
//! what has happened.
//!
//! It holds values and notifies; it decides nothing beyond [`Conditions`], and it knows neither configuration nor
//! processes nor files.

mod command;
mod conditions;
mod counters;
mod history;
mod node;
mod places;
mod reload;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::info;

use registry_client::{Client, Event, RouteKey, Visibility};

pub(crate) use command::{CommandStatus, Progress};
pub(crate) use conditions::{Conditions, Work};
use counters::Counters;
pub(crate) use counters::RegistryCounters;
pub(crate) use history::EventReceiver;
use history::History;
pub(crate) use node::NodeStatus;
#[cfg(test)]
pub(crate) use places::PlaceStatus;
pub(crate) use places::Places;
use reload::ReloadQueue;
pub(crate) use reload::ReloadRequest;

/// A handle to the state of one daemon. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DaemonState {
    shared: Arc<Shared>,
}

struct Shared {
    conditions: watch::Sender<Conditions>,
    /// Why it is not known which address is the application's; `Some` exactly while `address_unknown` is a condition.
    address_problem: Mutex<Option<String>>,
    /// How the places stand at which the application becomes ready.
    places: watch::Sender<Places>,
    clients: watch::Sender<Vec<Client>>,
    progress: watch::Sender<Progress>,
    /// `None` until a wrapped command has begun.
    command: watch::Sender<Option<CommandStatus>>,
    /// The address that is advertised; `None`: it is not known yet.
    advertised: watch::Sender<Option<IpAddr>>,
    /// The routes that get no requests, by registry, and why.
    out: Mutex<BTreeMap<String, BTreeMap<RouteKey, String>>>,
    /// The node in etcd; `None`: none should be there.
    node: watch::Sender<Option<NodeStatus>>,
    history: History,
    counters: Counters,
    reloads: ReloadQueue,
    started: Instant,
}

impl DaemonState {
    /// A daemon that has just started: nothing is ready, and there are no sessions.
    pub(crate) fn new() -> Self {
        let shared = Shared {
            conditions: watch::Sender::new(Conditions::default()),
            address_problem: Mutex::default(),
            places: watch::Sender::new(Places::new()),
            clients: watch::Sender::new(Vec::new()),
            progress: watch::Sender::new(Progress::default()),
            command: watch::Sender::new(None),
            advertised: watch::Sender::new(None),
            out: Mutex::default(),
            node: watch::Sender::new(None),
            history: History::new(),
            counters: Counters::default(),
            reloads: ReloadQueue::new(),
            started: Instant::now(),
        };
        DaemonState { shared: Arc::new(shared) }
    }

    pub(crate) fn conditions(&self) -> Conditions {
        *self.shared.conditions.borrow()
    }

    /// Every change of the conditions.
    pub(crate) fn watch_conditions(&self) -> watch::Receiver<Conditions> {
        self.shared.conditions.subscribe()
    }

    /// What people are to see.
    pub(crate) fn visibility(&self) -> Visibility {
        self.conditions().visibility()
    }

    /// The only function that changes the conditions. If the visibility changes with them, it logs why and tells
    /// every session.
    pub(crate) fn change_conditions(&self, change: impl FnOnce(&mut Conditions)) {
        let before = self.visibility();
        self.shared.conditions.send_if_modified(|conditions| {
            let old = *conditions;
            change(conditions);
            conditions.was_ready |= conditions.ready;
            *conditions != old
        });
        let (visibility, clients) = (self.visibility(), self.clients());
        if visibility == before {
            return;
        }
        if !clients.is_empty() {
            info!("{}: {}", self.conditions().reason(), consequence(visibility));
        }
        for client in clients {
            // A client that has stopped has no routes left to change.
            let _ = client.set_visibility(visibility);
        }
    }

    /// It is not known which address is the application's, for this reason; `None`: it is known.
    pub(crate) fn set_address_problem(&self, problem: Option<String>) {
        let unknown = problem.is_some();
        *self.shared.address_problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        self.change_conditions(|conditions| conditions.address_unknown = unknown);
    }

    /// Why it is not known which address is the application's; `None` where it is.
    pub(crate) fn address_problem(&self) -> Option<String> {
        self.shared.address_problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The application is neither ready nor being worked on any more: its routes go.
    pub(crate) fn clear_application(&self) {
        self.change_conditions(|conditions| (conditions.ready, conditions.work) = (false, None));
    }

    /// The clients of all sessions; none before the application was ready.
    pub(crate) fn clients(&self) -> Vec<Client> {
        self.shared.clients.borrow().clone()
    }

    /// Replaces the clients. The counters of registries that have no session any more are dropped.
    pub(crate) fn set_clients(&self, clients: Vec<Client>) {
        let names: Vec<_> = clients.iter().map(|client| client.status().registry.name).collect();
        self.shared.counters.retain(|name| names.iter().any(|known| **known == *name));
        self.out().retain(|name, _| names.iter().any(|known| **known == **name));
        self.shared.clients.send_replace(clients);
    }

    /// The address that is advertised; `None`: it is not known yet.
    pub(crate) fn advertised(&self) -> Option<IpAddr> {
        *self.shared.advertised.borrow()
    }

    /// The address at which the application is reached, from now on.
    pub(crate) fn set_advertised(&self, address: IpAddr) {
        self.shared.advertised.send_replace(Some(address));
    }

    pub(crate) fn progress(&self) -> Progress {
        self.shared.progress.borrow().clone()
    }

    pub(crate) fn set_progress(&self, progress: Progress) {
        self.shared.progress.send_replace(progress);
    }

    /// What the wrapped command does; `None` where no command is wrapped.
    pub(crate) fn command(&self) -> Option<CommandStatus> {
        self.shared.command.borrow().clone()
    }

    pub(crate) fn set_command(&self, status: CommandStatus) {
        self.shared.command.send_replace(Some(status));
    }

    /// Asks the daemon to read its configuration again, and waits for what comes of it.
    ///
    /// # Errors
    /// Says, for a person, why nothing has changed.
    pub(crate) async fn reload(&self) -> Result<String, String> {
        if self.clients().is_empty() {
            return Err("nothing is changed: nothing is registered yet".to_owned());
        }
        self.shared.reloads.ask().await
    }

    /// Waits for the next request to reload. Cancel-safe.
    pub(crate) async fn next_reload(&self) -> ReloadRequest {
        self.shared.reloads.next().await
    }

    /// Records an event of the session with `registry`: counts it, keeps it and passes it on.
    pub(crate) fn record(&self, registry: &str, event: &Event) {
        self.shared.counters.count(registry, event);
        self.shared.history.add(registry, event);
    }

    /// Records that a registry's proxy has taken a backend out, or sends requests there again.
    pub(crate) fn record_health(&self, registry: &str, event: &'static str, message: &str) {
        self.shared.history.add_message(registry, event, message);
    }

    /// The routes to which a registry's proxy sends no requests although they are in force, and why.
    pub(crate) fn set_out(&self, registry: &str, routes: BTreeMap<RouteKey, String>) {
        self.out().insert(registry.to_owned(), routes);
    }

    /// What [`DaemonState::set_out`] was told last.
    pub(crate) fn out_at(&self, registry: &str) -> BTreeMap<RouteKey, String> {
        self.out().get(registry).cloned().unwrap_or_default()
    }

    fn out(&self) -> MutexGuard<'_, BTreeMap<String, BTreeMap<RouteKey, String>>> {
        self.shared.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest events, and those to come.
    pub(crate) fn events(&self) -> (Vec<Arc<str>>, EventReceiver) {
        self.shared.history.subscribe()
    }

    /// What was counted of the session with this registry.
    pub(crate) fn registry_counters(&self, registry: &str) -> RegistryCounters {
        self.shared.counters.of_registry(registry)
    }

    /// Whether any registry has accepted a route since the daemon started.
    pub(crate) fn was_live(&self) -> bool {
        self.shared.counters.was_live()
    }

    /// Counts a start of the wrapped command.
    pub(crate) fn count_start(&self) {
        self.shared.counters.count_start();
    }

    /// How often the wrapped command was started after the first time.
    pub(crate) fn restarts(&self) -> u64 {
        self.shared.counters.restarts()
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.shared.started.elapsed()
    }
}

fn consequence(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Absent => "its routes are not registered",
        Visibility::Maintenance => "people get the maintenance page",
        Visibility::Live => "its routes take requests",
        Visibility::Draining => "its routes are taken out, as far as the registry can do that",
    }
}
