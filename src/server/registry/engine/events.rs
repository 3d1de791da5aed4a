//! Events, and whom they are sent to (PROTOCOL sections 3 and 6).

use super::Engine;
use super::subscriptions::Subscriber;
use crate::server::registry::api::Effect;
use crate::server::registry::model::{ConnId, Route, SessionNo};
use registry_client::protocol::{Domain, EventKind, Push, Refusal};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Names that an event lists; how many there are it says besides.
const LISTED: usize = 32;

impl Engine {
    /// The sessions of which a connection has subscriptions.
    pub(crate) fn subscribed_sessions(&self, conn: ConnId) -> Vec<SessionNo> {
        self.subscriptions.sessions_of(conn)
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

    pub(crate) fn change_subscription(
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
        to.retain(|conn| self.connections.contains(*conn));
        if !to.is_empty() {
            self.push(Effect::Event(to.into_iter().collect(), Push::Event(kind, body)));
        }
    }
}
