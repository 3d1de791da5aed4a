//! What becomes of each client's connection as leaders come and go (pure).
//!
//! The clients of this replica are told apart from the leader's by nobody but this: their commands go to whoever leads, and
//! the leader's lines come back. When the leader is lost, a connection is kept if the next leader can take it over as if
//! nothing had happened: no command of it is without an answer, nothing is staged over it, it waits for no verdict and has
//! not subscribed. A kept connection with a lost stage would get `OK` for an apply of nothing, so all others are closed, and
//! their clients begin anew, here or elsewhere.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod` (this) | the connections, and what follows from each input |
//! | `connection` | one connection: what it waits for, and whether it may be kept |
//!
//! It must not know sockets, the handshake, etcd, or who leads: only that the leader is reached or lost.

mod connection;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry_client::protocol::{Command, Push, Refusal, Reply, ServerLine, SessionId, SessionRef};

use super::frame::{FromLeader, Line, ToLeader};
use crate::server::registry::ConnId;

use connection::{Connection, StageChange};

/// How long a connection waits for a leader, and a command on a kept connection.
pub(super) const LEADERLESS_WAIT: Duration = Duration::from_secs(5);

/// Something that the router is told.
#[derive(Debug)]
pub(super) enum Input {
    /// A client connected to this replica from an address that may.
    Opened(ConnId, IpAddr),
    /// A client sent lines.
    Lines(ConnId, Vec<Line>),
    /// A client's connection is closed, or it has sent everything and received all replies.
    Closed(ConnId),
    /// There is a leader, and it can be told things.
    Reached,
    /// What the leader was told and has not answered, it never will: it leads no more, or the link to it broke.
    Lost,
    /// The leader says something.
    FromLeader(FromLeader),
    /// A deadline may have passed ([`Router::next_deadline`]).
    Tick,
    /// This replica stops.
    Stop,
}

/// Something that the caller is to do, in order.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Tell the leader.
    Tell(ToLeader),
    /// Send a line to a client.
    Send(ConnId, Box<ServerLine>),
    /// Send an event to a client.
    Event(ConnId, Arc<str>),
    /// Let the connection answer PINGs for this session.
    Bound(ConnId, SessionId),
    /// Do not let it any more.
    Unbound(ConnId),
    /// Send what is queued to the client, then EOF.
    Close(ConnId),
}

/// The connections of this replica's clients.
#[derive(Debug, Default)]
pub(super) struct Router {
    connections: BTreeMap<ConnId, Connection>,
    /// Where a session is bound, as far as it is bound here.
    bound: HashMap<SessionId, ConnId>,
    /// Whether there is a leader that can be told things.
    reached: bool,
    stopping: bool,
    /// Since when connections wait for a leader, the oldest first.
    waiting: VecDeque<(Instant, ConnId)>,
    effects: Vec<Effect>,
}

impl Router {
    /// Decides what follows from an input. What is to be done is in [`Router::effects`].
    pub(super) fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Opened(conn, peer) => self.opened(now, conn, peer),
            Input::Lines(conn, lines) => self.lines(now, conn, lines),
            Input::Closed(conn) => self.forget(conn),
            Input::Reached => self.reached(now),
            Input::Lost => self.lost(),
            Input::FromLeader(said) => self.from_leader(said),
            Input::Tick => self.tick(now),
            Input::Stop => self.stop(),
        }
    }

    /// What is to be done, in order.
    pub(super) fn effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.effects.drain(..)
    }

    /// When to pass [`Input::Tick`] at the latest.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.front().map(|(since, _)| *since + LEADERLESS_WAIT)
    }

    /// How many connections there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    fn opened(&mut self, now: Instant, conn: ConnId, peer: IpAddr) {
        self.connections.insert(conn, Connection::new(peer));
        if self.stopping {
            self.shut(conn);
        } else if self.reached {
            self.introduce(conn);
        } else {
            self.wait(now, conn);
        }
    }

    fn lines(&mut self, now: Instant, conn: ConnId, lines: Vec<Line>) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if self.reached {
            for line in lines {
                connection.expect_reply(&line);
                self.effects.push(Effect::Tell(ToLeader::Line(conn, line)));
            }
        } else {
            connection.queue.extend(lines);
            self.wait(now, conn);
        }
    }

    /// The connection waits for a leader from now on, unless it does already.
    fn wait(&mut self, now: Instant, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(&conn)
            && connection.waits_since.is_none()
        {
            connection.waits_since = Some(now);
            self.waiting.push_back((now, conn));
        }
    }

    fn reached(&mut self, now: Instant) {
        if self.reached {
            self.lost();
        }
        self.reached = true;
        self.waiting.clear();
        for conn in self.connections.keys().copied().collect::<Vec<_>>() {
            self.introduce(conn);
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            connection.waits_since = None;
            let queue = std::mem::take(&mut connection.queue);
            self.lines(now, conn, queue);
        }
    }

    /// Tells the leader of a connection that it does not know.
    fn introduce(&mut self, conn: ConnId) {
        let Some(Connection { peer, session, .. }) = self.connections.get(&conn) else { return };
        self.effects.push(Effect::Tell(match session {
            Some(session) => ToLeader::Announced(conn, *peer, session.clone()),
            None => ToLeader::Opened(conn, *peer),
        }));
    }

    fn lost(&mut self) {
        if !std::mem::take(&mut self.reached) {
            return;
        }
        let lost = self.connections.iter().filter(|(_, connection)| !connection.may_be_kept());
        for conn in lost.map(|(conn, _)| *conn).collect::<Vec<_>>() {
            self.close(conn);
        }
    }

    fn from_leader(&mut self, said: FromLeader) {
        match said {
            FromLeader::Line(conn, line) => self.line(conn, line),
            FromLeader::Event(conn, line) => {
                if self.connections.contains_key(&conn) {
                    self.effects.push(Effect::Event(conn, line));
                }
            }
            FromLeader::Bound(conn, session) => self.bind(conn, session),
            FromLeader::Unbound(conn) => {
                self.unbind(conn);
                self.effects.push(Effect::Unbound(conn));
            }
            FromLeader::Close(conn) => self.close(conn),
            FromLeader::Alive(_) => {}
        }
    }

    fn line(&mut self, conn: ConnId, line: Box<ServerLine>) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        match &*line {
            ServerLine::Reply(reply) => {
                if let Some((session, change)) = connection.replied(reply) {
                    self.note_stage(session, change);
                }
            }
            ServerLine::Push(push) => connection.pushed(push),
        }
        self.effects.push(Effect::Send(conn, line));
    }

    /// A command that names a session by its id changed what that has staged: the connection where the session is bound is
    /// the one that will apply it.
    fn note_stage(&mut self, session: SessionRef, change: StageChange) {
        let SessionRef::Id(id) = session else { return };
        let bound = self.bound.get(&id).copied();
        if let Some(connection) = bound.and_then(|conn| self.connections.get_mut(&conn)) {
            connection.staged = change == StageChange::Made;
        }
    }

    fn bind(&mut self, conn: ConnId, session: SessionId) {
        self.unbind(conn);
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.session = Some(session.clone());
        self.bound.insert(session.clone(), conn);
        self.effects.push(Effect::Bound(conn, session));
    }

    fn unbind(&mut self, conn: ConnId) {
        let session = self.connections.get_mut(&conn).and_then(|connection| connection.session.take());
        if let Some(session) = session {
            self.forget_bound(&session, conn);
        }
    }

    fn forget_bound(&mut self, session: &SessionId, conn: ConnId) {
        if self.bound.get(session) == Some(&conn) {
            self.bound.remove(session);
        }
    }

    fn tick(&mut self, now: Instant) {
        while let Some((since, conn)) = self.waiting.front().copied() {
            if since + LEADERLESS_WAIT > now {
                return;
            }
            self.waiting.pop_front();
            let waits = self.connections.get(&conn).and_then(|connection| connection.waits_since);
            if waits == Some(since) {
                self.waited_too_long(conn);
            }
        }
    }

    /// A client that has a session is refused what it asked for. One that has none is told nothing, because a reference
    /// client takes every answer to RECONNECT as a reason to register anew.
    fn waited_too_long(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let is_request = |line: &Line| !matches!(line, Ok(Command::Register(_) | Command::Reconnect(_)));
        if connection.session.is_none() || !connection.queue.iter().all(is_request) {
            return self.close(conn);
        }
        connection.waits_since = None;
        for line in std::mem::take(&mut connection.queue) {
            let refusal = line.err().unwrap_or(Refusal::StoreUnavailable);
            let line = ServerLine::Reply(Reply::Error(refusal));
            self.effects.push(Effect::Send(conn, Box::new(line)));
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        for conn in self.connections.keys().copied().collect::<Vec<_>>() {
            self.shut(conn);
        }
    }

    /// Says that the server stops, and closes (PROTOCOL section 2).
    fn shut(&mut self, conn: ConnId) {
        self.effects.push(Effect::Send(conn, Box::new(ServerLine::Push(Push::Shutdown))));
        self.close(conn);
    }

    /// Closes a connection from our side.
    fn close(&mut self, conn: ConnId) {
        if self.connections.contains_key(&conn) {
            self.effects.push(Effect::Close(conn));
            self.forget(conn);
        }
    }

    fn forget(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.remove(&conn) else { return };
        if let Some(session) = &connection.session {
            self.forget_bound(session, conn);
        }
        if self.reached {
            self.effects.push(Effect::Tell(ToLeader::Closed(conn)));
        }
    }
}
