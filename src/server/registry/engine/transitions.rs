//! The one place where a session's state changes, and what follows from it (PROTOCOL section 2).

use std::time::{Duration, Instant};

use registry_client::protocol::Reply;

use crate::server::registry::api::{Effect, LogEvent};
use crate::server::registry::membership::Removal;
use crate::server::registry::model::{ConnId, Now, SessionEvent, SessionNo, SessionState};
use crate::server::registry::persist::{EndReason, StoreChange};
use crate::server::registry::session::{Lost, Stage};

use super::Engine;
use super::connections::Wait;
use super::pending_commits::Pending;
use super::queue::Outcome;
use super::store_decision::STORE_RETRY;
use super::timers::Timer;

impl Engine {
    /// A session did not return in time.
    pub(super) fn grace_over(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get(no) else { return };
        if session.pending.is_some() || self.is_silent() {
            self.timers.set(Timer::Grace(no), now.mono + STORE_RETRY);
        } else if session.state == SessionState::Grace && session.revision > 0 {
            self.commit(no, StoreChange::Ended(no, EndReason::Expired), Pending::Expiry(no));
        } else {
            self.advance(now, no, SessionEvent::GraceOver);
        }
    }

    /// CLIENT_SHUTDOWN. A session that the store holds ends when the store has forgotten it.
    pub(crate) fn end_session(&mut self, now: Now, conn: ConnId, no: SessionNo) -> Outcome {
        if self.sessions.get(no).is_some_and(|session| session.revision > 0) {
            let pending = Pending::ShutDown { session: no, conn };
            let change = StoreChange::Ended(no, EndReason::ShutDown);
            return Outcome::Wait(Wait::Store(self.commit(no, change, pending)));
        }
        self.shut_down(now, no, Some(conn));
        Outcome::Done
    }

    /// CLIENT_SHUTDOWN, once the store has forgotten the session. The reply is sent when its members are gone.
    pub(super) fn shut_down(&mut self, now: Now, no: SessionNo, asked_by: Option<ConnId>) {
        let bound = self.sessions.get(no).and_then(|session| session.conn);
        self.advance(now, no, SessionEvent::ShutDown);
        if let Some(conn) = asked_by {
            // The client's process ends when it has the reply, so that must not wait for a backend.
            self.give_up_tests(conn);
            self.send(conn, Reply::ShutdownOk);
        }
        if let Some(bound) = bound {
            self.close(now, bound);
        }
    }

    /// Changes a session's state; nothing else does. Its members, deadlines, the log and its predecessors follow.
    pub(super) fn advance(&mut self, now: Now, no: SessionNo, event: SessionEvent) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let (was, is) = (session.state, session.state.next(event));
        if was == is {
            return;
        }
        session.state = is;
        let (peer, who) = (session.peer, session.label());
        if was == SessionState::Connected {
            self.stop_keepalive(no);
            self.sessions.disconnected(peer);
        }
        self.note_loss(now, no, was, is);
        let time = self.grace_of(no);
        let grace = now.mono + time;
        match is {
            SessionState::Connected => {
                self.timers.cancel(Timer::Grace(no));
                self.timers.cancel(Timer::Orphan(no));
                self.sessions.connected(peer, self.config.limits.shared_addresses);
                self.tell_members(no, false);
            }
            SessionState::Remote => self.timers.cancel(Timer::Grace(no)),
            SessionState::Grace => {
                self.set_grace(no, grace);
                self.log(LogEvent::Lost(who, time));
            }
            SessionState::Replaced => self.became_replaced(no, grace),
            SessionState::Retired => self.became_retired(now, no),
            SessionState::Gone => {
                self.became_gone(now, no, was == SessionState::Retired);
                match event {
                    SessionEvent::ShutDown => self.push(Effect::Log(LogEvent::ShutDown(who))),
                    SessionEvent::GraceOver => self.push(Effect::Log(LogEvent::Expired(who))),
                    _ => {}
                }
            }
        }
        self.touch(no);
    }

    /// How long a session outlives its connection. One that never applied has nothing to lose, and takes a place.
    pub(super) fn grace_of(&self, no: SessionNo) -> Duration {
        let has_applied = self.sessions.get(no).is_some_and(|session| session.revision > 0);
        if has_applied { self.config.grace } else { self.config.grace.min(self.config.unapplied_grace) }
    }

    /// Notes since when a session is lost, and tells its members.
    fn note_loss(&mut self, now: Now, no: SessionNo, was: SessionState, is: SessionState) {
        if was.is_bound() == is.is_bound() {
            return;
        }
        let Some(session) = self.sessions.get_mut(no) else { return };
        session.lost = was.is_bound().then_some(Lost { at: now, is_prolonged: false });
        // Those of a session that is bound here are told when its address is known.
        if is != SessionState::Connected {
            self.tell_members(no, was.is_bound());
        }
    }

    /// Lets a session end at `at` unless it returns. The leader of replicas decides on that alone.
    pub(super) fn set_grace(&mut self, no: SessionNo, at: Instant) {
        if self.role.leads() {
            self.timers.set(Timer::Grace(no), at);
        }
    }

    fn became_replaced(&mut self, no: SessionNo, grace: Instant) {
        self.drop_verdicts(no);
        self.drop_subscriptions_of(no);
        let Some(session) = self.sessions.get_mut(no) else { return };
        session.stage = Stage::default();
        let happened = session.replaced_by.map(|by| LogEvent::Replaced(session.label(), by));
        self.sessions.count_stage(no);
        self.timers.cancel(Timer::Stage(no));
        if !self.timers.is_set(Timer::Grace(no)) {
            self.set_grace(no, grace);
        }
        if let Some(happened) = happened {
            self.log(happened);
        }
    }

    fn became_retired(&mut self, now: Now, no: SessionNo) {
        // There may be a new one: of a MAINT_ENTER that the store held only after the session was replaced.
        self.drop_verdicts(no);
        self.timers.cancel(Timer::Grace(no));
        self.timers.cancel(Timer::Drain(no));
        self.timers.cancel(Timer::StoreMaintenance(no));
        self.end_its_maintenance(no);
        self.sessions.retire(no);
        let Some(session) = self.sessions.get_mut(no) else { return };
        let (members, stored) = (std::mem::take(&mut session.members), session.revision > 0);
        session.applied.clear();
        let orphaned = session.replaced_by.is_none();
        for id in members.iter() {
            self.membership.remove(id, Removal::Ended);
        }
        if stored && self.role.leads() {
            self.forget_in_store(no);
        }
        if orphaned {
            self.advance(now, no, SessionEvent::Forgotten);
        }
    }

    fn became_gone(&mut self, now: Now, no: SessionNo, retired: bool) {
        self.drop_verdicts(no);
        self.drop_subscriptions_of(no);
        self.end_its_maintenance(no);
        let Some(session) = self.sessions.remove(no, retired) else { return };
        self.timers.cancel(Timer::Grace(no));
        self.timers.cancel(Timer::Orphan(no));
        self.timers.cancel(Timer::MarkLost(no));
        self.timers.cancel(Timer::Stage(no));
        self.timers.cancel(Timer::Drain(no));
        self.timers.cancel(Timer::StoreMaintenance(no));
        for id in session.members.iter() {
            self.membership.remove(id, Removal::Ended);
        }
        if let Some(conn) = session.conn {
            self.connections.take_bound(conn);
        }
        for older in session.predecessors {
            if let Some(older) = self.sessions.get_mut(older) {
                older.replaced_by = None;
            }
            self.advance(now, older, SessionEvent::Forgotten);
        }
    }

    fn end_its_maintenance(&mut self, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        // A follower is told by the records of the others.
        if std::mem::take(&mut session.keeps_others_in_maintenance) && self.role.leads() {
            let service = session.registration.service.clone();
            self.end_maintenance_by(no, &service);
        }
    }

    /// Asks the store to forget a session that has ended already.
    pub(super) fn forget_in_store(&mut self, no: SessionNo) {
        self.commit(no, StoreChange::Ended(no, EndReason::Superseded), Pending::Forget(no));
    }

    pub(super) fn tell_members(&mut self, no: SessionNo, lost: bool) {
        let Some(session) = self.sessions.get(no) else { return };
        for id in session.members.iter() {
            self.membership.set_lost(id, lost, session.peer);
        }
    }
}
