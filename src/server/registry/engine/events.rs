//! Events, and whom they are sent to (PROTOCOL sections 3 and 6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use registry_client::protocol::{Domain, EventKind, Push, Refusal};
use serde_json::{Value, json};

use crate::server::registry::api::Effect;
use crate::server::registry::model::{ConnId, Route, SessionNo};

use super::Engine;
use super::subscriptions::Subscriber;

/// How many names an event lists. It also says how many there are.
const LISTED: usize = 32;

impl Engine {
    /// The sessions of which a connection has subscriptions.
    pub(crate) fn subscribed_sessions(&self, conn: ConnId) -> Vec<SessionNo> {
        self.subscriptions.sessions_of(conn)
    }

    /// Ends the subscriptions of a connection for a session.
    pub(super) fn drop_subscription(&mut self, conn: ConnId, no: SessionNo) {
        // A session that does not exist has no subscriptions.
        let _ = self.change_subscription((conn, no), BTreeSet::clear);
    }

    /// Ends all subscriptions of a connection.
    pub(super) fn drop_subscriptions_on(&mut self, conn: ConnId) {
        for no in self.subscriptions.sessions_of(conn) {
            self.drop_subscription(conn, no);
        }
    }

    /// Ends all subscriptions for a session.
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
            // What has happened up to now is for those who are subscribed up to now.
            self.flush_membership(false);
            self.tell_health();
        }
        let session = self.sessions.get(who.1).ok_or(Refusal::SessionNotFound)?;
        if kinds != before {
            self.subscriptions.set(who, &session.registration.service, kinds);
        }
        Ok(())
    }

    /// Sends `backend_health_changed` to the subscribers of the backends' services.
    pub(super) fn tell_health(&mut self) {
        for (change, claims) in std::mem::take(&mut self.subscriptions.health_changes) {
            let to = self.subscriptions.health.get(&change.service).into_iter().flatten();
            let to = to.map(|(conn, _)| *conn).collect();
            let mut body = json!({
                "service": change.service.as_str(),
                "instance": change.instance,
                "backend": change.backend,
                "healthy": change.healthy,
                "reason": change.reason,
                "claims": claims.iter().take(LISTED).collect::<Vec<_>>(),
                "claims_total": claims.len(),
            });
            if !change.error.is_empty() {
                body["error"] = change.error.into();
            }
            self.announce(to, EventKind::BackendHealthChanged, body);
        }
    }

    /// The domains of routes that changed, if anybody has subscribed to them.
    pub(super) fn changed_domains<'a>(
        &self,
        routes: impl Iterator<Item = &'a Arc<Route>>,
    ) -> BTreeSet<Domain> {
        if self.subscriptions.config.is_empty() {
            return BTreeSet::new();
        }
        routes.flat_map(|route| route.spec.domains.as_slice()).cloned().collect()
    }

    /// Sends `global_config_changed` to all subscribers but the session that applied; where services learn nothing of each
    /// other, to those of its service.
    pub(super) fn tell_config(&mut self, by: SessionNo, domains: &BTreeSet<Domain>) {
        let Some(session) = self.sessions.get(by).filter(|_| !domains.is_empty()) else { return };
        let body = json!({
            "service": session.registration.service.as_str(),
            "domains": domains.iter().map(Domain::as_str).take(LISTED).collect::<Vec<_>>(),
            "domains_total": domains.len(),
        });
        let (service, hides) = (&session.registration.service, self.hides_others());
        let is_of_service = |no: SessionNo| {
            self.sessions.get(no).is_some_and(|session| session.registration.service == *service)
        };
        let others = self.subscriptions.config.iter().filter(|(_, no)| *no != by);
        let others = others.filter(|(_, no)| !hides || is_of_service(*no));
        self.announce(others.map(|(conn, _)| *conn).collect(), EventKind::GlobalConfigChanged, body);
    }

    /// Sends `cert_renewed`: the proxy has a certificate for these names that it did not have before.
    pub(super) fn tell_certificate(&mut self, names: &[String], renewed: bool) {
        // Connections that may see the same names are told together.
        let mut to: BTreeMap<Vec<&String>, BTreeSet<ConnId>> = BTreeMap::new();
        for (conn, no) in &self.subscriptions.certificates {
            let seen: Vec<&String> = names.iter().filter(|name| self.may_see(*no, name)).collect();
            if !seen.is_empty() || names.is_empty() {
                to.entry(seen).or_default().insert(*conn);
            }
        }
        for (names, to) in to {
            let body = json!({
                "names": names.iter().take(LISTED).collect::<Vec<_>>(),
                "names_total": names.len(),
                "renewed": renewed,
            });
            self.announce(to, EventKind::CertRenewed, body);
        }
    }

    /// Whether a session may learn that there is a certificate for a name: its service may claim it, or see others'.
    fn may_see(&self, no: SessionNo, name: &str) -> bool {
        let Some(policy) = self.config.policy.as_ref().filter(|_| self.hides_others()) else { return true };
        let service = self.sessions.get(no).map(|session| &session.registration.service);
        service.is_some_and(|service| name.parse().is_ok_and(|domain| policy.permits(service, &domain)))
    }

    /// Sends an event to each connection once, however many of its sessions have subscribed.
    fn announce(&mut self, mut to: BTreeSet<ConnId>, kind: EventKind, body: Value) {
        // A connection that is being closed has had its last line.
        to.retain(|conn| self.connections.contains(*conn));
        if !to.is_empty() {
            self.push(Effect::Event(to.into_iter().collect(), Push::Event(kind, body)));
        }
    }
}
