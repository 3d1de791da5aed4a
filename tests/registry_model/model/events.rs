//! Who is told what without having asked just now (PROTOCOL section 6).

use serde_json::{Value, json};

use super::config::Config;
use super::serving::Member;
use super::staging::changed;
use super::{Model, Out};

/// A subscription: the connection that asked, for which session, and what it wants to hear of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Subscription {
    pub(crate) conn: usize,
    pub(crate) session: usize,
    pub(crate) kind: String,
}

/// What happened to a backend, and in which claim.
#[derive(Debug, Clone)]
pub(crate) struct News {
    service: String,
    body: Value,
    claim: String,
}

/// A connection has subscriptions of so many sessions.
const MOST_SESSIONS: usize = 16;

impl Model {
    pub(super) fn subscribe(&mut self, conn: usize, session: usize, kind: String) {
        let mut sessions: Vec<usize> =
            self.subscriptions.iter().filter(|s| s.conn == conn).map(|s| s.session).collect();
        sessions.sort_unstable();
        sessions.dedup();
        if sessions.len() >= MOST_SESSIONS && !sessions.contains(&session) {
            return self.error(conn, "too many subscriptions");
        }
        let new = Subscription { conn, session, kind };
        if !self.subscriptions.contains(&new) {
            // What has happened already is for those who subscribed before.
            self.tell_news();
            self.subscriptions.push(new);
        }
        self.exactly(conn, "SUBSCRIBE_OK");
    }

    pub(super) fn unsubscribe(&mut self, conn: usize, session: usize, kind: String) {
        let old = Subscription { conn, session, kind };
        self.end_subscriptions(|other| *other == old);
        self.exactly(conn, "UNSUBSCRIBE_OK");
    }

    /// They still hear of what has happened until now.
    pub(super) fn end_subscriptions(&mut self, which: impl Fn(&Subscription) -> bool) {
        if self.subscriptions.iter().any(&which) {
            self.tell_news();
            self.subscriptions.retain(|subscription| !which(subscription));
        }
    }

    /// A backend gets requests, or no longer.
    pub(super) fn note(&mut self, member: &Member, healthy: bool, reason: &str, error: Option<&str>) {
        let session = &self.sessions[member.session];
        let mut body = json!({
            "service": session.service,
            "instance": session.instance,
            "backend": member.backend,
            "healthy": healthy,
            "reason": reason,
        });
        if let Some(error) = error {
            body["error"] = error.into();
        }
        let claim = format!("{}{}", member.domain, member.path);
        self.news.push(News { service: session.service.clone(), body, claim });
    }

    /// What happened to one backend at one moment is one event.
    pub(super) fn tell_news(&mut self) {
        let mut news = std::mem::take(&mut self.news);
        while let Some(first) = news.first().cloned() {
            let mut claims: Vec<String> = news
                .iter()
                .filter(|other| other.body == first.body)
                .map(|other| other.claim.clone())
                .collect();
            claims.sort();
            claims.dedup();
            news.retain(|other| other.body != first.body);
            let mut body = first.body;
            body["claims_total"] = claims.len().into();
            body["claims"] = claims.into();
            let about = |s: usize, model: &Model| model.sessions[s].service == first.service;
            self.tell("backend_health_changed", &body, about);
        }
    }

    /// A session applied a change of routes; new defaults are one of every route.
    pub(super) fn tell_change(&mut self, s: usize, before: &Config) {
        let after = &self.sessions[s].applied;
        let mut routes = changed(before, after);
        routes.extend(before.routes.iter().filter(|route| after.route(route.id) != Some(route)));
        if before.defaults != after.defaults {
            routes.extend(&after.routes);
        }
        let mut domains: Vec<String> = routes.iter().flat_map(|route| route.domains.clone()).collect();
        domains.sort();
        domains.dedup();
        if domains.is_empty() {
            return;
        }
        let body = json!({
            "service": self.sessions[s].service,
            "domains_total": domains.len(),
            "domains": domains,
        });
        self.tell("global_config_changed", &body, |other, _| other != s);
    }

    /// Each connection once, whose subscriber is one of those.
    fn tell(&mut self, kind: &str, body: &Value, whom: impl Fn(usize, &Model) -> bool) {
        let mut conns: Vec<usize> = self
            .subscriptions
            .iter()
            .filter(|s| (s.kind == kind || s.kind == "all") && whom(s.session, self))
            .filter(|s| self.connection(s.conn).is_some())
            .map(|s| s.conn)
            .collect();
        conns.sort_unstable();
        conns.dedup();
        for conn in conns {
            self.out.push(Out::Event(conn, format!("EVENT|{kind}"), body.clone()));
        }
    }
}
