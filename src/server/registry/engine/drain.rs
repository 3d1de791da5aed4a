//! A drain: a session's members get fewer and fewer new requests (SEMANTICS section 6).

use std::time::Instant;

use registry_client::protocol::{Refusal, Reply};

use crate::server::registry::model::{ConnId, Now, SessionNo};
use crate::server::registry::persist::{SessionMarks, StoreChange};
use crate::server::registry::session::Draining;

use super::Engine;
use super::connections::Wait;
use super::pending_commits::{BeginningDrain, Pending};
use super::queue::Outcome;
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

    /// DRAIN_START. Where replicas have to know of it, it begins when the store holds it. `reply`: to the command.
    pub(crate) fn start_drain(
        &mut self,
        now: Now,
        conn: ConnId,
        no: SessionNo,
        draining: Draining,
        end: Instant,
        reply: Reply,
    ) -> Outcome {
        if self.must_store_marks(no) {
            return self.store_drain(now, conn, no, Some(BeginningDrain { draining, end, reply }));
        }
        self.begin_drain(no, draining, end);
        Outcome::Reply(reply)
    }

    /// DRAIN_CANCEL. Where replicas have to know of it, it is in force when the store holds it.
    pub(crate) fn stop_drain(&mut self, now: Now, conn: ConnId, no: SessionNo) -> Outcome {
        if self.must_store_marks(no) {
            return self.store_drain(now, conn, no, None);
        }
        self.cancel_drain(no);
        Outcome::Reply(Reply::DrainOk)
    }

    /// Asks the store to hold a drain, or its end. Other marks of the session may be on their way, so it goes with those that
    /// the session has now. Later ones wait until this is decided ([`Engine::write_marks`]): they would not tell of it.
    fn store_drain(
        &mut self,
        now: Now,
        conn: ConnId,
        no: SessionNo,
        begins: Option<BeginningDrain>,
    ) -> Outcome {
        let Some(session) = self.sessions.get(no) else { return Err(Refusal::SessionNotFound).into() };
        let drain = begins.as_ref().map(|begins| begins.draining.record());
        let marks = SessionMarks { drain, ..self.marks_of(now, session) };
        let pending = Pending::Draining {
            session: no,
            conn,
            begins: begins.map(Box::new),
            marks: Box::new(marks.clone()),
        };
        Outcome::Wait(Wait::Store(self.commit(no, StoreChange::Marked(vec![(no, marks)]), pending)))
    }

    /// The store holds the beginning or the end of a drain. Returns the reply to the command.
    pub(super) fn drain_is_stored(
        &mut self,
        no: SessionNo,
        begins: Option<Box<BeginningDrain>>,
        marks: SessionMarks,
    ) -> Reply {
        if let Some(session) = self.sessions.get_mut(no) {
            session.marks = marks;
        }
        let Some(begins) = begins else {
            self.cancel_drain(no);
            return Reply::DrainOk;
        };
        let BeginningDrain { draining, end, reply } = *begins;
        self.begin_drain(no, draining, end);
        reply
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
        self.touch(no);
        let Some(session) = self.sessions.get(no) else { return };
        let drain = session.drain.map(|draining| draining.drain);
        for id in session.members.iter() {
            self.membership.set_drain(id, drain);
        }
    }
}
