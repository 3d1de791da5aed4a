//! Renders `/status`: the snapshot as JSON, with claims and their members.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::server::cluster::{ClusterStatus, Role};
use crate::server::proxy::{RequestCounts, ServiceLabel};
use crate::server::routing::{Claim, Member};

use super::snapshot::Snapshot;

/// How many claims are listed.
const MAX_CLAIMS: usize = 1000;
/// How many members of each claim are listed.
const MAX_MEMBERS: usize = 100;

pub(super) fn render(snapshot: &Snapshot) -> String {
    let claims: Vec<_> =
        snapshot.claims.iter().take(MAX_CLAIMS).map(|found| claim(found, snapshot)).collect();
    let mut status = json!({
        "server": concat!("registry-server/", env!("CARGO_PKG_VERSION")),
        "uptime_seconds": snapshot.uptime.as_secs(),
        "ready": snapshot.is_ready,
        "sessions": snapshot.sessions,
        "connections": snapshot.connections,
        "buffered_bytes": snapshot.buffered,
        "clients_cut_off": snapshot.cut_off,
        "probes": {
            "watched": snapshot.probes.watched,
            "passed": snapshot.probes.passed,
            "failed": snapshot.probes.failed,
        },
        "unclaimed_waiting": snapshot.unclaimed_waiting,
        "access_log_dropped": snapshot.dropped_lines,
        "requests": requests(snapshot),
        "claims_total": snapshot.claims.len(),
        "claims": claims,
    });
    if let (Some(cluster), Some(fields)) = (&snapshot.cluster, status.as_object_mut()) {
        fields.insert("cluster".to_owned(), self::cluster(cluster));
    }
    format!("{status:#}\n")
}

fn cluster(cluster: &ClusterStatus) -> Value {
    let (role, leader, term) = match &cluster.role {
        Role::Leaderless => ("leaderless", None, None),
        Role::Leading(term) => ("leader", Some(&cluster.replica), Some(term.0)),
        Role::Following(leader) => ("follower", Some(&leader.name), Some(leader.term.0)),
    };
    json!({
        "replica": cluster.replica,
        "role": role,
        "leader": leader,
        "term": term,
        "since": jiff::Timestamp::try_from(cluster.since).map(|since| since.to_string()).ok(),
        "loaded": cluster.is_loaded,
        "revision": cluster.revision,
        "behind": cluster.behind,
        "trouble": cluster.trouble,
        "replicas": cluster.replicas,
    })
}

fn claim(claim: &Claim, snapshot: &Snapshot) -> Value {
    let members: Vec<_> =
        claim.members.iter().take(MAX_MEMBERS).map(|found| member(found, snapshot)).collect();
    json!({
        "domain": claim.domain.to_string(),
        "path": claim.path.to_string(),
        "service": claim.terms.service.to_string(),
        "priority": claim.terms.priority,
        "members_total": claim.members.len(),
        "members": members,
    })
}

fn member(member: &Member, snapshot: &Snapshot) -> Value {
    json!({
        "instance": member.terms.instance.to_string(),
        "backend": member.backend.to_string(),
        "usable": member.usable,
        "ejected": member.load.is_ejected(snapshot.now),
        "in_flight": member.load.in_flight.load(Ordering::Relaxed),
        "upgraded": member.load.upgraded.load(Ordering::Relaxed),
    })
}

fn requests(snapshot: &Snapshot) -> Value {
    let mut all = serde_json::Map::new();
    for (whose, requests) in &snapshot.requests {
        let name = match whose {
            ServiceLabel::Service(name) => name.to_string(),
            ServiceLabel::Others => "(others)".to_owned(),
            ServiceLabel::Unclaimed => String::new(),
        };
        let classes = RequestCounts::CLASSES.iter().zip(requests.classes).filter(|(_, count)| *count > 0);
        let classes = classes.map(|(class, count)| ((*class).to_owned(), count.into()));
        all.insert(name, Value::Object(classes.collect()));
    }
    Value::Object(all)
}
