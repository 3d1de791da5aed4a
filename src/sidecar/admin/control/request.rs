//! The requests to the daemon, and how it carries them out.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::warn;

use crate::sidecar::admin::status::{status, visibility_name};
use crate::sidecar::maintenance::{Maintenance, Window};
use crate::sidecar::state::{DaemonState, Progress};
use registry_client::protocol::GoDuration;
use registry_client::{Cause, Client, MaintenanceProgress, MaintenanceTarget, Mode, RouteStatus, Status};

/// A request, as it is written on the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(super) enum Request {
    Status,
    Events {
        #[serde(default)]
        follow: bool,
    },
    Routes,
    Drain {
        #[serde(default)]
        cancel: bool,
    },
    MaintenanceEnter {
        #[serde(default)]
        target: Option<String>,
        /// Why, for the page.
        #[serde(default)]
        reason: Option<String>,
        /// How long it lasts, such as `30m`.
        #[serde(default, rename = "for")]
        duration: Option<String>,
        /// Answer when every registry has confirmed it, or will not in time.
        #[serde(default)]
        wait: bool,
    },
    MaintenanceExit {
        #[serde(default)]
        target: Option<String>,
        #[serde(default)]
        wait: bool,
    },
    MaintenanceStatus,
    MaintenanceProgress {
        percent: Option<u8>,
        message: Option<String>,
    },
    Healthcheck {
        /// Whether the application must be ready too; it always must be around a command.
        #[serde(default)]
        ready: bool,
        /// Whether a route must be in force too.
        #[serde(default)]
        registered: bool,
    },
    Reload,
}

/// How long the registries have to confirm maintenance that somebody waits for. A verdict takes up to 60 s.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(65);
/// The same where nobody waits, so that the answer tells what is usually confirmed at once.
const SHORT_WAIT: Duration = Duration::from_millis(300);
/// The longest reason or progress message, in characters.
const MAX_MESSAGE: usize = 200;

impl Request {
    /// Carries the request out, and returns the data of the answer.
    ///
    /// # Errors
    /// Says, for a person, why the daemon refuses.
    pub(super) async fn carry_out(
        self,
        state: &DaemonState,
        maintenance: &Maintenance,
    ) -> Result<Value, String> {
        match self {
            Request::Status | Request::Events { .. } | Request::Routes => Ok(status(state, maintenance)),
            Request::Drain { cancel } => {
                state.change_conditions(|conditions| conditions.drained = !cancel);
                let reason = state.conditions().reason();
                Ok(json!({"wanted": visibility_name(state.visibility()), "reason": reason}))
            }
            Request::MaintenanceEnter { target, reason, duration, wait } => {
                let window = window(state, target, reason, duration.as_deref())?;
                let target = window.target.clone();
                let saved = maintenance.enter(window).await;
                Ok(changed(state, maintenance, &target, wait, saved).await)
            }
            Request::MaintenanceExit { target, wait } => {
                let target = exit_target(state, maintenance, target)?;
                let saved = maintenance.exit(target.clone()).await;
                Ok(changed(state, maintenance, &target, wait, saved).await)
            }
            Request::MaintenanceStatus => Ok(maintenance_status(state, maintenance)),
            Request::MaintenanceProgress { percent, message } => {
                set_progress(state, percent, message)?;
                Ok(maintenance_status(state, maintenance))
            }
            Request::Healthcheck { ready, registered } => Ok(health(state, ready, registered)),
            Request::Reload => state.reload().await.map(|done| json!({"reload": done})),
        }
    }
}

/// The window that somebody asks for.
fn window(
    state: &DaemonState,
    target: Option<String>,
    reason: Option<String>,
    duration: Option<&str>,
) -> Result<Window, String> {
    let since = SystemTime::now();
    let until = match duration {
        None => None,
        Some(text) => {
            let duration = text.parse().and_then(GoDuration::non_zero).map_err(|error| error.to_string())?;
            Some(since.checked_add(duration.get()).ok_or("that is too long")?)
        }
    };
    Ok(Window { target: parse_target(state, target)?, reason: reason.map(one_line), since, until })
}

fn exit_target(
    state: &DaemonState,
    maintenance: &Maintenance,
    target: Option<String>,
) -> Result<MaintenanceTarget, String> {
    // A window that was entered can be left even if no route fits it now.
    let windows = maintenance.windows();
    let open = |candidate: &MaintenanceTarget| windows.windows().any(|window| window.target == *candidate);
    let entered = target.as_deref().and_then(|text| candidates(text).find(open));
    entered.map_or_else(|| parse_target(state, target), Ok)
}

/// What maintenance of `target` has become after a change: when every registry has confirmed it or the wait is over. There is
/// a warning where it is in force but could not be saved.
async fn changed(
    state: &DaemonState,
    maintenance: &Maintenance,
    target: &MaintenanceTarget,
    wait: bool,
    saved: Result<(), String>,
) -> Value {
    let clients = state.clients();
    let limit = if wait { MAX_WAIT } else { SHORT_WAIT };
    let waits = join_all(clients.iter().map(|client| client.wait_maintenance(target, limit))).await;
    let mut unconfirmed = Vec::new();
    for (client, waited) in clients.iter().zip(waits).filter(|_| wait) {
        let why = match waited {
            Ok(Mode::Proxy) => continue,
            Ok(Mode::Local) => "the proxy has not confirmed it".to_owned(),
            Err(error) => error.to_string(),
        };
        unconfirmed.push(format!("{}: {why}", client.status().registry));
    }
    let mut answer = maintenance_status(state, maintenance);
    if wait {
        answer["unconfirmed"] = unconfirmed.into();
    }
    if let Err(warning) = saved {
        warn!("maintenance: {warning}");
        answer["warning"] = warning.into();
    }
    answer
}

/// The text as one line of bounded length.
fn one_line(text: String) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect()
}

fn parse_target(state: &DaemonState, target: Option<String>) -> Result<MaintenanceTarget, String> {
    let Some(text) = target.filter(|target| target != "ALL") else { return Ok(MaintenanceTarget::All) };
    let clients = state.clients();
    // All clients have the same routes.
    let client = clients.first().ok_or("nothing is registered yet")?;
    matching_target(client, &text)
}

/// The target that `text` names: a route's name, path or domain, of which the client has at least one.
fn matching_target(client: &Client, text: &str) -> Result<MaintenanceTarget, String> {
    let routes = client.routes();
    let found = candidates(text).find(|target| routes.iter().any(|(key, route)| target.fits(key, route)));
    let known = || routes.iter().map(|(key, route)| format!("{key} ({} {})", route.domains, route.path));
    found.ok_or_else(|| {
        format!(
            "no route has {text:?} as its name, path or domain; there are: {}",
            known().collect::<Vec<_>>().join(", ")
        )
    })
}

/// The targets that a text may mean.
fn candidates(text: &str) -> impl Iterator<Item = MaintenanceTarget> {
    let candidates = [
        Some(MaintenanceTarget::Route(text.into())),
        text.parse().ok().map(MaintenanceTarget::Path),
        text.parse().ok().map(MaintenanceTarget::Domain),
    ];
    candidates.into_iter().flatten()
}

fn maintenance_status(state: &DaemonState, maintenance: &Maintenance) -> Value {
    let sessions: Vec<Value> = state
        .clients()
        .iter()
        .map(|client| {
            let status = client.status();
            let wanted: Vec<_> = status.maintenance_wanted.iter().map(ToString::to_string).collect();
            let routes: Vec<_> = status
                .maintenance
                .iter()
                .map(|(key, confirmed)| json!({"route": key.as_str(), "confirmed": confirmed}))
                .collect();
            let requests: Vec<_> = status.maintenance_requests.iter().map(request_status).collect();
            json!({
                "registry": status.registry.to_string(),
                "wanted": wanted,
                "routes": routes,
                "requests": requests,
                "refusal": status.maintenance_refusal,
            })
        })
        .collect();
    let progress = state.progress();
    json!({
        "maintenance": state.conditions().maintenance,
        "windows": maintenance.windows().as_json(SystemTime::now()),
        "progress": {"message": progress.message, "percent": progress.percent},
        "sessions": sessions,
    })
}

/// What has become of a request for maintenance: the proxy has confirmed it, has not done so in time, or not yet.
fn request_status(request: &MaintenanceProgress) -> Value {
    let standing = match request.mode {
        Some(Mode::Proxy) => "confirmed by the proxy",
        Some(Mode::Local) => "the proxy has not confirmed it",
        None => "not confirmed yet",
    };
    json!({"target": request.target.to_string(), "entering": request.entering, "standing": standing})
}

fn set_progress(state: &DaemonState, percent: Option<u8>, message: Option<String>) -> Result<(), String> {
    if percent.is_some_and(|percent| percent > 100) {
        return Err("the progress is a number from 0 to 100".to_owned());
    }
    let message = message.map(one_line).or(state.progress().message);
    state.set_progress(Progress { percent, message });
    Ok(())
}

/// The answer to a health check.
///
/// Around a command it is about the command: during a step, an update or a schedule the command's status decides, else
/// whether the application is ready. Beside an application it is about the sidecar, because an engine that restarts what is
/// unhealthy would restart the sidecar and not the application; `ready` and `registered` ask for the application.
///
/// A sidecar without a network is unhealthy, and one that does not know the application's address. Until a route was first
/// accepted, so is one that a registry refuses. A registry that is away never makes unhealthy, because an orchestrator must
/// not kill what works (SEMANTICS section 10).
fn health(state: &DaemonState, ready: bool, registered: bool) -> Value {
    let (conditions, clients) = (state.conditions(), state.clients());
    let statuses: Vec<_> = clients.iter().map(Client::status).collect();
    let refused = statuses.iter().find_map(refused_by);
    let command = state.command();
    let is_about_application = ready || registered || command.is_some();
    let command = command.unwrap_or_default();
    if let Some(healthy) = command.healthy.filter(|_| !registered) {
        let failed = || "the last run of the schedule has failed".to_owned();
        let reason = if healthy { command.doing } else { Some(failed()) };
        let reason = reason.unwrap_or_else(|| conditions.reason().to_owned());
        return json!({"healthy": healthy, "reason": reason});
    }
    let is_not_ready = !conditions.ready && !conditions.maintenance;
    let verdict = match refused {
        _ if conditions.stranded => Err(conditions.reason().to_owned()),
        _ if conditions.address_unknown => Err(state.address_problem().unwrap_or_default()),
        _ if is_about_application && is_not_ready => Err(not_ready(state)),
        Some(refusal) if !state.was_live() => Err(refusal),
        _ if registered => gets_requests(state, &statuses),
        _ => Ok(()),
    };
    let reason = verdict.as_ref().err().cloned().unwrap_or_else(|| match &state.place_problems()[..] {
        [] => conditions.reason().to_owned(),
        problems => format!("{}, but not all of it: {}", conditions.reason(), problems.join("; ")),
    });
    json!({"healthy": verdict.is_ok(), "reason": reason})
}

/// That the application is not ready, and why.
fn not_ready(state: &DaemonState) -> String {
    match &state.place_problems()[..] {
        [] => "the application is not ready".to_owned(),
        problems => format!("the application is not ready: {}", problems.join("; ")),
    }
}

/// Whether routes are in force at some registry and its proxy sends requests to all of them.
fn gets_requests(state: &DaemonState, statuses: &[Status]) -> Result<(), String> {
    let mut reason = "no route is live".to_owned();
    for status in statuses.iter().filter(|status| status.live) {
        match state.out_at(&status.registry.name).into_iter().next() {
            None => return Ok(()),
            Some((key, why)) => reason = format!("{key}: {why}"),
        }
    }
    Err(reason)
}

/// What a registry that answers refuses: this instance, or a route.
fn refused_by(status: &Status) -> Option<String> {
    if let Some(Cause::Refused { refusal, .. }) = &status.cause {
        return Some(format!("the registry refuses this instance: {refusal}"));
    }
    status.routes.values().find_map(|route| match route {
        RouteStatus::Refused(refusal) => Some(format!("the registry refuses the route: {refusal}")),
        _ => None,
    })
}
