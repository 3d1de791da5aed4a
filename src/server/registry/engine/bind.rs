//! Which session a connection has (PROTOCOL section 2, SEMANTICS section 4).

use std::net::IpAddr;

use registry_client::protocol::{Refusal, Registration, SessionId, SessionRef};

use crate::server::registry::api::{Effect, LogEvent};
use crate::server::registry::model::{ConnId, Now, ServiceToken, SessionEvent, SessionNo, SessionState};
use crate::server::registry::session::Session;

use super::Engine;
use super::timers::Timer;

/// A registration that has passed all checks.
pub(crate) struct NewSession {
    pub(crate) registration: Registration,
    /// The address of its connection.
    pub(crate) peer: IpAddr,
    /// 128 random bits for its id.
    pub(crate) random: u128,
    /// Its service's token, if it gave one.
    pub(crate) service_token: Option<ServiceToken>,
    /// The sessions that it replaces, oldest first.
    pub(crate) namesakes: Vec<SessionNo>,
}

impl Engine {
    /// The address of an open connection.
    pub(crate) fn peer(&self, conn: ConnId) -> Option<IpAddr> {
        self.connections.peer(conn)
    }

    /// REGISTER: adds a session and binds it to the connection. Returns its id.
    pub(crate) fn begin_session(
        &mut self,
        now: Now,
        conn: ConnId,
        new: NewSession,
    ) -> Result<SessionId, Refusal> {
        let NewSession { registration, peer, random, service_token, namesakes } = new;
        // This comes first, so that a session that is bound here already is replaced as a lost one.
        if let Some(former) = self.connections.take_bound(conn) {
            self.unbind(now, former);
        }
        let no = self.sessions.add(now, registration, peer, random, service_token);
        for old in namesakes {
            self.replace(now, old, no);
        }
        self.bind(now, conn, no);
        let session = self.session(no)?;
        let id = session.id().cloned().ok_or(Refusal::SessionNotFound)?;
        let who = session.label();
        self.log(LogEvent::Registered(who, peer));
        self.comes_to(peer, no);
        Ok(id)
    }

    /// RECONNECT: binds a session to the connection, unless it is bound there.
    pub(crate) fn resume_session(&mut self, now: Now, conn: ConnId, no: SessionNo) {
        let former = self.connections.bound(conn);
        if former == Some(no) {
            return;
        }
        if let Some(former) = former {
            self.unbind(now, former);
        }
        self.bind(now, conn, no);
        self.say_resumed(no);
        if let Some(peer) = self.connections.peer(conn) {
            self.comes_to(peer, no);
        }
    }

    /// A session is connected from an address that names one container. Whoever had the address before is suspended there,
    /// unless it is kin (SEMANTICS section 4). A session that only names the address as its backend's takes nothing.
    pub(super) fn comes_to(&mut self, ip: IpAddr, no: SessionNo) {
        self.takes_address(ip, no, |_| false);
    }

    /// The same, without those that are spared.
    pub(super) fn takes_address(&mut self, ip: IpAddr, no: SessionNo, is_spared: impl Fn(SessionNo) -> bool) {
        let decides = self.role.leads() && self.sessions.is_one_container(ip);
        let Some(session) = self.sessions.get(no).filter(|_| decides) else { return };
        let is_kin = |other| self.sessions.is_kin(session, other, ip) || is_spared(other);
        self.membership.address_taken(ip, &session.label(), is_kin);
    }

    fn say_resumed(&mut self, no: SessionNo) {
        if let Some(session) = self.sessions.get(no) {
            let resumed = LogEvent::Resumed(session.label(), session.peer);
            self.log(resumed);
        }
    }

    /// The session that a command is for, if the connection may use it.
    pub(crate) fn resolve(&self, conn: ConnId, session: &SessionRef) -> Result<SessionNo, Refusal> {
        let own = self.connections.bound(conn);
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
            // Threads of the reference client go on sending the id that they know.
            Some(newest) if own == Some(newest.no) => Ok(newest.no),
            Some(_) => Err(Refusal::SessionReplaced),
            None => Err(Refusal::SessionNotFound),
        }
    }

    /// Renews a session's grace: a command for it shows that its client lives, on whatever connection it comes. If the
    /// session is lost and another connection had taken it over from this one, it is bound here again: a late RECONNECT on a
    /// connection that the client has given up takes the session along, and the client never learns of it.
    pub(crate) fn renew(&mut self, now: Now, conn: ConnId, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no).filter(|_| !conn.is_operator()) else { return };
        session.touch(now);
        if session.state != SessionState::Grace {
            return;
        }
        if self.connections.was_taken_over(conn, no) {
            self.bind(now, conn, no);
            return self.say_resumed(no);
        }
        self.timers.set(Timer::Grace(no), now.mono + self.grace_of(no));
    }

    /// Binds a session to a connection. If it is bound to another one, that loses it.
    fn bind(&mut self, now: Now, conn: ConnId, no: SessionNo) {
        let Some(peer) = self.connections.bind(conn, no) else { return };
        let Some(session) = self.sessions.get_mut(no) else { return };
        session.touch(now);
        let (older, before) = (session.conn.replace(conn), session.peer);
        let was_connected = session.state == SessionState::Connected;
        if let Some(older) = older.filter(|older| *older != conn) {
            self.drop_subscription(older, no);
            self.connections.lose_bound(older, no);
        }
        if was_connected && before != peer {
            self.sessions.disconnected(before);
            self.sessions.connected(peer, self.config.limits.shared_addresses);
        }
        self.sessions.set_peer(no, peer);
        self.advance(now, no, SessionEvent::Bound);
        self.touch(no);
        if was_connected && before != peer {
            self.tell_members(no, false);
        }
        self.stop_keepalive(no);
        if let Some(keepalive) = self.sessions.get_mut(no).and_then(Session::start_keepalive) {
            self.push(Effect::Bound(conn, keepalive));
        }
    }

    /// The connection that answered the session's PINGs does not any more, and is told so.
    pub(super) fn stop_keepalive(&mut self, no: SessionNo) {
        if let Some(conn) = self.sessions.get_mut(no).and_then(Session::stop_keepalive) {
            self.push(Effect::Unbound(conn));
        }
    }

    /// A replica has a connection open to which a former leader had bound this session. The session is bound to it again,
    /// unless its client has come back on another one since. Where it is not, the connection is closed, so that its client
    /// begins anew.
    pub(super) fn announced(&mut self, now: Now, conn: ConnId, peer: IpAddr, id: &SessionId) {
        self.opened(now, conn, peer);
        if !self.connections.contains(conn) {
            return;
        }
        self.sessions.recognise(id);
        let no = self.resolve(conn, &SessionRef::Id(id.clone())).ok();
        let is_free = |session: &Session| session.conn.is_none() && !session.lost_claim;
        let no = no.filter(|no| self.sessions.get(*no).is_some_and(is_free));
        let Some(no) = no else { return self.close(now, conn) };
        if self.connections.sent_valid_command(conn) == Some(true) {
            self.timers.cancel(Timer::Silent(conn));
        }
        self.resume_session(now, conn, no);
    }

    /// The session's connection is gone, or another session is bound there.
    pub(super) fn unbind(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        if let Some(conn) = session.conn.take() {
            self.drop_subscription(conn, no);
        }
        self.advance(now, no, SessionEvent::Lost);
    }
}
