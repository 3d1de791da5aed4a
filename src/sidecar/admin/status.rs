//! Everything about the daemon as JSON: what `status` and `routes` print.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::sidecar::maintenance::Maintenance;
use crate::sidecar::state::{CommandStatus, DaemonState, NodeStatus};
use registry_client::{Client, Visibility};

pub(super) fn status(state: &DaemonState, maintenance: &Maintenance) -> Value {
    let conditions = state.conditions();
    let sessions: Vec<Value> = state.clients().iter().map(|client| session_status(client, state)).collect();
    let progress = state.progress();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime_seconds": state.uptime().as_secs(),
        "ready": conditions.ready,
        "places": state.places().into_iter().map(|(name, place)| {
            json!({"place": name, "ready": place.ready, "problem": place.problem})
        }).collect::<Vec<_>>(),
        "stranded": conditions.stranded,
        "wanted": visibility_name(conditions.visibility()),
        "reason": conditions.reason(),
        "address_problem": state.address_problem(),
        "maintenance": conditions.maintenance,
        "windows": maintenance.windows().as_json(SystemTime::now()),
        "drained": conditions.drained,
        "progress": {"message": progress.message, "percent": progress.percent},
        "command": state.command().map(command_status),
        "sessions": sessions,
        "node": state.node().map(node_status),
    })
}

fn command_status(command: CommandStatus) -> Value {
    json!({
        "doing": command.doing.unwrap_or_else(|| "the command runs".to_owned()),
        "updating": command.updating,
        "last_update": command.last_update,
    })
}

fn node_status(node: NodeStatus) -> Value {
    json!({"key": node.key, "state": node.state, "trouble": node.trouble})
}

fn session_status(client: &Client, state: &DaemonState) -> Value {
    let status = client.status();
    let out = state.out_at(&status.registry.name);
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
                "out": out.get(key),
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
        "shown": visibility_name(status.shown),
        "kind": if status.ours { "registry-server" } else { "reference" },
        "revision": status.revision,
        "routes": routes,
    })
}

pub(super) fn visibility_name(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Absent => "absent",
        Visibility::Maintenance => "maintenance",
        Visibility::Live => "live",
        Visibility::Draining => "draining",
    }
}
