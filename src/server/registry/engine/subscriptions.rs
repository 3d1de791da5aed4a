//! Who wants to hear of what.

use crate::server::registry::api::Happening;
use crate::server::registry::model::{ConnId, MemberEvent, SessionNo};
use crate::server::registry::session::Sessions;
use registry_client::protocol::{EventKind, ServiceName};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Characters of an error that an event repeats.
const LONGEST_ERROR: usize = 200;

/// Whom to tell: the connection, and on whose behalf.
pub(super) type Subscriber = (ConnId, SessionNo);

/// Who wants to hear what.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    of: HashMap<ConnId, BTreeMap<SessionNo, BTreeSet<EventKind>>>,
    /// The same by session, so that it costs nothing to end one that has none.
    conns: HashMap<SessionNo, BTreeSet<ConnId>>,
    /// Those who hear of the backends of a service: their own.
    pub(super) health: HashMap<ServiceName, BTreeSet<Subscriber>>,
    pub(super) config: BTreeSet<Subscriber>,
    pub(super) certificates: BTreeSet<Subscriber>,
    /// What has happened to backends and was not told yet.
    pub(super) news: BTreeMap<News, BTreeSet<String>>,
}

/// What happened to a backend, whichever claims it is in.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct News {
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
            && self.news.is_empty()
    }

    /// The subscriptions that a connection has for a session change. `kinds` are all that it has from now on.
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

    /// Takes note of what happened to members; [`Registry::tell_health`] tells all of one input at once.
    pub(super) fn note_health(&mut self, sessions: &Sessions, happening: &Happening) {
        if self.health.is_empty() {
            return;
        }
        let (which, healthy, reason, error) = match happening {
            Happening::MemberIn(which) => (which, true, "answered", None),
            Happening::MemberOut { which, event, error } => (which, false, reason(*event), error.as_ref()),
            Happening::Ejected { which, is_out } => {
                (which, !is_out, if *is_out { "ejected" } else { "answered" }, None)
            }
            _ => return,
        };
        let Some(session) = sessions.get(which.session) else { return };
        let service = session.registration.service.clone();
        if !self.health.contains_key(&service) {
            return;
        }
        let news = News {
            service,
            instance: which.instance.to_string(),
            backend: which.endpoint.backend.to_string(),
            healthy,
            reason,
            error: error.map(|error| error.chars().take(LONGEST_ERROR).collect()).unwrap_or_default(),
        };
        self.news.entry(news).or_default().insert(format!("{}{}", which.domain, which.path));
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
