//! What can be asked of the daemon, and what it does about it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::{Client, MaintenanceTarget, RouteStatus};
use crate::sidecar::agent::{Agent, Progress, word};

/// One request, as it stands on the line.
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
    },
    MaintenanceExit {
        #[serde(default)]
        target: Option<String>,
    },
    MaintenanceStatus,
    MaintenanceProgress {
        percent: Option<u8>,
        message: Option<String>,
    },
    Healthcheck {
        #[serde(default)]
        registered: bool,
    },
    Reload,
}

/// How long the message behind a progress may be, in characters.
const MAX_MESSAGE: usize = 200;

impl Request {
    /// # Errors
    /// Why not, for a person.
    pub(super) async fn carry_out(self, agent: &Agent) -> Result<Value, String> {
        match self {
            Request::Status | Request::Events { .. } | Request::Routes => Ok(agent.status()),
            Request::Drain { cancel } => {
                agent.change(|conditions| conditions.drained = !cancel);
                Ok(json!({"wanted": word(agent.wanted()), "reason": agent.conditions().reason()}))
            }
            Request::MaintenanceEnter { target } => maintain(agent, target, true).await,
            Request::MaintenanceExit { target } => maintain(agent, target, false).await,
            Request::MaintenanceStatus => Ok(maintenance(agent)),
            Request::MaintenanceProgress { percent, message } => progress(agent, percent, message),
            Request::Healthcheck { registered } => Ok(health(agent, registered)),
            Request::Reload => {
                agent.reload();
                Ok(json!({"reload": "requested"}))
            }
        }
    }
}

/// Of everything it is a condition of the whole instance; of a path, a domain or a route it is the client's.
async fn maintain(agent: &Agent, target: Option<String>, enter: bool) -> Result<Value, String> {
    let target = target.filter(|target| target != "ALL");
    if target.is_none() {
        agent.change(|conditions| conditions.maintenance = enter);
        if !enter {
            agent.set_progress(Progress::default());
        }
    }
    let clients = agent.clients();
    if clients.is_empty() && target.is_some() {
        return Err("nothing is registered yet".to_owned());
    }
    for client in clients {
        let target = match &target {
            Some(text) => fitting(&client, text)?,
            // What was asked for single routes ends with the whole.
            None if !enter => MaintenanceTarget::All,
            None => continue,
        };
        let page = client.maintenance_page();
        let asked = match enter {
            true => client.maintenance_enter(target, page),
            false => client.maintenance_exit(target),
        };
        asked.map_err(|stopped| stopped.to_string())?;
    }
    Ok(maintenance(agent))
}

/// A route's name, a path or a domain, of which the client has at least one.
fn fitting(client: &Client, text: &str) -> Result<MaintenanceTarget, String> {
    let routes = client.routes();
    let candidates = [
        Some(MaintenanceTarget::Route(text.into())),
        text.parse().ok().map(MaintenanceTarget::Path),
        text.parse().ok().map(MaintenanceTarget::Domain),
    ];
    let mut fitting = candidates.into_iter().flatten();
    let found = fitting.find(|target| routes.iter().any(|(key, route)| target.fits(key, route)));
    let known = || routes.iter().map(|(key, route)| format!("{key} ({} {})", route.domains, route.path));
    found.ok_or_else(|| {
        format!(
            "no route has {text:?} as its name, path or domain; there are: {}",
            known().collect::<Vec<_>>().join(", ")
        )
    })
}

fn maintenance(agent: &Agent) -> Value {
    let sessions: Vec<Value> = agent
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
            json!({"registry": status.registry.to_string(), "wanted": wanted, "routes": routes})
        })
        .collect();
    let progress = agent.progress();
    json!({
        "maintenance": agent.conditions().maintenance,
        "progress": {"message": progress.message, "percent": progress.percent},
        "sessions": sessions,
    })
}

fn progress(agent: &Agent, percent: Option<u8>, message: Option<String>) -> Result<Value, String> {
    if percent.is_some_and(|percent| percent > 100) {
        return Err("the progress is a number from 0 to 100".to_owned());
    }
    let message =
        message.map(|message| message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect());
    let before = agent.progress();
    agent.set_progress(Progress { percent, message: message.or(before.message) });
    Ok(maintenance(agent))
}

/// As it should be while a step, an update or a schedule is; else as ready as the application. Before the first apply a registry that can be reached and refuses counts too;
/// one that is away never does, because that must not make an orchestrator kill what works (SEMANTICS
/// section 10).
fn health(agent: &Agent, registered: bool) -> Value {
    let (conditions, clients) = (agent.conditions(), agent.clients());
    let statuses: Vec<_> = clients.iter().map(Client::status).collect();
    let refused = statuses.iter().flat_map(|status| status.routes.values()).find_map(|route| match route {
        RouteStatus::Refused(refusal) => Some(refusal.to_string()),
        _ => None,
    });
    let wrapped = agent.wrapped();
    if let Some(healthy) = wrapped.activity.healthy.filter(|_| !registered) {
        let failed = || "the last run of the schedule has failed".to_owned();
        let reason = if healthy { wrapped.doing() } else { Some(failed()) };
        let reason = reason.unwrap_or_else(|| conditions.reason().to_owned());
        return json!({"healthy": healthy, "reason": reason});
    }
    let verdict = match refused {
        _ if !conditions.ready && !conditions.maintenance => Err("the application is not ready".to_owned()),
        Some(refusal) if !agent.was_live() => Err(format!("the registry refuses the route: {refusal}")),
        _ if registered && !statuses.iter().any(|status| status.live) => Err("no route is live".to_owned()),
        _ => Ok(()),
    };
    json!({"healthy": verdict.is_ok(), "reason": verdict.err().unwrap_or_else(|| conditions.reason().to_owned())})
}
