//! Makes people see what the supervisor wants them to see: keeps the sessions in a task of their own, and sets the
//! conditions that decide their visibility.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::shutdown::{self, ShutdownTrigger};
use crate::sidecar::address::interfaces;
use crate::sidecar::config::{Config, RegistrationConfig};
use crate::sidecar::maintenance::Maintenance;
use crate::sidecar::readiness::{self, Shell, Tried};
use crate::sidecar::registries::{finish_in_flight, keep_registered};
use crate::sidecar::state::{DaemonState, Work};
use registry_client::{Client, Phase, SystemResolver, Visibility};

use super::own_sockets::OwnSockets;

/// Carries out `Effect::Publish`.
pub(super) struct Publisher {
    config: Arc<Config>,
    state: DaemonState,
    maintenance: Maintenance,
    /// Runs readiness checks.
    shell: Shell,
    registration: Option<Registration>,
    /// Watches the readiness of an application that is live; dropping the set ends it.
    watched: JoinSet<()>,
}

/// The task that keeps the application registered.
struct Registration {
    leave: ShutdownTrigger,
    /// Closed when the task ends.
    task: watch::Receiver<()>,
}

/// Completes when what was published is in force, as far as possible.
pub(super) type Settled = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Publisher {
    pub(super) fn new(
        config: Arc<Config>,
        state: DaemonState,
        maintenance: Maintenance,
        shell: Shell,
    ) -> Self {
        Publisher { config, state, maintenance, shell, registration: None, watched: JoinSet::new() }
    }

    /// Lets people see this from now on; `work` is the reason for maintenance.
    pub(super) fn publish(&mut self, wanted: Visibility, work: Work) -> Settled {
        self.watched = JoinSet::new();
        match wanted {
            Visibility::Live => {
                self.state.change_conditions(|conditions| (conditions.ready, conditions.work) = (true, None));
                self.serve();
                self.watch_readiness();
                Box::pin(std::future::ready(()))
            }
            Visibility::Maintenance => {
                self.state.change_conditions(|conditions| {
                    (conditions.ready, conditions.work) = (false, Some(work))
                });
                self.serve();
                Box::pin(covered(self.state.clients(), Arc::clone(&self.config)))
            }
            Visibility::Draining | Visibility::Absent => self.leave(wanted),
        }
    }

    /// Starts the task, if it does not run. Its sessions begin with the visibility at that time.
    fn serve(&mut self) {
        if self.registration.is_some() || self.config.registration.is_none() {
            return;
        }
        let (leave, left) = shutdown::shutdown();
        let (config, state) = (Arc::clone(&self.config), self.state.clone());
        let maintenance = self.maintenance.clone();
        let (running, task) = watch::channel(());
        tokio::spawn(async move {
            keep_registered(&config, &state, &maintenance, left, SystemResolver, None).await;
            drop(running);
        });
        self.registration = Some(Registration { leave, task });
    }

    fn watch_readiness(&mut self) {
        let is_wanted = self.config.registration.is_some() || self.config.etcd.is_some();
        if !is_wanted || !self.config.readiness.wait {
            return;
        }
        let (config, state, shell) = (Arc::clone(&self.config), self.state.clone(), self.shell.clone());
        let (_, places) = watch::channel(config.places(None));
        let (before, is_registered) = (state.places(), config.registration.is_some());
        self.watched.spawn(async move {
            let tried = |tried: Tried<'_>| {
                let ready = state.set_place(tried.place, tried.is_ready, tried.problem);
                state.change_conditions(|conditions| conditions.ready = ready);
            };
            // A command without routes was not waited for, and counts as ready.
            let was_ready = |name: &str| !is_registered || before.get(name).is_some_and(|place| place.ready);
            readiness::follow(&config.readiness, Some(&shell), places, was_ready, tried).await;
        });
    }

    /// Draining is the first part of leaving, so both begin with a request to stop. `Absent` ends a drain that still
    /// goes on.
    fn leave(&mut self, wanted: Visibility) -> Settled {
        let is_drain = wanted == Visibility::Draining;
        let limit = self.config.drain_timeout.get();
        let own =
            interfaces().unwrap_or_default().into_iter().map(|interface| interface.ip).collect::<Vec<_>>();
        let sockets = if is_drain { OwnSockets::of(&self.config, &own) } else { OwnSockets::default() };
        let Some(Registration { leave, task }) = &self.registration else {
            self.state.clear_application();
            return Box::pin(sockets.until_idle(limit));
        };
        let mut task = task.clone();
        if is_drain {
            leave.request();
        } else {
            leave.force();
            self.registration = None;
        }
        Box::pin(async move {
            while task.changed().await.is_ok() {}
            sockets.until_idle(limit).await;
        })
    }
}

/// Returns when every proxy has confirmed that it sends no requests to the application any more, and those in flight
/// have ended within DRAIN_TIMEOUT.
async fn covered(clients: Vec<Client>, config: Arc<Config>) {
    let limit = config.drain_timeout.get();
    let ports = config.registration.as_ref().map_or(Vec::new(), RegistrationConfig::own_ports);
    let each = clients.into_iter().map(|client| (client, ports.clone())).map(|(client, ports)| async move {
        let mut status = client.watch();
        let hidden =
            status.wait_for(|status| status.phase == Phase::Stopped || status.shown != Visibility::Live);
        if hidden.await.is_ok() {
            finish_in_flight(&client, &ports, limit).await;
        }
    });
    each.collect::<JoinSet<()>>().join_all().await;
}
