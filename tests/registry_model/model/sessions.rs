//! How sessions begin, are found, replace each other and end (PROTOCOL section 2, SEMANTICS section 4).

use serde_json::Value;

use super::config::Config;
use super::maintenance::Maintained;
use super::staging::{Given, Pending};
use super::{Model, Session, Want};

/// An end that the store did not take is tried again, and a stage that it decides on is looked at again.
pub(crate) const STORE_RETRY: u64 = 5_000;
/// How long a session that never applied outlives its connection.
const UNAPPLIED_GRACE: u64 = 60_000;

/// Somebody who gave a wrong secret.
#[derive(Debug)]
pub(crate) struct Guess {
    peer: std::net::IpAddr,
    pause: u64,
    until: u64,
}

/// The longest pause after a wrong secret; after as long a peace it is forgotten.
const LONGEST_PAUSE: u64 = 60_000;

impl Session {
    /// Whether its id is accepted: it has not ended, and no newer session has its name.
    pub(crate) fn lives(&self) -> bool {
        !self.ended && !self.replaced
    }
}

impl Model {
    pub(super) fn register(
        &mut self,
        conn: usize,
        service: String,
        instance: String,
        metadata: serde_json::Map<String, Value>,
    ) {
        let peer = self.connection(conn).expect("it is open").peer;
        if self.guesses.iter().any(|guess| guess.peer == peer && self.now < guess.until) {
            return self.refuse_secret(conn, "too many wrong tokens from this address");
        }
        let given = metadata.get("token").and_then(Value::as_str);
        if self.rules.token.is_some() && self.rules.token.as_deref() != given {
            self.guessed_wrong(peer);
            return self.refuse_secret(conn, "wrong registry token");
        }
        if metadata.get("service_token").is_some_and(|token| !token.is_string()) {
            return self.error(conn, "service_token is no text");
        }
        let given = metadata.get("service_token").and_then(Value::as_str).unwrap_or_default();
        let mut kept = self.sessions.iter().filter(|s| !s.ended && s.service == service);
        if kept.find_map(|s| s.service_token.as_deref()).is_some_and(|token| token != given) {
            self.guessed_wrong(peer);
            return self.refuse_secret(conn, "wrong service token");
        }
        let connection = self.connection(conn).expect("it is open");
        let (peer, former) = (connection.peer, connection.session);
        let namesakes: Vec<usize> = (0..self.sessions.len())
            .filter(|&s| {
                let old = &self.sessions[s];
                !old.ended && old.service == service && old.instance == instance && old.peer == peer
            })
            .collect();
        let others = self.sessions.iter().filter(|s| !s.ended && s.service == service);
        if !given.is_empty()
            && others.clone().all(|s| s.service_token.is_none())
            && others.count() > namesakes.len()
        {
            return self.error(conn, "service token cannot be added");
        }
        if serde_json::to_string(&metadata).expect("it was JSON").len() > self.rules.max_metadata {
            return self.error(conn, "metadata too large");
        }
        let present = self.sessions.iter().filter(|s| !s.ended).count();
        let limit = self.rules.max_sessions * if namesakes.is_empty() { 1 } else { 2 };
        if present >= limit {
            return self.error(conn, "too many sessions");
        }
        let from_there = self.sessions.iter().filter(|s| !s.ended && s.peer == peer).count();
        let limit = self.rules.max_sessions_per_address * if namesakes.is_empty() { 1 } else { 2 };
        if from_there >= limit && !peer.is_loopback() {
            return self.error(conn, "too many sessions from this address");
        }
        if let Some(former) = former {
            self.unbind(conn, former);
        }
        let number = self.sessions.len();
        self.sessions.push(self.new_session(service, instance, metadata, peer));
        for old in namesakes {
            self.replace(old, number);
        }
        let connection = self.connection_mut(conn).expect("it is open");
        (connection.session, connection.robbed_of) = (Some(number), None);
        self.note_shared(peer);
        self.suspend_at(peer, number);
        self.say(conn, Want::Registered(number));
    }

    /// Whoever guesses waits, twice as long each time.
    fn guessed_wrong(&mut self, peer: std::net::IpAddr) {
        if peer.is_loopback() {
            return;
        }
        let before =
            self.guesses.iter().position(|guess| guess.peer == peer).map(|at| self.guesses.remove(at));
        let pause = before.map_or(1_000, |before| (before.pause * 2).min(LONGEST_PAUSE));
        self.guesses.push(Guess { peer, pause, until: self.now + pause });
    }

    /// A connection without a session is closed.
    fn refuse_secret(&mut self, conn: usize, text: &str) {
        self.error(conn, text);
        if self.connection(conn).is_some_and(|c| c.session.is_none()) {
            self.say_goodbye(conn);
            self.close(conn);
        }
    }

    fn new_session(
        &self,
        service: String,
        instance: String,
        metadata: serde_json::Map<String, Value>,
        peer: std::net::IpAddr,
    ) -> Session {
        let given = metadata.get("service_token").and_then(Value::as_str).map(str::to_owned);
        let service_token = given.filter(|given| !given.is_empty());
        Session {
            service,
            instance,
            metadata,
            peer,
            connected_at: self.now,
            last_activity: self.now,
            last_apply: None,
            lost: false,
            grace_until: None,
            replaced: false,
            replaced_by: None,
            answered: false,
            robbed: false,
            ended: false,
            applied: Config::default(),
            stage: None,
            next_route: 1,
            revision: 0,
            drain: None,
            maintained: Maintained::default(),
            requests: Vec::new(),
            kept: Maintained::default(),
            remember_at: None,
            pending: None,
            given: 0,
            turn: Vec::new(),
            service_token,
        }
    }

    /// The newest of a chain answers for all of it.
    fn replace(&mut self, old: usize, new: usize) {
        // One whose replacer lives is that one's business; if it has ended, the old one is replaced once more.
        if self.sessions[old].replaced_by.is_some() {
            return;
        }
        self.lose(old);
        for session in &mut self.sessions {
            if session.replaced_by == Some(old) {
                session.replaced_by = Some(new);
            }
        }
        let session = &mut self.sessions[old];
        (session.replaced, session.replaced_by) = (true, Some(new));
        session.stage = None;
        session.requests.clear();
        self.end_subscriptions(|subscription| subscription.session == old);
        self.retire_if_idle(old);
    }

    /// A replaced session that serves nothing is over, though its id is remembered.
    pub(super) fn retire_if_idle(&mut self, s: usize) {
        let session = &self.sessions[s];
        if session.replaced && !session.ended && session.pending.is_none() && !self.has_members(s) {
            self.end(s);
        }
    }

    /// One session, one connection: the latest binding wins.
    pub(super) fn bind(&mut self, conn: usize, s: usize) {
        let bound: Vec<usize> =
            self.connections.iter().filter(|c| c.session == Some(s)).map(|c| c.number).collect();
        for other in bound {
            let other_connection = self.connection_mut(other).expect("it is open");
            other_connection.session = None;
            other_connection.robbed_of = Some(s);
            self.end_subscriptions(|sub| sub.conn == other && sub.session == s);
        }
        let connection = self.connection_mut(conn).expect("it is open");
        let peer = connection.peer;
        (connection.session, connection.robbed_of) = (Some(s), None);
        let session = &mut self.sessions[s];
        let returns = session.lost || session.peer != peer;
        session.peer = peer;
        session.lost = false;
        session.grace_until = None;
        session.last_activity = self.now;
        self.note_shared(peer);
        if returns {
            self.members_lost_or_back(s);
        }
    }

    /// The session that a command's first field means, or what is wrong with it.
    pub(super) fn find_session(&self, conn: usize, id: &str) -> Result<usize, &'static str> {
        let own = self.connection(conn).and_then(|c| c.session);
        let s = if id.is_empty() {
            own.ok_or("no session")?
        } else {
            self.named(id).ok_or("session not found")?
        };
        if self.sessions[s].lives() {
            return Ok(s);
        }
        match self.sessions[s].replaced_by {
            Some(newest) if own == Some(newest) => Ok(newest),
            Some(_) => Err("session replaced"),
            None => Err("session not found"),
        }
    }

    /// `@3` is the id of session 3, as the harness writes it.
    fn named(&self, id: &str) -> Option<usize> {
        let number: usize = id.strip_prefix('@')?.parse().ok()?;
        (number < self.sessions.len()).then_some(number)
    }

    /// A command renews the grace. From where the session was bound before somebody took it away who is gone, it
    /// brings it back.
    pub(super) fn touch(&mut self, conn: usize, s: usize) {
        let session = &mut self.sessions[s];
        session.last_activity = self.now;
        if session.lost {
            if self.connection(conn).is_some_and(|c| c.robbed_of == Some(s)) {
                return self.bind(conn, s);
            }
            let grace = self.grace_of(s);
            self.sessions[s].grace_until = Some(self.now + grace);
        }
    }

    /// One that never applied has nothing to lose.
    fn grace_of(&self, s: usize) -> u64 {
        let has_applied = self.sessions[s].revision > 0;
        if has_applied { self.rules.grace } else { self.rules.grace.min(UNAPPLIED_GRACE) }
    }

    /// A connection has another session now.
    pub(super) fn unbind(&mut self, conn: usize, s: usize) {
        self.connection_mut(conn).expect("it is open").session = None;
        self.end_subscriptions(|sub| sub.conn == conn && sub.session == s);
        self.lose(s);
    }

    /// Its connection is lost.
    pub(super) fn lose(&mut self, s: usize) {
        let session = &mut self.sessions[s];
        if session.ended || session.lost {
            return;
        }
        session.lost = true;
        let grace = self.grace_of(s);
        self.sessions[s].grace_until = Some(self.now + grace);
        self.members_lost_or_back(s);
    }

    pub(super) fn client_shutdown(&mut self, conn: usize, s: usize) {
        // What was never applied is in no store.
        if self.sessions[s].revision == 0 {
            return self.shut_down(Some(conn), s);
        }
        self.commit(s, conn, Pending::ShutDown { conn });
    }

    pub(super) fn shut_down(&mut self, asked_by: Option<usize>, s: usize) {
        let bound: Vec<usize> =
            self.connections.iter().filter(|c| c.session == Some(s)).map(|c| c.number).collect();
        self.end(s);
        if let Some(conn) = asked_by {
            self.give_up_tests(conn);
            self.exactly(conn, "SHUTDOWN_OK");
        }
        for number in bound {
            self.say_goodbye(number);
            self.connections.retain(|c| c.number != number);
            self.end_subscriptions(|s| s.conn == number);
        }
    }

    /// It is over, and so is what it applied. Whom it replaced is forgotten, unless that still serves.
    pub(super) fn end(&mut self, s: usize) {
        let session = &mut self.sessions[s];
        session.ended = true;
        session.grace_until = None;
        session.stage = None;
        session.requests.clear();
        self.end_subscriptions(|subscription| subscription.session == s);
        self.end_maintenance_by(s);
        self.end_members(s);
        if !self.sessions[s].replaced {
            for session in self.sessions.iter_mut().filter(|older| older.replaced_by == Some(s)) {
                session.replaced_by = None;
            }
        }
        for connection in &mut self.connections {
            let over = |s: usize| {
                let session = &self.sessions[s];
                session.ended && session.replaced_by.is_none()
            };
            connection.session = connection.session.filter(|s| !over(*s));
        }
    }

    /// Two sessions that are connected from one address at once make it a shared one.
    fn note_shared(&mut self, peer: std::net::IpAddr) {
        let connected = self
            .connections
            .iter()
            .filter(|c| c.peer == peer && c.session.is_some_and(|s| self.sessions[s].lives()));
        if connected.count() > 1 && !self.shared.contains(&peer) {
            self.shared.push(peer);
        }
    }

    pub(super) fn session_deadlines(&self) -> Vec<u64> {
        let mut due: Vec<u64> = self.guesses.iter().map(|guess| guess.until + LONGEST_PAUSE).collect();
        for session in self.sessions.iter().filter(|session| !session.ended) {
            due.extend(session.grace_until);
            due.extend(session.remember_at);
            due.extend(session.stage.as_ref().map(|stage| stage.changed_at + self.rules.stage_ttl));
        }
        for connection in self.connections.iter().filter(|c| !c.heard) {
            due.push(connection.opened + self.rules.silent);
        }
        due
    }

    pub(super) fn pass_session_deadlines(&mut self) {
        let now = self.now;
        self.guesses.retain(|guess| guess.until + LONGEST_PAUSE > now);
        for s in 0..self.sessions.len() {
            let session = &mut self.sessions[s];
            if let Some(stage) = &mut session.stage
                && stage.changed_at + self.rules.stage_ttl <= now
            {
                // What the store is deciding on stays as it is.
                stage.changed_at = now + STORE_RETRY - self.rules.stage_ttl;
                if session.pending.is_none() {
                    session.stage = None;
                }
            }
            if session.grace_until.is_some_and(|until| until <= now) {
                self.grace_over(s);
            }
            if !self.sessions[s].ended && self.sessions[s].remember_at.is_some_and(|at| at <= now) {
                self.remember(s);
            }
        }
        let silent: Vec<usize> = self
            .connections
            .iter()
            .filter(|c| !c.heard && c.opened + self.rules.silent <= now)
            .map(|c| c.number)
            .collect();
        for number in silent {
            self.say(number, Want::Begins("ERROR|".to_owned()));
            self.say_goodbye(number);
            self.close(number);
        }
    }

    fn grace_over(&mut self, s: usize) {
        let session = &mut self.sessions[s];
        if session.pending.is_some() {
            session.grace_until = Some(self.now + STORE_RETRY);
        } else if session.replaced || session.revision == 0 {
            self.end(s);
        } else {
            session.grace_until = None;
            session.pending = Some(Pending::Expiry);
            self.give(Given::Session(s));
        }
    }

    /// The store's word on the end of a session that nobody asked for.
    pub(super) fn expiry_decided(&mut self, s: usize, holds: bool) {
        if holds {
            self.end(s);
        } else {
            self.sessions[s].grace_until = Some(self.now + STORE_RETRY);
        }
    }
}
