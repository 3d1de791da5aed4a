//! One worker's open connections to members.
//!
//! HTTP/1.1 connections are in the pool while they are idle. HTTP/2 connections are always in it, because requests
//! share them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::net::TcpStream;

use crate::server::routing::{Member, MemberId};

use super::connection::UpstreamConnection;
use super::http1::Http1Connection;
use super::http2::Http2Connections;
use super::idle_limit::{IdleLimit, MAX_IDLE};
use super::liveness::{Liveness, WatchedStream};
use super::tls::PooledName;

/// Idle HTTP/1.1 connections of one worker to one member.
const MAX_IDLE_PER_MEMBER: usize = 256;

#[derive(Default)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<MemberId, OfMember, foldhash::fast::RandomState>>,
    http2: RefCell<HashMap<MemberId, Rc<Http2Connections>>>,
    /// All of them, also while requests have them.
    liveness: Liveness,
}

#[derive(Default)]
struct OfMember {
    /// Idle HTTP/1.1 connections, the one used last at the end.
    idle: Vec<Idle>,
    limit: IdleLimit,
    /// When the connections were last looked at.
    looked_at: Option<Instant>,
}

struct Idle {
    connection: Http1Connection,
    since: Instant,
}

/// An idle connection for a request, and how long it was idle.
pub(super) struct Taken {
    pub(super) connection: Http1Connection,
    pub(super) idle: Duration,
}

impl OfMember {
    /// Drops connections that have been idle for too long or that the backend has closed, and notes at which age it does
    /// that.
    fn look(&mut self, now: Instant) {
        let (limit, before) = (self.limit.of(true, now), self.looked_at.replace(now));
        let mut closed = None;
        self.idle.retain_mut(|idle| {
            idle.connection.check();
            if idle.connection.is_closed() {
                // It was open when it was looked at before, or put here.
                let seen = before.map_or(idle.since, |before| before.max(idle.since));
                closed.get_or_insert(seen.saturating_duration_since(idle.since));
                return false;
            }
            now.saturating_duration_since(idle.since) < limit
        });
        if let Some(age) = closed {
            self.limit.closed(age, now);
        }
    }
}

impl Pool {
    /// Takes an idle HTTP/1.1 connection that is not known to be closed, and that the backend is not about to close as far
    /// as that is known.
    pub(super) fn take(
        &self,
        member: &Member,
        name: &PooledName,
        is_repeatable: bool,
        now: Instant,
    ) -> Option<Taken> {
        let mut idle = self.idle.borrow_mut();
        let OfMember { idle: connections, limit, .. } = idle.get_mut(&member.id)?;
        let long_heads = member.load.has_long_heads();
        let limit = limit.of(is_repeatable, now);
        // Nearly always the last one fits, because all of a member's connections have one name.
        while let Some(last) = connections.iter().rposition(|idle| idle.connection.name() == name) {
            let idle = now.saturating_duration_since(connections[last].since);
            // Others have been idle for longer; a request that can be repeated may take them.
            if idle >= limit {
                return None;
            }
            let Idle { connection, .. } = connections.remove(last);
            let is_fit = connection.takes_long_heads() || !long_heads;
            if is_fit && connection.is_ready() && !connection.is_closed() {
                return Some(Taken { connection, idle });
            }
        }
        None
    }

    /// The backend has closed a connection that was idle for `age`, just when a request was sent on it.
    pub(crate) fn closed_under_request(&self, member: MemberId, age: Duration, now: Instant) {
        self.idle.borrow_mut().entry(member).or_default().limit.closed(age, now);
    }

    /// A response of the member's had this Keep-Alive field.
    pub(crate) fn keep_alive_said(&self, member: MemberId, field: &HeaderValue, now: Instant) {
        self.idle.borrow_mut().entry(member).or_default().limit.says(field, now);
    }

    /// Puts a connection back whose response is over.
    pub(crate) fn put(&self, member: MemberId, connection: UpstreamConnection, now: Instant) {
        // An HTTP/2 stream ends when it is dropped, and its connection is in the pool already.
        let UpstreamConnection::Http1(mut connection) = connection else { return };
        if !connection.is_ready() {
            connection.check();
        }
        // A connection with a task becomes ready when the task runs next.
        let is_usable = connection.has_task() || connection.is_ready();
        if connection.is_closed() || !is_usable {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let connections = &mut idle.entry(member).or_default().idle;
        if connections.len() < MAX_IDLE_PER_MEMBER {
            connections.push(Idle { connection, since: now });
        }
    }

    /// Drops connections that have been idle for too long or that the backend has closed.
    pub(crate) fn drop_idle(&self, now: Instant) {
        self.idle.borrow_mut().retain(|_, of_member| {
            of_member.look(now);
            !of_member.idle.is_empty() || !of_member.limit.is_unknown(now)
        });
        self.http2.borrow_mut().retain(|_, connections| connections.drop_idle(now, MAX_IDLE));
    }

    /// Watches a new connection: reading fails when its backend is gone without a word.
    pub(super) fn watch(&self, stream: TcpStream) -> WatchedStream {
        self.liveness.watch(stream)
    }

    /// Ends the connections whose backends are gone. To be called about every second.
    pub(crate) fn look_for_dead(&self, now: Instant) {
        self.liveness.look(now);
    }

    pub(super) fn http2(&self, member: MemberId) -> Rc<Http2Connections> {
        Rc::clone(self.http2.borrow_mut().entry(member).or_default())
    }
}
