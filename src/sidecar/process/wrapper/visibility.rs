//! What people see of the command: the sessions with the registries, kept by a task of their own, and the
//! conditions that decide what is shown through them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{Client, Phase, SystemResolver, Wanted};
use crate::shutdown::{self, ShutdownTrigger};
use crate::sidecar::config::{Config, RegistrationConfig};
use crate::sidecar::maintenance::Maintenance;
use crate::sidecar::readiness::{self, Shell};
use crate::sidecar::registries::{finish_in_flight, keep_registered};
use crate::sidecar::state::{DaemonState, Work};

/// Carries out what is wanted.
pub(super) struct Visibility {
    config: Arc<Config>,
    state: DaemonState,
    maintenance: Maintenance,
    /// What runs checks.
    shell: Shell,
    registration: Option<Registration>,
    /// Watches the readiness of an application that has been ready; ends when dropped.
    watched: JoinSet<()>,
}

/// The task that keeps the routes with the registries.
struct Registration {
    leave: ShutdownTrigger,
    /// Ends with the task.
    task: watch::Receiver<()>,
}

/// Completes when what is wanted is so, as far as it can be.
pub(super) type Settled = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Visibility {
    pub(super) fn new(
        config: Arc<Config>,
        state: DaemonState,
        maintenance: Maintenance,
        shell: Shell,
    ) -> Self {
        Visibility { config, state, maintenance, shell, registration: None, watched: JoinSet::new() }
    }

    /// Shows this from now on; of maintenance, because of `work`. There is nothing to wait for where nobody sees
    /// anything of us.
    pub(super) fn show(&mut self, wanted: Wanted, work: Work) -> Settled {
        self.watched = JoinSet::new();
        match wanted {
            Wanted::Live => {
                self.state.change_conditions(|conditions| (conditions.ready, conditions.work) = (true, None));
                self.serve();
                self.watch_readiness();
                Box::pin(std::future::ready(()))
            }
            Wanted::Maintenance => {
                self.state.change_conditions(|conditions| {
                    (conditions.ready, conditions.work) = (false, Some(work))
                });
                self.serve();
                Box::pin(covered(self.state.clients(), Arc::clone(&self.config)))
            }
            Wanted::Draining | Wanted::Absent => self.leave(wanted),
        }
    }

    /// The sessions begin with what is shown when they do.
    fn serve(&mut self) {
        if self.registration.is_some() || self.config.registration.is_none() {
            return;
        }
        let (leave, left) = shutdown::shutdown();
        let (config, state) = (Arc::clone(&self.config), self.state.clone());
        let maintenance = self.maintenance.clone();
        let (running, task) = watch::channel(());
        tokio::spawn(async move {
            keep_registered(&config, &state, &maintenance, left, SystemResolver).await;
            drop(running);
        });
        self.registration = Some(Registration { leave, task });
    }

    fn watch_readiness(&mut self) {
        if self.config.registration.is_none() {
            return;
        }
        let (config, state, shell) = (Arc::clone(&self.config), self.state.clone(), self.shell.clone());
        self.watched.spawn(async move {
            let ready = |ready| state.change_conditions(|conditions| conditions.ready = ready);
            readiness::watch(&config.readiness, Some(&shell), ready).await;
        });
    }

    /// A drain is the first part of leaving, so that both begin with the same request; what is left of it is not
    /// waited for where nothing is to be seen.
    fn leave(&mut self, wanted: Wanted) -> Settled {
        let Some(Registration { leave, task }) = &self.registration else {
            self.state.clear_application();
            return Box::pin(std::future::ready(()));
        };
        let mut task = task.clone();
        if wanted == Wanted::Draining {
            leave.request();
        } else {
            leave.hurry();
            self.registration = None;
        }
        Box::pin(async move { while task.changed().await.is_ok() {} })
    }
}

/// Returns when every proxy has confirmed that nobody is sent to the application any more, and then what was on
/// its way is done, for which there is DRAIN_TIMEOUT.
async fn covered(clients: Vec<Client>, config: Arc<Config>) {
    let limit = config.drain_timeout.get();
    let ports = config.registration.as_ref().map_or(Vec::new(), RegistrationConfig::own_ports);
    let each = clients.into_iter().map(|client| (client, ports.clone())).map(|(client, ports)| async move {
        let mut status = client.watch();
        let hidden = status.wait_for(|status| status.phase == Phase::Stopped || status.shown != Wanted::Live);
        if hidden.await.is_ok() {
            finish_in_flight(&client, &ports, limit).await;
        }
    });
    each.collect::<JoinSet<()>>().join_all().await;
}
