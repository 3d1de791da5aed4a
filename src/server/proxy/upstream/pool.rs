//! One worker's open connections to members.
//!
//! HTTP/1.1 connections are in the pool while they are idle. HTTP/2 connections are always in it, because requests
//! share them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::server::routing::MemberId;

use super::connection::UpstreamConnection;
use super::http1::Http1Connection;
use super::http2::Http2Connections;
use super::liveness::{Liveness, WatchedStream};
use super::tls::PooledName;

/// How long a connection may be idle. Node closes idle connections after 5 s (SEMANTICS section 9).
const MAX_IDLE: Duration = Duration::from_secs(4);
/// Idle HTTP/1.1 connections of one worker to one member.
const MAX_IDLE_PER_MEMBER: usize = 256;

#[derive(Default)]
pub(crate) struct Pool {
    /// Idle HTTP/1.1 connections, the one used last at the end.
    idle: RefCell<HashMap<MemberId, Vec<Idle>, foldhash::fast::RandomState>>,
    http2: RefCell<HashMap<MemberId, Rc<Http2Connections>>>,
    /// All of them, also while requests have them.
    liveness: Liveness,
}

struct Idle {
    connection: Http1Connection,
    since: Instant,
}

impl Pool {
    /// Takes an idle HTTP/1.1 connection that is not known to be closed.
    pub(super) fn take(&self, member: MemberId, name: &PooledName, now: Instant) -> Option<Http1Connection> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&member)?;
        // Nearly always the last one fits, because all of a member's connections have one name.
        while let Some(last) = connections.iter().rposition(|idle| idle.connection.name() == name) {
            let Idle { connection, since } = connections.remove(last);
            let is_ready = connection.is_ready() && !connection.is_closed();
            if now.saturating_duration_since(since) < MAX_IDLE && is_ready {
                return Some(connection);
            }
        }
        None
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
        let connections = idle.entry(member).or_default();
        if connections.len() < MAX_IDLE_PER_MEMBER {
            connections.push(Idle { connection, since: now });
        }
    }

    /// Drops connections that have been idle for too long or that the backend has closed.
    pub(crate) fn drop_idle(&self, now: Instant) {
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain_mut(|idle| {
                idle.connection.check();
                now.saturating_duration_since(idle.since) < MAX_IDLE && !idle.connection.is_closed()
            });
            !connections.is_empty()
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
