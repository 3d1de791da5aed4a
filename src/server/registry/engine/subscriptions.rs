//! Who has subscribed to which events (PROTOCOL section 3).
//!
//! A subscription belongs to a session and to the connection on which it was asked for, and ends with either. A
//! connection that does not keep up loses events; the listener counts them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use registry_client::protocol::{EventKind, ServiceName};

use crate::server::registry::api::LogEvent;
use crate::server::registry::model::{ConnId, MemberEvent, SessionNo};
use crate::server::registry::session::SessionIndex;

/// How many characters of an error an event repeats.
const LONGEST_ERROR: usize = 200;

/// A connection, and the session on whose behalf it has subscribed.
pub(super) type Subscriber = (ConnId, SessionNo);

/// Every subscription.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    of: HashMap<ConnId, BTreeMap<SessionNo, BTreeSet<EventKind>>>,
    /// The connections with subscriptions for a session, so that ending a session without any costs nothing.
    conns: HashMap<SessionNo, BTreeSet<ConnId>>,
    /// Who is told about the backends of a service: sessions of that service.
    pub(super) health: HashMap<ServiceName, BTreeSet<Subscriber>>,
    pub(super) config: BTreeSet<Subscriber>,
    pub(super) certificates: BTreeSet<Subscriber>,
    /// The changes of backends that have not been sent, each with the claims that it is about.
    pub(super) health_changes: BTreeMap<HealthChange, BTreeSet<String>>,
}

/// A change of a backend, whichever claims it is in.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HealthChange {
    pub(super) service: ServiceName,
    pub(super) instance: String,
    pub(super) backend: String,
    pub(super) healthy: bool,
    pub(super) reason: &'static str,
    pub(super) error: String,
}

impl Subscriptions {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.of.is_empty()
            && self.conns.is_empty()
            && self.health.is_empty()
            && self.config.is_empty()
            && self.certificates.is_empty()
            && self.health_changes.is_empty()
    }

    /// Sets the subscriptions of a connection for a session.
    pub(super) fn set(&mut self, who: Subscriber, service: &ServiceName, kinds: BTreeSet<EventKind>) {
        let (conn, session) = who;
        let wants = |kind| kinds.contains(&kind) || kinds.contains(&EventKind::All);
        put(&mut self.config, who, wants(EventKind::GlobalConfigChanged));
        put(&mut self.certificates, who, wants(EventKind::CertRenewed));
        let health = self.health.entry(service.clone()).or_default();
        put(health, who, wants(EventKind::BackendHealthChanged));
        if health.is_empty() {
            self.health.remove(service);
        }
        let (of, conns) = (self.of.entry(conn).or_default(), self.conns.entry(session).or_default());
        put(conns, conn, !kinds.is_empty());
        if kinds.is_empty() {
            drop(of.remove(&session))
        } else {
            drop(of.insert(session, kinds))
        }
        if of.is_empty() {
            self.of.remove(&conn);
        }
        if conns.is_empty() {
            self.conns.remove(&session);
        }
    }

    /// Notes changes of members. [`Engine::tell_health`](super::Engine::tell_health) sends those of one input together.
    pub(super) fn note_health(&mut self, sessions: &SessionIndex, event: &LogEvent) {
        if self.health.is_empty() {
            return;
        }
        let (which, healthy, reason, error) = match event {
            LogEvent::MemberIn(which) => (which, true, "answered", None),
            LogEvent::MemberOut { which, event, error } => (which, false, reason(*event), error.as_ref()),
            LogEvent::Ejected { which, is_out } => {
                (which, !is_out, if *is_out { "ejected" } else { "answered" }, None)
            }
            _ => return,
        };
        let Some(session) = sessions.get(which.session) else { return };
        let service = session.registration.service.clone();
        if !self.health.contains_key(&service) {
            return;
        }
        let change = HealthChange {
            service,
            instance: which.instance.to_string(),
            backend: which.endpoint.backend.to_string(),
            healthy,
            reason,
            error: error.map(|error| error.chars().take(LONGEST_ERROR).collect()).unwrap_or_default(),
        };
        self.health_changes.entry(change).or_default().insert(format!("{}{}", which.domain, which.path));
    }

    pub(super) fn kinds(&self, (conn, session): Subscriber) -> BTreeSet<EventKind> {
        self.of.get(&conn).and_then(|of| of.get(&session)).cloned().unwrap_or_default()
    }

    pub(super) fn sessions_of(&self, conn: ConnId) -> Vec<SessionNo> {
        self.of.get(&conn).into_iter().flat_map(BTreeMap::keys).copied().collect()
    }

    pub(super) fn conns_of(&self, session: SessionNo) -> Vec<ConnId> {
        self.conns.get(&session).into_iter().flatten().copied().collect()
    }
}

fn put<T: Ord>(set: &mut BTreeSet<T>, item: T, is_in: bool) {
    if is_in {
        set.insert(item);
    } else {
        set.remove(&item);
    }
}

fn reason(event: MemberEvent) -> &'static str {
    match event {
        MemberEvent::FailedInGrace => "failed_in_grace",
        MemberEvent::AddressTaken => "address_taken",
        _ => "check_failed",
    }
}
