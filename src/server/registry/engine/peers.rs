//! Connections come and go (PROTOCOL sections 1 and 2).

use std::net::IpAddr;

use registry_client::protocol::{Push, Refusal, Reply};

use crate::server::registry::api::{Effect, LogEvent};
use crate::server::registry::model::{ConnId, Now};

use super::Engine;
use super::timers::Timer;

impl Engine {
    pub(super) fn opened(&mut self, now: Now, conn: ConnId, peer: IpAddr) {
        if !self.role.leads() {
            // Never a line: the reference client would take it for a reason to register anew.
            return self.push(Effect::Close(conn));
        }
        let limits = self.config.limits;
        let full = self.connections.len() >= limits.connections;
        let from_there = self.connections.add(conn, peer);
        let crowded = from_there > limits.connections_per_address && !peer.is_loopback();
        if self.stopping {
            self.send(conn, Push::Shutdown);
            self.close(now, conn);
        } else if full {
            self.drop_connection(now, conn, "too many connections");
        } else if crowded {
            self.drop_connection(now, conn, "too many connections from this address");
        } else {
            self.timers.set(Timer::Silent(conn), now.mono + self.config.silent_connection);
        }
    }

    /// The peer has closed the connection.
    pub(super) fn closed(&mut self, now: Now, conn: ConnId) {
        let Some(closed) = self.connections.remove(conn) else { return };
        self.timers.cancel(Timer::Silent(conn));
        self.timers.cancel(Timer::Wait(conn));
        for test in closed.tests {
            self.tests.end(test);
            self.timers.cancel(Timer::Test(test));
        }
        self.drop_resume(conn);
        self.drop_subscriptions_on(conn);
        if let Some(no) = closed.bound {
            self.unbind(now, no);
        }
    }

    /// Closes a connection from our side, when everything has been sent that is due there.
    pub(super) fn close(&mut self, now: Now, conn: ConnId) {
        if self.connections.contains(conn) {
            self.give_up_tests(conn);
            self.push(Effect::Close(conn));
            self.closed(now, conn);
        }
    }

    /// Closes a connection that takes more than its share. The peer and the log are told why.
    pub(super) fn drop_connection(&mut self, now: Now, conn: ConnId, why: &'static str) {
        if let Some(peer) = self.connections.peer(conn) {
            self.log(LogEvent::Dropped(conn, peer, why));
            self.send(conn, Reply::Error(Refusal::Other(why.to_owned())));
            self.close(now, conn);
        }
    }

    /// Sends `SHUTDOWN` and EOF to every connection (PROTOCOL section 2). Routes stay as they are.
    pub(super) fn stop(&mut self, now: Now) {
        self.stopping = true;
        for conn in self.connections.all() {
            self.send(conn, Push::Shutdown);
            self.close(now, conn);
        }
    }
}
