//! The handle with which operators control maintenance: it tells the sessions, and keeps the state file.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::sidecar::state::{DaemonState, Progress};
use registry_client::protocol::BackendUrl;
use registry_client::{Client, MaintenanceAction, MaintenanceRequest, MaintenanceTarget};

use super::state_file::StateFile;
use super::windows::{Change, Window, Windows, duration_text};

/// Maintenance as operators have asked for it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Maintenance {
    state: DaemonState,
    shared: Arc<Shared>,
}

struct Shared {
    windows: watch::Sender<Windows>,
    /// The sessions were asked for single targets since nothing was last in maintenance.
    asked_for_targets: AtomicBool,
    file: OnceLock<StateFile>,
    /// Held while the file is written.
    saving: Mutex<()>,
}

impl Maintenance {
    /// Nothing is in maintenance, and nothing is saved.
    pub(crate) fn new(state: DaemonState) -> Self {
        let shared = Shared {
            windows: watch::Sender::new(Windows::default()),
            asked_for_targets: AtomicBool::new(false),
            file: OnceLock::new(),
            saving: Mutex::new(()),
        };
        Maintenance { state, shared: Arc::new(shared) }
    }

    /// Keeps maintenance in the file at `path` from now on. What a former process saved there is in force again. A
    /// file that cannot be read is warned about, and ignored until maintenance changes.
    pub(crate) fn restore(&self, path: PathBuf) {
        let (file, shared) = (StateFile(path), &self.shared);
        match file.load(SystemTime::now()) {
            Ok(windows) => {
                for window in windows.windows() {
                    info!("maintenance of {} goes on: {}", window.target, describe(window));
                }
                let everything = windows.covers_everything();
                let has_targets = !everything && !windows.entries().is_empty();
                shared.asked_for_targets.store(has_targets, Ordering::Relaxed);
                shared.windows.send_replace(windows);
                self.state.change_conditions(|conditions| conditions.maintenance = everything);
            }
            Err(error) => warn!(
                "MAINTENANCE_STATE {}: {error}; it is ignored, and written anew when maintenance changes",
                file.0.display()
            ),
        }
        // Nobody else sets it.
        let _ = shared.file.set(file);
    }

    /// What is in maintenance now.
    pub(crate) fn windows(&self) -> Windows {
        self.shared.windows.borrow().clone()
    }

    pub(super) fn watch_windows(&self) -> watch::Receiver<Windows> {
        self.shared.windows.subscribe()
    }

    /// What a session that begins now must ask for, beside the visibility of all its routes.
    pub(crate) fn requests(&self, page: Option<&BackendUrl>) -> Vec<MaintenanceRequest> {
        let windows = self.shared.windows.borrow();
        if windows.covers_everything() { Vec::new() } else { windows.requests(page) }
    }

    /// Opens a window, or replaces the one for the same target. It is in force when the call returns, whatever
    /// happens to the state file.
    ///
    /// # Errors
    /// Says, for a person, why the window will not survive a restart.
    pub(crate) async fn enter(&self, window: Window) -> Result<(), String> {
        info!("maintenance of {}: {}", window.target, describe(&window));
        self.change(Change::Enter(window));
        self.save().await
    }

    /// Ends the maintenance of `target`; [`MaintenanceTarget::All`] ends it for everything.
    ///
    /// # Errors
    /// See [`Maintenance::enter`].
    pub(crate) async fn exit(&self, target: MaintenanceTarget) -> Result<(), String> {
        self.change(Change::Exit(target));
        self.save().await
    }

    /// Ends the windows that are over at `now`, and returns them.
    pub(super) fn expire(&self, now: SystemTime) -> Vec<Window> {
        self.change(Change::Expire(now))
    }

    /// The only function that changes the windows: it tells the sessions and returns the windows that expired.
    fn change(&self, change: Change) -> Vec<Window> {
        let (shared, before) = (&self.shared, self.windows());
        let mut after = before.clone();
        let expired = after.apply(change.clone());
        let asked = shared.asked_for_targets.load(Ordering::Relaxed);
        for client in self.state.clients() {
            let page = client.maintenance_page();
            let requests = after.requests_since(&before, &change, &expired, asked, page.as_ref());
            requests.into_iter().for_each(|request| send(&client, request));
        }
        let everything = after.covers_everything();
        shared
            .asked_for_targets
            .store(!after.entries().is_empty() && (asked || !everything), Ordering::Relaxed);
        shared.windows.send_replace(after);
        self.state.change_conditions(|conditions| conditions.maintenance = everything);
        if !everything && before.covers_everything() {
            self.state.set_progress(Progress::default());
        }
        expired
    }

    /// Saves the windows, where there is a state file.
    ///
    /// # Errors
    /// See [`Maintenance::enter`].
    pub(super) async fn save(&self) -> Result<(), String> {
        if self.shared.file.get().is_none() {
            return Ok(());
        }
        // Save one after the other, so that the last save has the newest windows.
        let _saving = self.shared.saving.lock().await;
        let (shared, windows) = (Arc::clone(&self.shared), self.windows());
        let saved = spawn_blocking(move || match shared.file.get() {
            Some(file) => file.save(&windows).map_err(|error| format!("{}: {error}", file.0.display())),
            None => Ok(()),
        });
        let saved = saved.await.unwrap_or_else(|_| Err("its writer was stopped".to_owned()));
        saved
            .map_err(|error| format!("it will not survive a restart: cannot write MAINTENANCE_STATE {error}"))
    }
}

fn send(client: &Client, request: MaintenanceRequest) {
    // A client that has stopped has no routes left to change.
    let _ = match request.action {
        MaintenanceAction::Enter(page) => client.maintenance_enter(request.target, page),
        MaintenanceAction::Exit => client.maintenance_exit(request.target),
    };
}

/// The reason and the time left, for the log.
fn describe(window: &Window) -> String {
    let reason = window.reason.as_deref().unwrap_or("no reason given");
    match window.remaining(SystemTime::now()) {
        Some(left) => format!("{reason}; it ends by itself in {}", duration_text(left)),
        None => reason.to_owned(),
    }
}
