//! METRICS_LISTEN: the daemon's state in the text format of Prometheus. Labels are the names of at most
//! [`MAX_REGISTRIES`] registries and a few fixed words, so no peer can make up new ones.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tracing::info;

use crate::prometheus::{CONTENT, Page};
use crate::sidecar::http::{self, Request, Response};
use crate::sidecar::state::{Conditions, DaemonState, RegistryCounters};
use registry_client::{Phase, RouteStatus, Status, Visibility};

use super::status::visibility_name;

/// The most sessions that are shown.
const MAX_REGISTRIES: usize = 100;

/// The values of one page.
struct Snapshot {
    uptime: Duration,
    conditions: Conditions,
    restarts: u64,
    /// The state of the node in etcd; `None`: none should be there.
    node: Option<&'static str>,
    node_losses: u64,
    /// By the registry's name.
    sessions: BTreeMap<String, (Status, RegistryCounters)>,
}

/// Serves the metrics for as long as it runs. An address in use is tried again, and warned about once.
pub(crate) async fn serve(address: Option<SocketAddr>, state: DaemonState) {
    let Some(address) = address else { return std::future::pending().await };
    info!("metrics on {address}");
    http::serve("metrics", &[address], Arc::new(move |request: &Request| respond(request, &state))).await;
}

fn respond(request: &Request, state: &DaemonState) -> Response {
    let response = match request.path.as_str() {
        "/metrics" => {
            Response { content_type: CONTENT, ..Response::text("200 OK", &render(&snapshot(state))) }
        }
        _ => Response::text("404 Not Found", "/metrics\n"),
    };
    Response { head_only: request.head_only, ..response }
}

fn snapshot(state: &DaemonState) -> Snapshot {
    let sessions = state.clients().into_iter().map(|client| {
        let status = client.status();
        let name = status.registry.name.to_string();
        let counters = state.registry_counters(&name);
        (name, (status, counters))
    });
    Snapshot {
        uptime: state.uptime(),
        conditions: state.conditions(),
        restarts: state.restarts(),
        node: state.node().map(|node| node.state),
        node_losses: state.node_losses(),
        sessions: sessions.take(MAX_REGISTRIES).collect(),
    }
}

fn render(snapshot: &Snapshot) -> String {
    let mut page = Page::default();
    page.family("registry_sidecar_info", "gauge", "Which version runs.");
    page.line("registry_sidecar_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.single("registry_sidecar_uptime_seconds", "gauge", "Since the start.", snapshot.uptime.as_secs());
    let ready = u8::from(snapshot.conditions.ready);
    page.single("registry_sidecar_ready", "gauge", "Whether the application is ready.", ready);
    let help = "Whether only the loopback interface is left.";
    page.single("registry_sidecar_stranded", "gauge", help, u8::from(snapshot.conditions.stranded));
    page.family("registry_sidecar_wanted", "gauge", "What people are to see: 1 for the state that it is.");
    for visibility in [Visibility::Absent, Visibility::Maintenance, Visibility::Live, Visibility::Draining] {
        let is = u8::from(snapshot.conditions.visibility() == visibility);
        page.line("registry_sidecar_wanted", &[("state", visibility_name(visibility))], is);
    }
    let restarts = "How often the wrapped command was started again.";
    page.single("registry_sidecar_command_restarts_total", "counter", restarts, snapshot.restarts);
    if let Some(node) = snapshot.node {
        let help = "Whether the node is in etcd.";
        page.single("registry_sidecar_node_registered", "gauge", help, u8::from(node == "registered"));
        let help = "How often the node was lost: its lease ended, or its key was deleted.";
        page.single("registry_sidecar_node_losses_total", "counter", help, snapshot.node_losses);
    }
    sessions(&mut page, &snapshot.sessions);
    page.text()
}

fn sessions(page: &mut Page, sessions: &BTreeMap<String, (Status, RegistryCounters)>) {
    let mut each = |name: &str, kind, help, value: &dyn Fn(&Status, &RegistryCounters) -> Option<u64>| {
        page.family(name, kind, help);
        for (registry, (status, counters)) in sessions {
            if let Some(value) = value(status, counters) {
                page.line(name, &[("registry", registry)], value);
            }
        }
    };
    each("registry_sidecar_session_up", "gauge", "Whether there is a session with it.", &|status, _| {
        Some(status.bound.into())
    });
    let help = "How often a session was got again after the first.";
    each("registry_sidecar_reconnects_total", "counter", help, &|_, counters| Some(counters.reconnects));
    each("registry_sidecar_routes_wanted", "gauge", "Routes that should be in force.", &|status, _| {
        Some(status.routes.len() as u64)
    });
    each(
        "registry_sidecar_routes_live",
        "gauge",
        "Routes in force in a session that is up.",
        &|status, _| {
            let live = status.routes.values().filter(|route| matches!(route, RouteStatus::Applied(_)));
            Some(if status.bound { live.count() as u64 } else { 0 })
        },
    );
    let help = "Unix time of the last apply that succeeded.";
    each("registry_sidecar_last_live_timestamp_seconds", "gauge", help, &|_, counters| {
        Some(counters.last_live?.duration_since(UNIX_EPOCH).ok()?.as_secs())
    });
    let name = "registry_sidecar_session_phase";
    page.family(name, "gauge", "What the session is about: 1 for the phase that it is in.");
    for (registry, (status, _)) in sessions {
        for (phase, word) in PHASES {
            let is = u8::from(status.phase == phase);
            page.line(name, &[("registry", registry), ("phase", word)], is);
        }
    }
}

const PHASES: [(Phase, &str); 9] = [
    (Phase::Disconnected, "disconnected"),
    (Phase::Connecting, "connecting"),
    (Phase::Registering, "registering"),
    (Phase::Resuming, "resuming"),
    (Phase::Syncing, "syncing"),
    (Phase::Live, "live"),
    (Phase::Dormant, "dormant"),
    (Phase::Leaving, "leaving"),
    (Phase::Stopped, "stopped"),
];

#[cfg(test)]
mod tests;
