//! A drain: a session's members get fewer and fewer new requests (SEMANTICS section 6).

use std::time::Instant;

use crate::server::registry::model::SessionNo;
use crate::server::registry::session::Draining;

use super::Engine;
use super::timers::Timer;

impl Engine {
    /// The weight of the session's members falls until `end`, and that of the members that it adds meanwhile.
    pub(crate) fn begin_drain(&mut self, no: SessionNo, drain: Draining, end: Instant) {
        if let Some(session) = self.sessions.get_mut(no) {
            session.drain = Some(drain);
        }
        self.timers.set(Timer::Drain(no), end);
        self.show_drain(no);
    }

    /// The drain is over before its time.
    pub(crate) fn end_drain(&mut self, no: SessionNo, drain: Draining) {
        if let Some(session) = self.sessions.get_mut(no) {
            session.drain = Some(drain);
        }
        self.drain_over(no);
    }

    /// The session's members have their full weight again.
    pub(crate) fn cancel_drain(&mut self, no: SessionNo) {
        if let Some(session) = self.sessions.get_mut(no) {
            session.drain = None;
        }
        self.timers.cancel(Timer::Drain(no));
        self.show_drain(no);
    }

    /// The drain is over: no new request goes to the session's members.
    pub(super) fn drain_over(&mut self, no: SessionNo) {
        self.timers.cancel(Timer::Drain(no));
        self.show_drain(no);
    }

    fn show_drain(&mut self, no: SessionNo) {
        let Some(session) = self.sessions.get(no) else { return };
        let drain = session.drain.map(|draining| draining.drain);
        for id in session.members.iter() {
            self.membership.set_drain(id, drain);
        }
    }
}
