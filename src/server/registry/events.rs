//! SUBSCRIBE and UNSUBSCRIBE, and the events that come of it (PROTOCOL sections 3 and 6).
//!
//! A subscription belongs to a session and to the connection on which it was asked for, and ends with either of
//! them. Here it is decided who is told what; a connection that does not keep up loses events, which is the
//! listener's business, and is told how many.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::protocol::{Domain, EventKind, Push, Refusal, Reply, ServiceName};

use super::Registry;
use super::io::{ConnId, Effect, Happening, SessionNo};
use super::lifecycle::MemberEvent;
use super::route::Route;
use super::session::Sessions;

/// Sessions that one connection may have subscriptions of. A connection has one session of its own; the others
/// are those whose ids it knows.
const SESSIONS_PER_CONNECTION: usize = 16;
/// Names that an event lists; how many there are it says besides.
const LISTED: usize = 32;
/// Characters of an error that an event repeats.
const LONGEST_ERROR: usize = 200;

/// Whom to tell: the connection, and on whose behalf.
type Subscriber = (ConnId, SessionNo);

/// Who wants to hear what.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    of: HashMap<ConnId, BTreeMap<SessionNo, BTreeSet<EventKind>>>,
    /// The same by session, so that it costs nothing to end one that has none.
    conns: HashMap<SessionNo, BTreeSet<ConnId>>,
    /// Those who hear of the backends of a service: their own.
    health: HashMap<ServiceName, BTreeSet<Subscriber>>,
    config: BTreeSet<Subscriber>,
    certificates: BTreeSet<Subscriber>,
    /// What has happened to backends and was not told yet.
    news: BTreeMap<News, BTreeSet<String>>,
}

/// What happened to a backend, whichever claims it is in.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct News {
    service: ServiceName,
    instance: String,
    backend: String,
    healthy: bool,
    reason: &'static str,
    error: String,
}

impl Subscriptions {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
            && self.conns.is_empty()
            && self.health.is_empty()
            && self.config.is_empty()
            && self.certificates.is_empty()
            && self.news.is_empty()
    }

    /// The subscriptions that a connection has for a session change. `kinds` are all that it has from now on.
    fn set(&mut self, who: Subscriber, service: &ServiceName, kinds: BTreeSet<EventKind>) {
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

    fn kinds(&self, (conn, session): Subscriber) -> BTreeSet<EventKind> {
        self.of.get(&conn).and_then(|of| of.get(&session)).cloned().unwrap_or_default()
    }

    fn sessions_of(&self, conn: ConnId) -> Vec<SessionNo> {
        self.of.get(&conn).into_iter().flat_map(BTreeMap::keys).copied().collect()
    }

    fn conns_of(&self, session: SessionNo) -> Vec<ConnId> {
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

impl Registry {
    /// SUBSCRIBE. Each type is subscribed to by itself, and `all` is one of them.
    pub(super) fn subscribe(
        &mut self,
        conn: ConnId,
        no: SessionNo,
        kind: EventKind,
    ) -> Result<Reply, Refusal> {
        let sessions = self.subscriptions.sessions_of(conn);
        if sessions.len() >= SESSIONS_PER_CONNECTION && !sessions.contains(&no) {
            return Err(Refusal::Other("too many subscriptions".to_owned()));
        }
        self.change_subscription((conn, no), |kinds| _ = kinds.insert(kind))?;
        Ok(Reply::SubscribeOk)
    }

    /// UNSUBSCRIBE. Not to be subscribed is no error.
    pub(super) fn unsubscribe(
        &mut self,
        conn: ConnId,
        no: SessionNo,
        kind: EventKind,
    ) -> Result<Reply, Refusal> {
        self.change_subscription((conn, no), |kinds| _ = kinds.remove(&kind))?;
        Ok(Reply::UnsubscribeOk)
    }

    /// What a connection subscribed to for a session is over.
    pub(super) fn drop_subscription(&mut self, conn: ConnId, no: SessionNo) {
        // Without a session there are no subscriptions of it either.
        let _ = self.change_subscription((conn, no), BTreeSet::clear);
    }

    /// The connection is gone.
    pub(super) fn drop_subscriptions_on(&mut self, conn: ConnId) {
        for no in self.subscriptions.sessions_of(conn) {
            self.drop_subscription(conn, no);
        }
    }

    /// The session has ended, or another has its place.
    pub(super) fn drop_subscriptions_of(&mut self, no: SessionNo) {
        for conn in self.subscriptions.conns_of(no) {
            self.drop_subscription(conn, no);
        }
    }

    fn change_subscription(
        &mut self,
        who: Subscriber,
        change: impl FnOnce(&mut BTreeSet<EventKind>),
    ) -> Result<(), Refusal> {
        let before = self.subscriptions.kinds(who);
        let mut kinds = before.clone();
        change(&mut kinds);
        if kinds != before {
            // What has happened just now is for those who were subscribed when it did.
            self.flush_pools(false);
            self.tell_health();
        }
        let session = self.sessions.get(who.1).ok_or(Refusal::SessionNotFound)?;
        if kinds != before {
            self.subscriptions.set(who, &session.registration.service, kinds);
        }
        Ok(())
    }

    /// `backend_health_changed`, to those whose service's backends these are.
    pub(super) fn tell_health(&mut self) {
        for (news, claims) in std::mem::take(&mut self.subscriptions.news) {
            let to = self.subscriptions.health.get(&news.service).into_iter().flatten();
            let to = to.map(|(conn, _)| *conn).collect();
            let mut body = json!({
                "service": news.service.as_str(),
                "instance": news.instance,
                "backend": news.backend,
                "healthy": news.healthy,
                "reason": news.reason,
                "claims": claims.iter().take(LISTED).collect::<Vec<_>>(),
                "claims_total": claims.len(),
            });
            if !news.error.is_empty() {
                body["error"] = news.error.into();
            }
            self.announce(to, EventKind::BackendHealthChanged, body);
        }
    }

    /// The domains of routes that changed, if anybody wants to hear of them.
    pub(super) fn config_news<'a>(&self, routes: impl Iterator<Item = &'a Arc<Route>>) -> BTreeSet<Domain> {
        if self.subscriptions.config.is_empty() {
            return BTreeSet::new();
        }
        routes.flat_map(|route| route.spec.domains.as_slice()).cloned().collect()
    }

    /// `global_config_changed`, to everybody but the session that applied it.
    pub(super) fn tell_config(&mut self, by: SessionNo, domains: &BTreeSet<Domain>) {
        let Some(session) = self.sessions.get(by).filter(|_| !domains.is_empty()) else { return };
        let body = json!({
            "service": session.registration.service.as_str(),
            "domains": domains.iter().map(Domain::as_str).take(LISTED).collect::<Vec<_>>(),
            "domains_total": domains.len(),
        });
        let others = self.subscriptions.config.iter().filter(|(_, no)| *no != by);
        self.announce(others.map(|(conn, _)| *conn).collect(), EventKind::GlobalConfigChanged, body);
    }

    /// `cert_renewed`: the proxy has a certificate for these names that it did not have before.
    pub(super) fn tell_certificate(&mut self, names: &[String], renewed: bool) {
        let to = self.subscriptions.certificates.iter().map(|(conn, _)| *conn).collect();
        let body = json!({
            "names": names.iter().take(LISTED).collect::<Vec<_>>(),
            "names_total": names.len(),
            "renewed": renewed,
        });
        self.announce(to, EventKind::CertRenewed, body);
    }

    /// Each connection once, however many of its sessions subscribed.
    fn announce(&mut self, mut to: BTreeSet<ConnId>, kind: EventKind, body: Value) {
        // One that is being closed has had its last line.
        to.retain(|conn| self.connections.contains_key(conn));
        if !to.is_empty() {
            self.push(Effect::Event(to.into_iter().collect(), Push::Event(kind, body)));
        }
    }
}

fn reason(event: MemberEvent) -> &'static str {
    match event {
        MemberEvent::FailedInGrace => "failed_in_grace",
        MemberEvent::AddressTaken => "address_taken",
        _ => "check_failed",
    }
}
