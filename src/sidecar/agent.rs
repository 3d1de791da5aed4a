//! What the parts of the running daemon share: the conditions that decide what people see, the sessions, what
//! happened lately, and how far the work behind the maintenance page is. Cheap to clone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};
use tokio::sync::{Mutex as AsyncMutex, broadcast, mpsc, oneshot, watch};
use tracing::info;

use crate::client::{Client, Event, Wanted};

use super::maintenance::Keeper;
use super::supervisor::{Activity, Phase};
use super::visibility::Conditions;

/// Who waits for what a reload has come to.
pub(super) type Reload = oneshot::Sender<Result<String, String>>;

/// How many may ask for a reload at once.
const MAX_RELOADS: usize = 4;
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
    keeper: Keeper,
    wrapped: watch::Sender<Wrapped>,
    /// Each as a line of JSON: a tenth of the memory of what it is parsed to.
    events: broadcast::Sender<Arc<str>>,
    recent: Mutex<VecDeque<Arc<str>>>,
    reloads: mpsc::Sender<Reload>,
    reloads_asked: AsyncMutex<mpsc::Receiver<Reload>>,
    /// A configuration has been applied somewhere.
    was_live: AtomicBool,
    /// By the registry's name, for as long as there is a session with it.
    tallies: Mutex<BTreeMap<String, Tally>>,
    /// How often the wrapped command was started.
    starts: AtomicU64,
    started: Instant,
}

/// What is counted of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// How often there was a session again.
    pub(super) reconnects: u64,
    /// When a configuration was applied last.
    pub(super) last_live: Option<SystemTime>,
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
        let (reloads, reloads_asked) = mpsc::channel(MAX_RELOADS);
        let shared = Shared {
            conditions: watch::Sender::new(Conditions::default()),
            clients: watch::Sender::new(Vec::new()),
            progress: watch::Sender::new(Progress::default()),
            keeper: Keeper::new(),
            wrapped: watch::Sender::new(Wrapped::default()),
            events: broadcast::Sender::new(EVENT_BUFFER),
            recent: Mutex::new(VecDeque::new()),
            reloads,
            reloads_asked: AsyncMutex::new(reloads_asked),
            was_live: AtomicBool::new(false),
            tallies: Mutex::default(),
            starts: AtomicU64::new(0),
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
        let names: Vec<_> = clients.iter().map(|client| client.status().registry.name).collect();
        self.tallies().retain(|name, _| names.iter().any(|known| **known == **name));
        self.shared.clients.send_replace(clients);
    }

    pub(super) fn keeper(&self) -> &Keeper {
        &self.shared.keeper
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

    /// Has the configuration's files read again, and returns what came of it.
    ///
    /// # Errors
    /// Why nothing is changed, for a person.
    pub(super) async fn reload(&self) -> Result<String, String> {
        if self.clients().is_empty() {
            return Err("nothing is changed: nothing is registered yet".to_owned());
        }
        let (reload, answer) = oneshot::channel();
        self.shared.reloads.try_send(reload).map_err(|_| "too many ask for that at once")?;
        answer.await.unwrap_or_else(|_| Err("nothing is changed: the daemon is leaving".to_owned()))
    }

    /// Returns when somebody has asked for that, and waits for what comes of it. Cancel-safe.
    pub(super) async fn reload_requested(&self) -> Reload {
        match self.shared.reloads_asked.lock().await.recv().await {
            Some(reload) => reload,
            // We hold a sender ourselves.
            None => std::future::pending().await,
        }
    }

    /// Whether some registry has taken a route, since the daemon was started.
    pub(super) fn was_live(&self) -> bool {
        self.shared.was_live.load(Ordering::Relaxed)
    }

    /// Something happened in a session.
    pub(super) fn publish(&self, registry: &str, event: &Event) {
        match event {
            Event::RouteAdded { .. } => self.shared.was_live.store(true, Ordering::Relaxed),
            Event::Reconnected { .. } => self.count(registry, |tally| tally.reconnects += 1),
            Event::ConfigApplied { .. } => {
                self.count(registry, |tally| tally.last_live = Some(SystemTime::now()));
            }
            _ => {}
        }
        let mut fields = Map::new();
        fields.insert("event".to_owned(), event.name().into());
        fields.insert("registry".to_owned(), registry.into());
        fields.extend(event.data());
        let event: Arc<str> = Value::Object(fields).to_string().into();
        let mut recent = self.recent_locked();
        if recent.len() >= MAX_RECENT {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(&event));
        // Nobody listens: that is their business.
        drop(self.shared.events.send(event));
    }

    /// What was counted of the session with this registry.
    pub(super) fn tally(&self, registry: &str) -> Tally {
        self.tallies().get(registry).copied().unwrap_or_default()
    }

    fn count(&self, registry: &str, count: impl FnOnce(&mut Tally)) {
        count(self.tallies().entry(registry.to_owned()).or_default());
    }

    fn tallies(&self) -> MutexGuard<'_, BTreeMap<String, Tally>> {
        self.shared.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wrapped command was started.
    pub(super) fn count_start(&self) {
        self.shared.starts.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was not for the first time.
    pub(super) fn restarts(&self) -> u64 {
        self.shared.starts.load(Ordering::Relaxed).saturating_sub(1)
    }

    pub(super) fn uptime(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// What happened lately, and what will happen, as JSON.
    pub(super) fn events(&self) -> (Vec<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        let recent = self.recent_locked();
        (recent.iter().cloned().collect(), self.shared.events.subscribe())
    }

    fn recent_locked(&self) -> MutexGuard<'_, VecDeque<Arc<str>>> {
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
            "uptime_seconds": self.uptime().as_secs(),
            "ready": conditions.ready,
            "wanted": word(conditions.wanted()),
            "reason": conditions.reason(),
            "maintenance": conditions.maintenance,
            "windows": self.windows().shown(SystemTime::now()),
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
        "cause": status.cause.as_ref().map(ToString::to_string),
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
