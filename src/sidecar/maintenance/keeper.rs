//! Carries out what operators ask of maintenance: tells the sessions, keeps the state file, ends windows whose
//! time has come.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use super::state::StateFile;
use super::windows::{Change, Window, Windows, in_words};
use crate::client::{Client, MaintenanceAction, MaintenanceRequest, MaintenanceTarget};
use crate::protocol::BackendUrl;
use crate::sidecar::agent::{Agent, Progress};

/// A clock may be set while a window is open: its end is looked for at least this often.
const LOOK: Duration = Duration::from_secs(60);

/// What the agent keeps of maintenance.
pub(in crate::sidecar) struct Keeper {
    windows: watch::Sender<Windows>,
    /// The sessions have been asked for single targets, and not only for everything.
    named: AtomicBool,
    state: OnceLock<StateFile>,
    saving: Mutex<()>,
}

impl Keeper {
    pub(in crate::sidecar) fn new() -> Self {
        Keeper {
            windows: watch::Sender::new(Windows::default()),
            named: AtomicBool::new(false),
            state: OnceLock::new(),
            saving: Mutex::new(()),
        }
    }

    pub(in crate::sidecar) fn windows(&self) -> Windows {
        self.windows.borrow().clone()
    }

    /// What a session that begins now is to be asked for, besides what is wanted of all routes.
    pub(in crate::sidecar) fn requests(&self, page: Option<&BackendUrl>) -> Vec<MaintenanceRequest> {
        let windows = self.windows.borrow();
        if windows.is_whole() { Vec::new() } else { windows.requests(page) }
    }
}

impl Agent {
    /// From now on maintenance survives a restart in the file at `path`; what a former process has left there
    /// holds again. A file that cannot be used is named, and ignored until maintenance changes.
    pub(in crate::sidecar) fn keep_maintenance_in(&self, path: PathBuf) {
        let (state, keeper) = (StateFile(path), self.keeper());
        match state.load(SystemTime::now()) {
            Ok(windows) => {
                for window in windows.windows() {
                    info!("maintenance of {} goes on: {}", window.target, about(window));
                }
                let whole = windows.is_whole();
                keeper.named.store(!whole && !windows.entries().is_empty(), Ordering::Relaxed);
                keeper.windows.send_replace(windows);
                self.change(|conditions| conditions.maintenance = whole);
            }
            Err(error) => warn!(
                "MAINTENANCE_STATE {}: {error}; it is ignored, and written anew when maintenance changes",
                state.0.display()
            ),
        }
        // Nobody else sets it.
        let _ = keeper.state.set(state);
    }

    /// Maintenance as operators have asked for it.
    pub(in crate::sidecar) fn windows(&self) -> Windows {
        self.keeper().windows()
    }

    /// Enters maintenance, or changes the reason and the end of one that was entered. It is in force when the
    /// call returns, whatever becomes of the state file.
    ///
    /// # Errors
    /// That it will not survive a restart, and why; for a person.
    pub(in crate::sidecar) async fn enter_maintenance(&self, window: Window) -> Result<(), String> {
        info!("maintenance of {}: {}", window.target, about(&window));
        self.alter(Change::Enter(window));
        self.save().await
    }

    /// Leaves maintenance; of `All`: of everything.
    ///
    /// # Errors
    /// See [`Agent::enter_maintenance`].
    pub(in crate::sidecar) async fn exit_maintenance(&self, target: MaintenanceTarget) -> Result<(), String> {
        self.alter(Change::Exit(target));
        self.save().await
    }

    fn alter(&self, change: Change) -> Vec<Window> {
        let (keeper, before) = (self.keeper(), self.windows());
        let mut after = before.clone();
        let ended = after.apply(change.clone());
        let named = keeper.named.load(Ordering::Relaxed);
        for client in self.clients() {
            let orders =
                after.orders_since(&before, &change, &ended, named, client.maintenance_page().as_ref());
            orders.into_iter().for_each(|order| tell(&client, order));
        }
        let whole = after.is_whole();
        keeper.named.store(!after.entries().is_empty() && (named || !whole), Ordering::Relaxed);
        keeper.windows.send_replace(after);
        self.change(|conditions| conditions.maintenance = whole);
        if !whole && before.is_whole() {
            self.set_progress(Progress::default());
        }
        ended
    }

    /// Saves what holds now.
    async fn save(&self) -> Result<(), String> {
        let keeper = self.keeper();
        if keeper.state.get().is_none() {
            return Ok(());
        }
        // One after the other, so that the last is the newest.
        let _saving = keeper.saving.lock().await;
        let (agent, windows) = (self.clone(), self.windows());
        let saved = spawn_blocking(move || match agent.keeper().state.get() {
            Some(state) => state.save(&windows).map_err(|error| format!("{}: {error}", state.0.display())),
            None => Ok(()),
        });
        let saved = saved.await.unwrap_or_else(|_| Err("its writer was stopped".to_owned()));
        saved
            .map_err(|error| format!("it will not survive a restart: cannot write MAINTENANCE_STATE {error}"))
    }
}

/// Ends the windows whose time has come, for as long as it lives. Without such windows it sleeps for good.
pub(in crate::sidecar) async fn end_windows(agent: Agent) {
    let mut windows = agent.keeper().windows.subscribe();
    loop {
        let next = windows.borrow_and_update().next_end();
        let wait = async {
            match next {
                Some(end) => {
                    sleep(end.duration_since(SystemTime::now()).unwrap_or_default().min(LOOK)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = windows.changed() => if changed.is_err() { return },
            () = wait => {
                let ended = agent.alter(Change::Expire(SystemTime::now()));
                if ended.is_empty() {
                    continue;
                }
                for window in ended {
                    info!("maintenance of {} is over: its time has come", window.target);
                }
                if let Err(error) = agent.save().await {
                    warn!("the end of the maintenance: {error}");
                }
            }
        }
    }
}

fn tell(client: &Client, order: MaintenanceRequest) {
    // One that has stopped shows nothing anyway.
    let _ = match order.action {
        MaintenanceAction::Enter(page) => client.maintenance_enter(order.target, page),
        MaintenanceAction::Exit => client.maintenance_exit(order.target),
    };
}

/// Why, and how long, for a log.
fn about(window: &Window) -> String {
    let reason = window.reason.as_deref().unwrap_or("no reason given");
    match window.remaining(SystemTime::now()) {
        Some(left) => format!("{reason}; it ends by itself in {}", in_words(left)),
        None => reason.to_owned(),
    }
}
