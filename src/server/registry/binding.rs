//! Which session a connection has, and how sessions begin, replace each other, and end (PROTOCOL section 2,
//! SEMANTICS section 4).

use std::net::IpAddr;
use std::time::Duration;

use crate::protocol::{Refusal, Registration, Reply, SessionId, SessionRef};

use crate::server::routing::MemberId;

use super::apply::Pending;
use super::io::{Change, ConnId, Effect, Happening, Now, SessionNo};
use super::lifecycle::{SessionEvent, SessionState};
use super::pools::{Answered, Leaving};
use super::session::Session;
use super::stage::Stage;
use super::timers::Timer;
use super::token::ServiceToken;
use super::{Outcome, Registry};

/// When to ask the store again to forget a session.
pub(super) const STORE_RETRY: Duration = Duration::from_secs(5);

impl Registry {
    /// REGISTER.
    pub(super) fn register(
        &mut self,
        now: Now,
        conn: ConnId,
        registration: Registration,
    ) -> Result<Reply, Refusal> {
        let Some(peer) = self.connections.get(&conn).map(|connection| connection.peer) else {
            return Err(Refusal::NoSession);
        };
        let namesakes = self.sessions.namesakes(&registration, peer);
        self.check_tokens(&registration, peer)?;
        self.check_room(&registration, !namesakes.is_empty())?;
        let none = || other("no randomness to be had, try again");
        let random = (self.random)().ok_or_else(none)?;
        let service_token = self.service_token(&registration).map_err(|NoRandom| none())?;
        // First, so that one that is bound here already is replaced as a lost one.
        if let Some(former) = self.connections.get_mut(&conn).and_then(|connection| connection.bound.take()) {
            self.unbind(now, former);
        }
        let no = self.sessions.add(now, registration, peer, random, service_token);
        for old in namesakes {
            self.replace(now, old, no);
        }
        self.bind(now, conn, no);
        let Some(session) = self.sessions.get(no) else { return Err(Refusal::SessionNotFound) };
        let Some(id) = session.id().cloned() else { return Err(Refusal::SessionNotFound) };
        let (who, kin) = (session.who(), session.kin());
        self.push(Effect::Happened(Happening::Registered(who.clone(), peer)));
        if self.sessions.is_one_container(peer) {
            self.pools.address_taken(peer, &who, &kin);
        }
        Ok(Reply::Registered(id))
    }

    /// Before anything is kept of a registration.
    fn check_tokens(&mut self, registration: &Registration, peer: IpAddr) -> Result<(), Refusal> {
        let given = registration.metadata.text("token").unwrap_or_default();
        if self.config.token.as_ref().is_some_and(|token| !token.is(given)) {
            self.push(Effect::Happened(Happening::WrongToken(peer)));
            return Err(other("wrong registry token"));
        }
        let given = given_service_token(registration)?;
        if self.sessions.token_of(&registration.service).is_some_and(|token| !token.is(given)) {
            let (service, instance) = (registration.service.clone(), registration.instance.clone());
            self.push(Effect::Happened(Happening::WrongServiceToken { service, instance, peer }));
            return Err(other("wrong service token"));
        }
        Ok(())
    }

    /// One that replaces another may still come when no more are let in; both serve for a while.
    fn check_room(&self, registration: &Registration, replaces: bool) -> Result<(), Refusal> {
        if registration.metadata.encode().len() > self.config.limits.metadata_bytes {
            return Err(other("metadata too large"));
        }
        let most = self.config.limits.sessions.saturating_mul(if replaces { 2 } else { 1 });
        if self.sessions.active() >= most {
            return Err(other("too many sessions"));
        }
        Ok(())
    }

    /// What is kept of the service's token: what there is already, or a new hash for the first who gives one.
    fn service_token(&mut self, registration: &Registration) -> Result<Option<ServiceToken>, NoRandom> {
        let given = given_service_token(registration).unwrap_or_default();
        if given.is_empty() {
            return Ok(None);
        }
        if let Some(known) = self.sessions.token_of(&registration.service) {
            return Ok(Some(known.clone()));
        }
        let salt = (self.random)().ok_or(NoRandom)?;
        Ok(Some(ServiceToken::new(salt, given)))
    }

    /// RECONNECT. A session that lost a claim to another service meanwhile has to register afresh, so that
    /// its client stages that route again and hears who has it.
    pub(super) fn reconnect(&mut self, now: Now, conn: ConnId, id: &SessionId) -> Outcome {
        let no = match self.resolve(conn, &SessionRef::Id(id.clone())) {
            Ok(no) => no,
            Err(Refusal::SessionReplaced) => return Outcome::Reply(Reply::Error(Refusal::SessionReplaced)),
            Err(_) => return Outcome::Reply(Reply::Reregister),
        };
        if self.sessions.get(no).is_some_and(|session| session.robbed) {
            return Outcome::Reply(Reply::Reregister);
        }
        let former = self.connections.get(&conn).and_then(|connection| connection.bound);
        if former == Some(no) {
            return Outcome::Reply(Reply::Ok);
        }
        if let Some(former) = former {
            self.unbind(now, former);
        }
        self.bind(now, conn, no);
        self.say_resumed(no);
        Outcome::Reply(Reply::Ok)
    }

    fn say_resumed(&mut self, no: SessionNo) {
        if let Some(session) = self.sessions.get(no) {
            let resumed = Happening::Resumed(session.who(), session.peer);
            self.push(Effect::Happened(resumed));
        }
    }

    /// The session that a command is for, and may be used through this connection.
    pub(super) fn resolve(&self, conn: ConnId, session: &SessionRef) -> Result<SessionNo, Refusal> {
        let own = self.connections.get(&conn).and_then(|connection| connection.bound);
        let (no, none) = match session {
            SessionRef::Own => (own, Refusal::NoSession),
            SessionRef::Id(id) => (self.sessions.by_id(id), Refusal::SessionNotFound),
        };
        let Some(session) = no.and_then(|no| self.sessions.get(no)) else { return Err(none) };
        if session.state.lives() {
            return Ok(session.no);
        }
        let newest = session.replaced_by.and_then(|no| self.sessions.get(no));
        match newest.filter(|newest| newest.state.lives()) {
            // The reference client's threads go on sending the id that they know.
            Some(newest) if own == Some(newest.no) => Ok(newest.no),
            Some(_) => Err(Refusal::SessionReplaced),
            None => Err(Refusal::SessionNotFound),
        }
    }

    /// A command shows that its session's holder lives, wherever it comes from. One that comes from where the
    /// session was bound before somebody took it away, and that is gone, has it back: a RECONNECT on a
    /// connection that its client had given up may arrive late, and the client never hears of it.
    pub(super) fn renew(&mut self, now: Now, conn: ConnId, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        session.touch(now);
        if session.state != SessionState::Grace {
            return;
        }
        if self.connections.get(&conn).is_some_and(|connection| connection.robbed_of == Some(no)) {
            self.bind(now, conn, no);
            return self.say_resumed(no);
        }
        self.timers.set(Timer::Grace(no), now.mono + self.config.grace);
    }

    /// One session, one connection: the latest binding wins.
    fn bind(&mut self, now: Now, conn: ConnId, no: SessionNo) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.bound = Some(no);
        connection.robbed_of = None;
        let peer = connection.peer;
        let Some(session) = self.sessions.get_mut(no) else { return };
        session.touch(now);
        let (older, before) = (session.conn.replace(conn), session.peer);
        let was_connected = session.state == SessionState::Connected;
        if let Some(older) = older.filter(|older| *older != conn) {
            self.drop_subscription(older, no);
            if let Some(connection) = self.connections.get_mut(&older) {
                connection.bound = None;
                connection.robbed_of = Some(no);
            }
        }
        if was_connected && before != peer {
            self.sessions.disconnected(before);
            self.sessions.connected(peer, self.config.limits.shared_addresses);
        }
        self.sessions.set_peer(no, peer);
        self.advance(now, no, SessionEvent::Bound);
        if was_connected && before != peer {
            self.tell_members(no, false);
        }
        if let Some(pulse) = self.sessions.get_mut(no).and_then(Session::start_pulse) {
            self.push(Effect::Bound(conn, pulse));
        }
    }

    /// A session's connection is gone, or has another session.
    pub(super) fn unbind(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        if let Some(conn) = session.conn.take() {
            self.drop_subscription(conn, no);
        }
        self.advance(now, no, SessionEvent::Lost);
    }

    /// `new` takes the place of `old` and of everyone whom that had replaced.
    fn replace(&mut self, now: Now, old: SessionNo, new: SessionNo) {
        let Some(session) = self.sessions.get_mut(old) else { return };
        // One that is replaced already is its replacer's business, who may have another address by now.
        if session.replaced_by.is_some() {
            return;
        }
        let mut kin = std::mem::take(&mut session.predecessors);
        kin.push(old);
        for no in &kin {
            if let Some(older) = self.sessions.get_mut(*no) {
                older.replaced_by = Some(new);
            }
        }
        if let Some(newer) = self.sessions.get_mut(new) {
            newer.predecessors.extend(kin);
        }
        self.advance(now, old, SessionEvent::Replaced);
        self.retire_if_idle(now, old);
        self.bound_predecessors(now, new);
    }

    /// Keeps the number of ids bounded that a session is answerable for.
    fn bound_predecessors(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get(no) else { return };
        let surplus = session.predecessors.len().saturating_sub(self.config.limits.predecessors);
        let idle = |no: &&SessionNo| {
            let older = self.sessions.get(**no);
            older.is_none_or(|older| older.state == SessionState::Retired && older.conn.is_none())
        };
        let surplus: Vec<SessionNo> =
            session.predecessors.iter().filter(idle).take(surplus).copied().collect();
        for older in surplus {
            if let Some(session) = self.sessions.get_mut(no) {
                session.predecessors.retain(|other| *other != older);
            }
            self.advance(now, older, SessionEvent::Forgotten);
        }
    }

    /// A replaced session that serves nothing any more is only remembered.
    pub(super) fn retire_if_idle(&mut self, now: Now, no: SessionNo) {
        let idle = |session: &Session| session.members.is_empty() && session.pending.is_none();
        if self.sessions.get(no).is_some_and(idle) {
            self.advance(now, no, SessionEvent::Succeeded);
        }
    }

    /// A member answered for the first time. Make before break: where it serves now, its predecessors are not
    /// needed; with the first answer of all, nor are they where it has nothing to serve. Where it has a
    /// backend that is still to answer, they go on.
    pub(super) fn answered(&mut self, now: Now, answered: &Answered) {
        let Some(session) = self.sessions.get_mut(answered.session) else { return };
        let first = !std::mem::replace(&mut session.answered, true);
        let (no, predecessors) = (session.no, session.predecessors.clone());
        if predecessors.is_empty() {
            return;
        }
        let claim = self.pools.claim(&answered.domain, &answered.path);
        let here = claim.map(|claim| self.pools.members_of(&predecessors, claim));
        let mut superseded = here.unwrap_or_default();
        if first {
            let members = predecessors.iter().filter_map(|no| self.sessions.get(*no));
            let members = members.flat_map(|older| older.members.iter().map(|id| (id, older.no)));
            let needed = |id| {
                self.pools.place(id).is_some_and(|(domain, path)| self.pools.awaits_answer(no, domain, path))
            };
            superseded.extend(members.filter(|(id, _)| !needed(*id)));
        }
        self.drop_members(now, superseded);
    }

    /// Takes members out of their claims and their sessions.
    pub(super) fn drop_members(&mut self, now: Now, members: Vec<(MemberId, SessionNo)>) {
        for (id, owner) in members {
            self.pools.remove(id, Leaving::Unwanted);
            if let Some(session) = self.sessions.get_mut(owner) {
                session.members.remove(id);
                if session.state == SessionState::Replaced {
                    self.retire_if_idle(now, owner);
                }
            }
        }
    }

    /// A session did not return in time.
    pub(super) fn grace_over(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get(no) else { return };
        if session.pending.is_some() {
            self.timers.set(Timer::Grace(no), now.mono + STORE_RETRY);
        } else if session.state == SessionState::Grace && session.revision > 0 {
            self.commit(no, Change::Ended(no), Pending::Expiry(no));
        } else {
            self.advance(now, no, SessionEvent::GraceOver);
        }
    }

    /// Nobody applied what was staged. What is on its way to the store is as it was if that refuses it.
    pub(super) fn stage_expired(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        if session.pending.is_some() {
            return self.timers.set(Timer::Stage(no), now.mono + STORE_RETRY);
        }
        session.stage = Stage::default();
        let expired = Happening::StageExpired(session.who());
        self.push(Effect::Happened(expired));
    }

    /// CLIENT_SHUTDOWN, once the store has forgotten the session: its members are gone when the reply is
    /// sent.
    pub(super) fn shut_down(&mut self, now: Now, no: SessionNo, asked_by: Option<ConnId>) {
        let bound = self.sessions.get(no).and_then(|session| session.conn);
        self.advance(now, no, SessionEvent::ShutDown);
        if let Some(conn) = asked_by {
            self.send(conn, Reply::ShutdownOk);
        }
        if let Some(bound) = bound {
            self.close(now, bound);
        }
    }

    /// The one function that changes what a session is. Its members, deadlines, the log and those that depend
    /// on it follow.
    pub(super) fn advance(&mut self, now: Now, no: SessionNo, event: SessionEvent) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let (was, is) = (session.state, session.state.next(event));
        if was == is {
            return;
        }
        session.state = is;
        if was == SessionState::Connected {
            session.stop_pulse();
        }
        let (peer, who) = (session.peer, session.who());
        if was == SessionState::Connected {
            self.sessions.disconnected(peer);
            self.tell_members(no, true);
        }
        let grace = now.mono + self.config.grace;
        match is {
            SessionState::Connected => {
                self.timers.cancel(Timer::Grace(no));
                self.sessions.connected(peer, self.config.limits.shared_addresses);
                self.tell_members(no, false);
            }
            SessionState::Grace => {
                self.timers.set(Timer::Grace(no), grace);
                self.push(Effect::Happened(Happening::Lost(who, self.config.grace)));
            }
            SessionState::Replaced => self.became_replaced(no, grace),
            SessionState::Retired => self.became_retired(now, no),
            SessionState::Gone => {
                self.became_gone(now, no, was == SessionState::Retired);
                match event {
                    SessionEvent::ShutDown => self.push(Effect::Happened(Happening::ShutDown(who))),
                    SessionEvent::GraceOver => self.push(Effect::Happened(Happening::Expired(who))),
                    _ => {}
                }
            }
        }
    }

    fn became_replaced(&mut self, no: SessionNo, grace: std::time::Instant) {
        self.drop_verdicts(no);
        self.drop_subscriptions_of(no);
        let Some(session) = self.sessions.get_mut(no) else { return };
        session.stage = Stage::default();
        let happened = session.replaced_by.map(|by| Happening::Replaced(session.who(), by));
        self.timers.cancel(Timer::Stage(no));
        if !self.timers.is_set(Timer::Grace(no)) {
            self.timers.set(Timer::Grace(no), grace);
        }
        if let Some(happened) = happened {
            self.push(Effect::Happened(happened));
        }
    }

    fn became_retired(&mut self, now: Now, no: SessionNo) {
        // One that the store took until now.
        self.drop_verdicts(no);
        self.timers.cancel(Timer::Grace(no));
        self.timers.cancel(Timer::Drain(no));
        self.timers.cancel(Timer::Remember(no));
        self.sessions.retire(no);
        let Some(session) = self.sessions.get_mut(no) else { return };
        let (members, stored) = (std::mem::take(&mut session.members), session.revision > 0);
        session.applied.clear();
        let orphaned = session.replaced_by.is_none();
        for id in members.iter() {
            self.pools.remove(id, Leaving::Ended);
        }
        if stored {
            self.forget_in_store(no);
        }
        if orphaned {
            self.advance(now, no, SessionEvent::Forgotten);
        }
    }

    fn became_gone(&mut self, now: Now, no: SessionNo, retired: bool) {
        self.drop_verdicts(no);
        self.drop_subscriptions_of(no);
        let Some(session) = self.sessions.remove(no, retired) else { return };
        self.timers.cancel(Timer::Grace(no));
        self.timers.cancel(Timer::Stage(no));
        self.timers.cancel(Timer::Drain(no));
        self.timers.cancel(Timer::Remember(no));
        for id in session.members.iter() {
            self.pools.remove(id, Leaving::Ended);
        }
        if let Some(connection) = session.conn.and_then(|conn| self.connections.get_mut(&conn)) {
            connection.bound = None;
        }
        for older in session.predecessors {
            if let Some(older) = self.sessions.get_mut(older) {
                older.replaced_by = None;
            }
            self.advance(now, older, SessionEvent::Forgotten);
        }
    }

    /// Asks the store to forget a session whose end does not wait for it.
    pub(super) fn forget_in_store(&mut self, no: SessionNo) {
        self.commit(no, Change::Ended(no), Pending::Forget(no));
    }

    fn tell_members(&mut self, no: SessionNo, lost: bool) {
        let Some(session) = self.sessions.get(no) else { return };
        for id in session.members.iter() {
            self.pools.set_lost(id, lost, session.peer);
        }
    }
}

/// There are no random bits to be had.
struct NoRandom;

fn other(text: &str) -> Refusal {
    Refusal::Other(text.to_owned())
}

/// The service's token that a registration gives; empty: none. One that is no text would not be asked of anybody,
/// which is not what it was given for.
fn given_service_token(registration: &Registration) -> Result<&str, Refusal> {
    let metadata = &registration.metadata;
    match metadata.text("service_token") {
        Some(text) => Ok(text),
        None if metadata.has("service_token") => Err(other("service_token is no text")),
        None => Ok(""),
    }
}
