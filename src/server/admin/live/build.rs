//! From the state of the server at one moment to the model of the page (pure).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use crate::server::admin::snapshot::{Readiness, Snapshot};
use crate::server::cluster::{ClusterStatus, Role};
use crate::server::proxy::{CertificateInfo, ServiceLabel};
use crate::server::registry::{Overview, SessionOverview, Standing};
use crate::server::routing::{Claim, Member};

use super::history::History;
use super::journal::{Journal, Level};
use super::reason;
use super::view::{
    CertificateView, ClaimView, ClusterView, Condition, DrainView, EventView, MaintenanceView, MemberView,
    ServerView, ServiceView, SessionView, View,
};

/// How many services are shown.
const MAX_SERVICES: usize = 2000;
/// How many claims of a service, members of a claim and sessions of a service are shown.
const MAX_PARTS: usize = 50;
/// How many certificates are shown.
const MAX_CERTIFICATES: usize = 500;
/// A certificate with less time left is near its end.
const NEAR_END_DAYS: i64 = 14;

/// All that the model is made of.
pub(in crate::server::admin) struct Gathered {
    pub(in crate::server::admin) snapshot: Snapshot,
    pub(in crate::server::admin) overview: Overview,
    pub(in crate::server::admin) certificates: Vec<CertificateInfo>,
    /// The time of the snapshot for people.
    pub(in crate::server::admin) wall: SystemTime,
    pub(in crate::server::admin) readiness: Readiness,
    /// Whether ADMIN_TOKEN is set.
    pub(in crate::server::admin) actions: bool,
}

impl Gathered {
    pub(super) fn view(&self, history: &History, journal: &Journal) -> View {
        let mut services = self.services();
        for (name, service) in &mut services {
            let label = name.parse().ok().map(ServiceLabel::Service);
            service.traffic = label.map(|label| history.of(&label)).unwrap_or_default();
        }
        View {
            server: self.server(),
            traffic: history.all(),
            services_total: services.len(),
            services: services.into_values().take(MAX_SERVICES).collect(),
            certificates: self.certificates(),
            cluster: self.snapshot.cluster.as_ref().map(cluster),
            events: journal.entries().map(event).collect(),
        }
    }

    fn server(&self) -> ServerView {
        let snapshot = &self.snapshot;
        let readiness = match self.readiness {
            Readiness::Ready => "ready",
            Readiness::Loading => "loading",
            Readiness::Stopping => "stopping",
        };
        ServerView {
            version: concat!("registry-server ", env!("CARGO_PKG_VERSION")).to_owned(),
            started: moment(self.wall.checked_sub(snapshot.uptime).unwrap_or(self.wall)),
            readiness: readiness.to_owned(),
            connections: snapshot.connections,
            sessions: self.overview.sessions_total.max(snapshot.sessions),
            checks: snapshot.probes.watched,
            unclaimed_waiting: snapshot.unclaimed_waiting,
            actions: self.actions,
        }
    }

    fn services(&self) -> BTreeMap<String, ServiceView> {
        let mut services: BTreeMap<String, ServiceView> = BTreeMap::new();
        let entry = |services: &mut BTreeMap<String, ServiceView>, name: &str| {
            if !services.contains_key(name) {
                let service = ServiceView { name: name.to_owned(), ..ServiceView::default() };
                services.insert(name.to_owned(), service);
            }
        };
        for claim in &self.snapshot.claims {
            let name = claim.terms.service.as_str();
            entry(&mut services, name);
            if let Some(service) = services.get_mut(name) {
                self.add_claim(service, claim);
            }
        }
        for session in &self.overview.sessions {
            let name = session.service.as_str();
            entry(&mut services, name);
            if let Some(service) = services.get_mut(name).filter(|it| it.sessions.len() < MAX_PARTS) {
                service.sessions.push(self.session(session));
            }
        }
        services.values_mut().filter(|service| service.claims_total == 0).for_each(|service| {
            service.why = "it has no claim".to_owned();
        });
        services
    }

    fn add_claim(&self, service: &mut ServiceView, claim: &Claim) {
        let conditions: Vec<_> = claim.members.iter().map(|member| self.member_reason(member)).collect();
        let words: Vec<Condition> = conditions.iter().map(|(condition, _)| *condition).collect();
        let (condition, why) = reason::of_claim(claim, &words, self.snapshot.now);
        service.claims_total += 1;
        service.members += words.len();
        let serves = |word: &&Condition| !matches!(word, Condition::Down | Condition::Maintenance);
        service.usable += words.iter().filter(serves).count();
        let in_flight = claim.members.iter().map(|member| member.load.in_flight.load(Ordering::Relaxed));
        service.in_flight += in_flight.map(u64::from).sum::<u64>();
        if condition > service.condition {
            service.condition = condition;
            service.why = match why.as_str() {
                "" => String::new(),
                why => format!("{}{}: {why}", claim.domain, claim.path),
            };
        }
        if service.claims.len() < MAX_PARTS {
            let members = claim.members.iter().zip(conditions).take(MAX_PARTS);
            service.claims.push(ClaimView {
                domain: claim.domain.to_string(),
                path: claim.path.to_string(),
                condition,
                why,
                members: members.map(|(member, reason)| view_of(member, reason)).collect(),
                members_total: words.len(),
            });
        }
    }

    fn member_reason(&self, member: &Member) -> (Condition, String) {
        reason::of_member(member, self.overview.members.get(&member.id), self.snapshot.now)
    }

    fn session(&self, session: &SessionOverview) -> SessionView {
        let later = |left: Duration| moment(self.wall + Duration::from_secs(left.as_secs()));
        let (condition, why, grace) = match session.standing {
            Standing::Connected => (Condition::Up, "connected", None),
            Standing::Remote => (Condition::Up, "connected to another replica", None),
            Standing::Replaced => (Condition::Draining, "replaced by a newer session", None),
            Standing::Lost(left) => (Condition::Degraded, "lost", left),
        };
        let (condition, why) = match (condition, &session.maintenance, &session.drain) {
            (Condition::Up, Some(_), _) => (Condition::Maintenance, "in maintenance"),
            (Condition::Up, None, Some(_)) => (Condition::Draining, "draining"),
            (condition, _, _) => (condition, why),
        };
        SessionView {
            session: session.no.0,
            instance: session.instance.to_string(),
            peer: session.peer.to_string(),
            condition,
            why: why.to_owned(),
            since: moment(session.since),
            routes: session.routes,
            grace_ends: grace.map(later),
            drain: session.drain.map(|drain| DrainView {
                ends: moment(drain.since + drain.time),
                in_flight: drain.in_flight,
                upgraded: drain.upgraded,
            }),
            maintenance: session.maintenance.as_ref().map(|maintenance| MaintenanceView {
                since: moment(maintenance.since),
                routes: maintenance.routes,
                page: maintenance.page.clone(),
            }),
        }
    }

    fn certificates(&self) -> Vec<CertificateView> {
        let mut all: Vec<&CertificateInfo> = self.certificates.iter().collect();
        all.sort_by_key(|certificate| certificate.ends);
        let view = |certificate: &CertificateInfo| {
            let days = certificate.ends.map(|ends| days_between(self.wall, ends));
            let condition = match days {
                Some(i64::MIN..0) => Condition::Down,
                Some(0..NEAR_END_DAYS) => Condition::Degraded,
                Some(_) | None => Condition::Up,
            };
            let names = certificate.names.iter().take(MAX_PARTS).cloned().collect();
            CertificateView { names, ends: certificate.ends.map(moment), days, condition }
        };
        all.into_iter().take(MAX_CERTIFICATES).map(view).collect()
    }
}

fn view_of(member: &Member, (condition, why): (Condition, String)) -> MemberView {
    MemberView {
        instance: member.terms.instance.to_string(),
        backend: member.backend.to_string(),
        condition,
        why,
        in_flight: member.load.in_flight.load(Ordering::Relaxed),
        upgraded: member.load.upgraded.load(Ordering::Relaxed),
    }
}

fn cluster(status: &ClusterStatus) -> ClusterView {
    let (role, leader) = match &status.role {
        Role::Leaderless => ("leaderless", None),
        Role::Leading(_) => ("leader", Some(status.replica.clone())),
        Role::Following(leader) => ("follower", Some(leader.name.clone())),
    };
    ClusterView {
        replica: status.replica.clone(),
        role: role.to_owned(),
        leader,
        since: moment(status.since),
        replicas: status.replicas.clone(),
        behind: status.behind,
        trouble: status.trouble.clone(),
    }
}

fn event((at, entry): &(SystemTime, super::journal::Entry)) -> EventView {
    let level = match entry.level {
        Level::Info => "info",
        Level::Warning => "warning",
    };
    EventView {
        at: moment(*at),
        level: level.to_owned(),
        service: entry.service.clone(),
        text: entry.text.clone(),
    }
}

/// A time for people and programs, to the second.
fn moment(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).and_then(|at| at.round(jiff::Unit::Second));
    at.map(|at| at.to_string()).unwrap_or_default()
}

/// Whole days from one moment to another, negative when the other is earlier.
fn days_between(from: SystemTime, to: SystemTime) -> i64 {
    const DAY: u64 = 24 * 60 * 60;
    match to.duration_since(from) {
        Ok(left) => i64::try_from(left.as_secs() / DAY).unwrap_or(i64::MAX),
        Err(over) => -1 - i64::try_from(over.duration().as_secs() / DAY).unwrap_or(i64::MAX - 1),
    }
}
