//! Renders `/metrics` in the text format of Prometheus. Labels are services and fixed words, never a host, path or
//! address, because clients could make up any number of them.

pub(super) use crate::prometheus::CONTENT;
use crate::prometheus::Page;
use crate::server::cluster::{ClusterStatus, Role};
use crate::server::proxy::{RequestCounts, ServiceLabel};

use super::snapshot::{Service, Snapshot};

/// How many services are shown, in the order of their names.
const MAX_SERVICES: usize = 500;

pub(super) fn render(snapshot: &Snapshot) -> String {
    let mut page = Page::default();
    let version = env!("CARGO_PKG_VERSION");
    page.family("registry_server_info", "gauge", "Which version runs.");
    page.line("registry_server_info", &[("version", version)], 1);
    page.single("registry_server_uptime_seconds", "gauge", "Since the start.", snapshot.uptime.as_secs_f64());
    page.single("registry_sessions", "gauge", "Sessions, lost ones in grace included.", snapshot.sessions);
    page.single("registry_probes", "gauge", "Backends that are probed.", snapshot.probes.watched);
    page.family("registry_probe_results_total", "counter", "What came of probes.");
    page.line("registry_probe_results_total", &[("result", "passed")], snapshot.probes.passed);
    page.line("registry_probe_results_total", &[("result", "failed")], snapshot.probes.failed);
    clients(&mut page, snapshot);
    let waiting = snapshot.unclaimed_waiting;
    let help = "Requests that wait for somebody to claim them, after a start without state.";
    page.single("proxy_unclaimed_requests_waiting", "gauge", help, waiting);
    let lost = snapshot.dropped_lines;
    page.single("proxy_access_log_dropped_total", "counter", "Lines of the access log that were lost.", lost);
    if let Some(cluster) = &snapshot.cluster {
        self::cluster(&mut page, cluster);
    }
    members(&mut page, snapshot);
    requests(&mut page, snapshot);
    page.text()
}

fn clients(page: &mut Page, snapshot: &Snapshot) {
    page.single("proxy_connections", "gauge", "Connections of clients.", snapshot.connections);
    let help = "Bytes that HTTP/2 clients have not taken, and what compresses responses.";
    page.single("proxy_buffered_bytes", "gauge", help, snapshot.buffered);
    let help = "HTTP/2 clients that were cut off for MAX_BUFFERED.";
    page.single("proxy_clients_cut_off_total", "counter", help, snapshot.cut_off);
}

fn cluster(page: &mut Page, cluster: &ClusterStatus) {
    page.family("registry_cluster_role", "gauge", "1 for what this server is in its cluster.");
    let role = match cluster.role {
        Role::Leaderless => "leaderless",
        Role::Leading(_) => "leader",
        Role::Following(_) => "follower",
    };
    for known in ["leader", "follower", "leaderless"] {
        page.line("registry_cluster_role", &[("role", known)], u8::from(role == known));
    }
    let since = cluster.since.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    page.single("registry_cluster_role_since_timestamp_seconds", "gauge", "Since when.", since);
    page.single(
        "registry_cluster_revision",
        "gauge",
        "The revision of etcd that it knows.",
        cluster.revision,
    );
    page.single(
        "registry_cluster_behind",
        "gauge",
        "How many revisions its leader is ahead.",
        cluster.behind,
    );
    page.single("registry_cluster_replicas", "gauge", "Servers that are present.", cluster.replicas.len());
    let in_trouble = u8::from(cluster.trouble.is_some());
    page.single("registry_cluster_trouble", "gauge", "1 while etcd cannot be read.", in_trouble);
}

fn members(page: &mut Page, snapshot: &Snapshot) {
    page.family("proxy_members", "gauge", "Members of a service.");
    for (name, service) in listed_services(snapshot) {
        page.line("proxy_members", &[("service", name), ("state", "usable")], service.usable);
        page.line("proxy_members", &[("service", name), ("state", "unusable")], service.unusable);
    }
    page.family("proxy_requests_in_flight", "gauge", "Requests whose response is not over.");
    for (name, service) in listed_services(snapshot) {
        page.line("proxy_requests_in_flight", &[("service", name)], service.in_flight);
    }
    page.family("proxy_upgraded_connections", "gauge", "Websockets and the like.");
    for (name, service) in listed_services(snapshot) {
        page.line("proxy_upgraded_connections", &[("service", name)], service.upgraded);
    }
}

fn listed_services(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &Service)> {
    snapshot.services.iter().map(|(name, service)| (name.as_str(), service)).take(MAX_SERVICES)
}

fn requests(page: &mut Page, snapshot: &Snapshot) {
    page.family("proxy_requests_total", "counter", "Requests that are over, by class of status.");
    for (label, requests) in &snapshot.requests {
        for (class, count) in RequestCounts::CLASSES.iter().zip(requests.classes) {
            if count > 0 {
                page.line(
                    "proxy_requests_total",
                    &[("service", label_value(label)), ("class", class)],
                    count,
                );
            }
        }
    }
    let name = "proxy_request_duration_seconds";
    page.family(name, "histogram", "From a request's head to the end of its response.");
    for (label, requests) in snapshot.requests.iter().filter(|(_, requests)| requests.count() > 0) {
        histogram(page, name, label_value(label), requests);
    }
}

fn histogram(page: &mut Page, name: &str, service: &str, requests: &RequestCounts) {
    let bucket = format!("{name}_bucket");
    let ends = RequestCounts::bounds().map(|end| end.to_string()).chain(["+Inf".to_owned()]);
    let mut so_far = 0;
    for (end, count) in ends.zip(requests.buckets) {
        so_far += count;
        page.line(&bucket, &[("service", service), ("le", &end)], so_far);
    }
    page.line(&format!("{name}_sum"), &[("service", service)], requests.total.as_secs_f64());
    page.line(&format!("{name}_count"), &[("service", service)], so_far);
}

/// The value of the label `service`. No service can have the name `(others)`.
fn label_value(label: &ServiceLabel) -> &str {
    match label {
        ServiceLabel::Service(name) => name.as_str(),
        ServiceLabel::Others => "(others)",
        ServiceLabel::Unclaimed => "",
    }
}
