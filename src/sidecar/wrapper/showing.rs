//! What people see of the command: the sessions with the registries, kept by a task of their own, and the
//! conditions that decide what is shown through them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{Client, Phase, SystemResolver, Wanted};
use crate::shutdown::{self, ShutdownTrigger};
use crate::sidecar::agent::Agent;
use crate::sidecar::config::{Config, RegistrationConfig};
use crate::sidecar::daemon;
use crate::sidecar::leave::finish_in_flight;
use crate::sidecar::readiness::{self, Shell};
use crate::sidecar::visibility::Work;

/// Carries out what is wanted.
pub(super) struct Showing {
    config: Arc<Config>,
    agent: Agent,
    /// What runs checks.
    shell: Shell,
    serving: Option<Serving>,
    /// Watches the readiness of an application that has been ready; ends when dropped.
    watching: JoinSet<()>,
}

/// The task that keeps the routes with the registries.
struct Serving {
    leave: ShutdownTrigger,
    /// Ends with the task.
    task: watch::Receiver<()>,
}

/// Completes when what is wanted is so, as far as it can be.
pub(super) type Settling = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Showing {
    pub(super) fn new(config: Arc<Config>, agent: Agent, shell: Shell) -> Self {
        Showing { config, agent, shell, serving: None, watching: JoinSet::new() }
    }

    /// Shows this from now on; of maintenance, because of `work`. There is nothing to wait for where nobody sees
    /// anything of us.
    pub(super) fn show(&mut self, wanted: Wanted, work: Work) -> Settling {
        self.watching = JoinSet::new();
        match wanted {
            Wanted::Live => {
                self.agent.change(|conditions| (conditions.ready, conditions.work) = (true, None));
                self.serve();
                self.watch_readiness();
                Box::pin(std::future::ready(()))
            }
            Wanted::Maintenance => {
                self.agent.change(|conditions| (conditions.ready, conditions.work) = (false, Some(work)));
                self.serve();
                Box::pin(covered(self.agent.clients(), Arc::clone(&self.config)))
            }
            Wanted::Draining | Wanted::Absent => self.leave(wanted),
        }
    }

    /// The sessions begin with what is shown when they do.
    fn serve(&mut self) {
        if self.serving.is_some() || self.config.registration.is_none() {
            return;
        }
        let (leave, left) = shutdown::shutdown();
        let (config, agent) = (Arc::clone(&self.config), self.agent.clone());
        let (running, task) = watch::channel(());
        tokio::spawn(async move {
            daemon::serve(&config, &agent, left, SystemResolver).await;
            drop(running);
        });
        self.serving = Some(Serving { leave, task });
    }

    fn watch_readiness(&mut self) {
        if self.config.registration.is_none() {
            return;
        }
        let (config, agent, shell) = (Arc::clone(&self.config), self.agent.clone(), self.shell.clone());
        self.watching.spawn(async move {
            let ready = |ready| agent.change(|conditions| conditions.ready = ready);
            readiness::watch(&config.readiness, Some(&shell), ready).await;
        });
    }

    /// A drain is the first part of leaving, so that both begin with the same request; what is left of it is not
    /// waited for where nothing is to be seen.
    fn leave(&mut self, wanted: Wanted) -> Settling {
        let Some(Serving { leave, task }) = &self.serving else {
            self.agent.forget_application();
            return Box::pin(std::future::ready(()));
        };
        let mut task = task.clone();
        if wanted == Wanted::Draining {
            leave.request();
        } else {
            leave.hurry();
            self.serving = None;
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
