//! Whether the proxy sends requests to the routes' backends, as CIRCUIT_BREAKER_STATUS tells (SEMANTICS section 10).
//!
//! A proxy that reaches the application may take it out all the same, because what HEALTH_SET asks does not pass or
//! because requests fail. So the proxy is asked again and again; its events only hasten the next question.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use registry_client::protocol::HealthCheck;
use registry_client::{CallError, Client, Route, RouteKey, RouteStatus, Status, Visibility};

use crate::sidecar::state::DaemonState;

/// The pause after an apply or a new session, which the proxy has for its check.
const SETTLE: Duration = Duration::from_secs(1);
/// The pause between two questions while a backend is out.
const WHILE_OUT: Duration = Duration::from_secs(1);
/// The pause while all of them get requests. A registry of ours tells when that changes.
const WHILE_WELL: Duration = Duration::from_secs(15);
/// How many routes are asked about.
const MAX_ASKED: usize = 64;

/// What the proxy has told of this session's backends by its events: the last reason, and the error with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told {
    reason: Option<String>,
    error: Option<String>,
}

impl Told {
    /// Takes the data of a `backend_health_changed` about an instance of the service. `None`: it is about another one.
    pub(super) fn of(data: &Value, instance: &str) -> Option<Told> {
        let text = |key: &str| data[key].as_str().map(str::to_owned);
        (data["instance"].as_str() == Some(instance)).then(|| match data["healthy"].as_bool() {
            Some(true) => Told::default(),
            _ => Told { reason: text("reason"), error: text("error") },
        })
    }
}

/// What the proxy does with a route's backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It sends requests there.
    Served,
    /// It sends none.
    Out,
    /// People are not to see the backend.
    Hidden,
    /// It could not be asked, or knows the state only of routes with a breaker.
    Unknown,
}

async fn standing(client: &Client, key: &RouteKey) -> Standing {
    match client.circuit_breaker_status(key.clone()).await {
        Ok(status) if status.in_maintenance || status.draining => Standing::Hidden,
        Ok(status) if status.healthy => Standing::Served,
        Ok(_) => Standing::Out,
        Err(_) => Standing::Unknown,
    }
}

/// Follows what the proxy does with each route of a session that is live, until the client has stopped. It logs and
/// records when a backend is out and when it is back, and keeps the reasons in `state`.
pub(super) async fn follow(client: Client, state: DaemonState, mut told: watch::Receiver<Told>) {
    let registry = client.status().registry.name;
    let mut out: BTreeMap<RouteKey, String> = BTreeMap::new();
    let mut seen = None;
    loop {
        if settled(&client).await.is_err() {
            return state.set_out(&registry, BTreeMap::new());
        }
        if changed_since(&client.status(), seen.as_ref()) {
            sleep(SETTLE).await;
        }
        seen = Some(client.status());
        let reason = told.borrow_and_update().clone();
        for (key, route) in client.routes().into_iter().take(MAX_ASKED) {
            match standing(&client, &key).await {
                Standing::Out => {
                    let why = why(&route, &reason);
                    if out.get(&key) != Some(&why) {
                        let message = format!("{} at {registry}: {why}", route.backend);
                        warn!("out: {message}");
                        state.record_health(&registry, "BACKEND_OUT", &message);
                        out.insert(key, why);
                    }
                }
                Standing::Served => {
                    if out.remove(&key).is_some() {
                        let message =
                            format!("{} at {registry}: the proxy sends requests there again", route.backend);
                        info!("back: {message}");
                        state.record_health(&registry, "BACKEND_BACK", &message);
                    }
                }
                Standing::Hidden => drop(out.remove(&key)),
                Standing::Unknown => {}
            }
        }
        state.set_out(&registry, out.clone());
        let pause = if out.is_empty() { WHILE_WELL } else { WHILE_OUT };
        let mut status = client.watch();
        tokio::select! {
            () = sleep(pause) => {}
            _ = status.wait_for(|status| changed_since(status, seen.as_ref())) => {}
            Ok(()) = told.changed() => {}
        }
    }
}

/// Whether there was an apply or a new session since, or the end.
fn changed_since(status: &Status, seen: Option<&Status>) -> bool {
    let what = |status: &Status| (status.live, status.session.clone(), status.routes.clone());
    seen.is_none_or(|seen| what(seen) != what(status))
}

/// Waits until routes are in force and people are to see the application.
///
/// # Errors
/// The client has stopped.
async fn settled(client: &Client) -> Result<(), CallError> {
    let mut status = client.watch();
    let is_live = status.wait_for(|status| status.live && status.shown == Visibility::Live);
    is_live.await.map(drop).map_err(|_| CallError::Stopped)
}

/// Waits until the proxy's check of a new backend can have passed. Returns whether it has not.
pub(super) async fn is_out(client: &Client, key: &RouteKey, route: &Route) -> bool {
    const LEAST: Duration = Duration::from_secs(3);
    const POLL: Duration = Duration::from_millis(200);
    let limit = route.health.as_ref().map_or(LEAST, |check| check.timeout.get().max(LEAST));
    let well = async {
        while standing(client, key).await == Standing::Out && is_in_force(client, key) {
            sleep(POLL).await;
        }
    };
    let _ = timeout(limit, well).await;
    standing(client, key).await == Standing::Out
}

fn is_in_force(client: &Client, key: &RouteKey) -> bool {
    matches!(client.status().routes.get(key), Some(RouteStatus::Applied(_)))
}

/// Why the proxy sends no requests to a route's backend, and what helps.
pub(super) fn why(route: &Route, told: &Told) -> String {
    let error = told.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
    match (told.reason.as_deref(), &route.health) {
        (Some("ejected"), _) => {
            format!(
                "the proxy sends no requests there, because requests failed{error}; see the application's log"
            )
        }
        (Some("address_taken"), _) => {
            format!("the proxy sends no requests there, because another session came to its address{error}")
        }
        (_, Some(HealthCheck { path, .. })) => format!(
            "the proxy sends no requests there, because its check GET {path} does not pass{error}: HEALTH_PATH must be \
             answered with {} within HEALTH_TIMEOUT",
            if path.to_string() == "/" { "a status below 500" } else { "2xx or 3xx" }
        ),
        (_, None) => format!("the proxy sends no requests there{error}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use registry_client::protocol::{Domains, PathPrefix};

    fn route(path: Option<&str>) -> Route {
        let domains = Domains::new(["a.example".parse().unwrap()]).unwrap();
        let mut route = Route::new(domains, PathPrefix::root(), "http://10.2.2.7:8080".parse().unwrap());
        route.health = path.map(|path| HealthCheck {
            path: path.parse().unwrap(),
            interval: "30s".parse().unwrap(),
            timeout: "5s".parse().unwrap(),
        });
        route
    }

    #[test]
    fn the_reason_names_the_check_and_the_variable_that_changes_it() {
        let told = Told { reason: Some("check_failed".to_owned()), error: Some("status 404".to_owned()) };
        let text = why(&route(Some("/nope")), &told);
        assert!(
            text.contains("GET /nope does not pass (status 404)") && text.contains("HEALTH_PATH"),
            "{text}"
        );
        assert!(text.contains("2xx or 3xx"), "{text}");
        let text = why(&route(Some("/")), &Told::default());
        assert!(text.contains("a status below 500"), "{text}");
        let told = Told { reason: Some("ejected".to_owned()), error: None };
        assert!(why(&route(Some("/")), &told).contains("requests failed"));
        assert_eq!(why(&route(None), &Told::default()), "the proxy sends no requests there");
    }

    #[test]
    fn events_about_other_instances_tell_nothing() {
        let event = |healthy: bool| json!({"instance": "web-1", "healthy": healthy, "reason": "ejected", "error": "refused"});
        assert_eq!(Told::of(&event(false), "web-2"), None);
        let told = Told { reason: Some("ejected".to_owned()), error: Some("refused".to_owned()) };
        assert_eq!(Told::of(&event(false), "web-1"), Some(told));
        assert_eq!(Told::of(&event(true), "web-1"), Some(Told::default()));
    }
}
