//! What the parts of the running daemon share: the conditions that decide what people see, the sessions, what
//! happened lately, and how far the work behind the maintenance page is. Cheap to clone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value, json};
use tokio::sync::{Notify, broadcast, watch};
use tracing::info;

use crate::client::{Client, Event, Wanted};

use super::supervisor::{Activity, Phase};
use super::visibility::Conditions;

/// How many events are remembered for whoever asks later.
const MAX_RECENT: usize = 100;
/// How many events a slow listener may be behind.
const EVENT_BUFFER: usize = 256;

/// The handle.
#[derive(Clone)]
pub(super) struct Agent {
    shared: Arc<Shared>,
}

struct Shared {
    conditions: watch::Sender<Conditions>,
    clients: watch::Sender<Vec<Client>>,
    progress: watch::Sender<Progress>,
    wrapped: watch::Sender<Wrapped>,
    events: broadcast::Sender<Value>,
    recent: Mutex<VecDeque<Value>>,
    reload: Notify,
    /// A configuration has been applied somewhere.
    was_live: AtomicBool,
    started: Instant,
}

/// What the maintenance page and `/api/status` tell of the work behind it: names and numbers, never output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// What is being done.
    pub(super) message: Option<String>,
    /// How much of it is done, in hundredths.
    pub(super) percent: Option<u8>,
}

/// The command that is wrapped, as far as others are told of it: names and numbers, never lines or output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wrapped {
    pub(super) activity: Activity,
    /// The step that runs, with its name: `step 2 of 3: npm`.
    pub(super) step: Option<String>,
    /// What became of the last update.
    pub(super) update: Option<String>,
}

impl Wrapped {
    /// In one line what goes on; `None`: nothing worth telling.
    pub(super) fn doing(&self) -> Option<String> {
        let doing = match (self.activity.phase, &self.step) {
            (Phase::Steps, Some(step)) => step.clone(),
            (Phase::Waiting, _) => "waiting for dependencies".to_owned(),
            (Phase::Halting, _) => "the command is stopped for an update".to_owned(),
            (Phase::Starting, _) => "the command starts".to_owned(),
            (Phase::Pausing, _) => "waiting for the next start".to_owned(),
            (Phase::Stopping, _) => "stopping".to_owned(),
            (Phase::Running, _) => return None,
            (Phase::Idle | Phase::Steps, _) => return None,
        };
        Some(doing)
    }

    fn told(&self) -> Value {
        if self.activity.phase == Phase::Idle {
            return Value::Null;
        }
        json!({
            "doing": self.doing().unwrap_or_else(|| "the command runs".to_owned()),
            "updating": self.activity.updating,
            "last_update": self.update,
        })
    }
}

impl Agent {
    pub(super) fn new() -> Self {
        let shared = Shared {
            conditions: watch::Sender::new(Conditions::default()),
            clients: watch::Sender::new(Vec::new()),
            progress: watch::Sender::new(Progress::default()),
            wrapped: watch::Sender::new(Wrapped::default()),
            events: broadcast::Sender::new(EVENT_BUFFER),
            recent: Mutex::new(VecDeque::new()),
            reload: Notify::new(),
            was_live: AtomicBool::new(false),
            started: Instant::now(),
        };
        Agent { shared: Arc::new(shared) }
    }

    pub(super) fn conditions(&self) -> Conditions {
        *self.shared.conditions.borrow()
    }

    /// What people are to see.
    pub(super) fn wanted(&self) -> Wanted {
        self.conditions().wanted()
    }

    /// The one place where the conditions change: what follows from it is said, and wanted of every session.
    pub(super) fn change(&self, change: impl FnOnce(&mut Conditions)) {
        let before = self.wanted();
        self.shared.conditions.send_if_modified(|conditions| {
            let old = *conditions;
            change(conditions);
            conditions.was_ready |= conditions.ready;
            *conditions != old
        });
        let (wanted, clients) = (self.wanted(), self.clients());
        if wanted == before {
            return;
        }
        if !clients.is_empty() && !self.conditions().stopping {
            info!("{}: {}", self.conditions().reason(), consequence(wanted));
        }
        for client in clients {
            // One that has stopped shows nothing anyway.
            let _ = client.set_visibility(wanted);
        }
    }

    /// There is no application any more that anybody could see.
    pub(super) fn forget_application(&self) {
        self.change(|conditions| (conditions.ready, conditions.work) = (false, None));
    }

    /// The sessions, one for each registry; none before the application was ready.
    pub(super) fn clients(&self) -> Vec<Client> {
        self.shared.clients.borrow().clone()
    }

    /// There are sessions, or none any longer.
    pub(super) fn set_clients(&self, clients: Vec<Client>) {
        self.shared.clients.send_replace(clients);
    }

    pub(super) fn progress(&self) -> Progress {
        self.shared.progress.borrow().clone()
    }

    pub(super) fn set_progress(&self, progress: Progress) {
        self.shared.progress.send_replace(progress);
    }

    /// What the wrapped command is about.
    pub(super) fn wrapped(&self) -> Wrapped {
        self.shared.wrapped.borrow().clone()
    }

    pub(super) fn set_wrapped(&self, change: impl FnOnce(&mut Wrapped)) {
        self.shared.wrapped.send_modify(change);
    }

    /// Asks for the configuration's files to be read again.
    pub(super) fn reload(&self) {
        self.shared.reload.notify_one();
    }

    /// Returns when somebody has asked for that. Cancel-safe.
    pub(super) async fn reload_requested(&self) {
        self.shared.reload.notified().await;
    }

    /// Whether some registry has taken a route, since the daemon was started.
    pub(super) fn was_live(&self) -> bool {
        self.shared.was_live.load(Ordering::Relaxed)
    }

    /// Something happened in a session.
    pub(super) fn publish(&self, registry: &str, event: &Event) {
        if matches!(event, Event::RouteAdded { .. }) {
            self.shared.was_live.store(true, Ordering::Relaxed);
        }
        let mut fields = Map::new();
        fields.insert("event".to_owned(), event.name().into());
        fields.insert("registry".to_owned(), registry.into());
        fields.extend(event.data());
        let event = Value::Object(fields);
        let mut recent = self.recent_locked();
        if recent.len() >= MAX_RECENT {
            recent.pop_front();
        }
        recent.push_back(event.clone());
        // Nobody listens: that is their business.
        drop(self.shared.events.send(event));
    }

    /// What happened lately, and what will happen.
    pub(super) fn events(&self) -> (Vec<Value>, broadcast::Receiver<Value>) {
        let recent = self.recent_locked();
        (recent.iter().cloned().collect(), self.shared.events.subscribe())
    }

    fn recent_locked(&self) -> MutexGuard<'_, VecDeque<Value>> {
        self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything about the daemon, as the control socket tells it.
    pub(super) fn status(&self) -> Value {
        let conditions = self.conditions();
        let sessions: Vec<Value> = self.clients().iter().map(session_status).collect();
        let progress = self.progress();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_seconds": self.shared.started.elapsed().as_secs(),
            "ready": conditions.ready,
            "wanted": word(conditions.wanted()),
            "reason": conditions.reason(),
            "maintenance": conditions.maintenance,
            "drained": conditions.drained,
            "progress": {"message": progress.message, "percent": progress.percent},
            "command": self.wrapped().told(),
            "sessions": sessions,
        })
    }
}

fn session_status(client: &Client) -> Value {
    let status = client.status();
    let wanted = client.routes();
    let routes: Vec<Value> = status
        .routes
        .iter()
        .map(|(key, standing)| {
            let route = wanted.get(key);
            json!({
                "route": key.as_str(),
                "domains": route.map(|route| route.domains.to_string()),
                "path": route.map(|route| route.path.to_string()),
                "backend_url": route.map(|route| route.backend.to_string()),
                "status": standing.to_string(),
                "maintenance": status.maintenance.get(key).map(|confirmed| match confirmed {
                    true => "confirmed",
                    false => "requested",
                }),
            })
        })
        .collect();
    json!({
        "registry": status.registry.to_string(),
        "phase": format!("{:?}", status.phase).to_lowercase(),
        "connected": status.bound,
        "live": status.live,
        "shown": word(status.shown),
        "kind": if status.ours { "registry-server" } else { "reference" },
        "revision": status.revision,
        "routes": routes,
    })
}

pub(super) fn word(wanted: Wanted) -> &'static str {
    match wanted {
        Wanted::Absent => "absent",
        Wanted::Maintenance => "maintenance",
        Wanted::Live => "live",
        Wanted::Draining => "draining",
    }
}

fn consequence(wanted: Wanted) -> &'static str {
    match wanted {
        Wanted::Absent => "its routes are not registered",
        Wanted::Maintenance => "people get the maintenance page",
        Wanted::Live => "its routes take requests",
        Wanted::Draining => "its routes are taken out, as far as the registry can do that",
    }
}
