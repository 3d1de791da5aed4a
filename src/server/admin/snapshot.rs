//! The state of the server at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::server::cluster::{ClusterStatus, StatusReader};
use crate::server::live_table::LiveTable;
use crate::server::proxy::{
    AccessLog, ProbeCounts, ProberHandle, ProxyLoad, RequestCounts, RequestMetrics, ServiceLabel,
};
use crate::server::routing::Claim;

/// The parts of the server that a snapshot reads.
#[derive(Debug)]
pub struct Sources {
    /// The routing table.
    pub table: Arc<LiveTable>,
    /// The proxy's requests.
    pub metrics: Arc<RequestMetrics>,
    /// The proxy's client connections.
    pub load: ProxyLoad,
    /// The probes and their results.
    pub prober: ProberHandle,
    /// The number of sessions in the registry.
    pub sessions: watch::Receiver<usize>,
    /// The access log, if there is one.
    pub access_log: Option<AccessLog>,
    /// Whether the server stops.
    pub stopping: Arc<AtomicBool>,
    /// ADMIN_HOSTS: the names that may be asked for.
    pub hosts: Vec<String>,
    /// The cluster, if the server is one of several.
    pub cluster: Option<StatusReader>,
    /// When the server started.
    pub started: Instant,
}

pub(super) struct Snapshot {
    pub(super) uptime: Duration,
    pub(super) is_ready: bool,
    pub(super) cluster: Option<ClusterStatus>,
    pub(super) connections: usize,
    pub(super) buffered: usize,
    pub(super) cut_off: u64,
    pub(super) sessions: usize,
    pub(super) probes: ProbeCounts,
    /// Requests that wait for somebody to claim them.
    pub(super) unclaimed_waiting: usize,
    pub(super) dropped_lines: u64,
    pub(super) requests: BTreeMap<ServiceLabel, RequestCounts>,
    pub(super) services: BTreeMap<String, Service>,
    pub(super) claims: Vec<Arc<Claim>>,
    pub(super) now: Instant,
}

/// The members of a service. A member of several claims counts once.
#[derive(Debug, Default)]
pub(super) struct Service {
    pub(super) usable: usize,
    pub(super) unusable: usize,
    pub(super) in_flight: u64,
    pub(super) upgraded: u64,
}

/// Whether the server takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It is one of several, and has not read their table yet.
    Loading,
    Ready,
    Stopping,
}

impl Sources {
    pub(super) fn readiness(&self) -> Readiness {
        if self.stopping.load(Ordering::Relaxed) {
            return Readiness::Stopping;
        }
        match &self.cluster {
            Some(cluster) if !cluster.is_loaded() => Readiness::Loading,
            _ => Readiness::Ready,
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let claims: Vec<_> = self.table.load().claims().cloned().collect();
        Snapshot {
            uptime: self.started.elapsed(),
            is_ready: self.readiness() == Readiness::Ready,
            cluster: self.cluster.as_ref().map(StatusReader::read),
            connections: self.load.connections(),
            buffered: self.load.buffered(),
            cut_off: self.load.cut_off(),
            sessions: *self.sessions.borrow(),
            probes: self.prober.counts(),
            unclaimed_waiting: self.table.unclaimed_waiting(),
            dropped_lines: self.access_log.as_ref().map_or(0, AccessLog::dropped),
            requests: self.metrics.read(),
            services: services(&claims, now),
            claims,
            now,
        }
    }
}

fn services(claims: &[Arc<Claim>], now: Instant) -> BTreeMap<String, Service> {
    let mut services: BTreeMap<String, Service> = BTreeMap::new();
    let mut seen = std::collections::HashSet::new();
    for claim in claims {
        let service = services.entry(claim.terms.service.to_string()).or_default();
        for member in claim.members.iter().filter(|member| seen.insert(Arc::as_ptr(&member.endpoint))) {
            match member.usable && !member.load.is_ejected(now) {
                true => service.usable += 1,
                false => service.unusable += 1,
            }
            service.in_flight += u64::from(member.load.in_flight.load(Ordering::Relaxed));
            service.upgraded += u64::from(member.load.upgraded.load(Ordering::Relaxed));
        }
    }
    services
}
