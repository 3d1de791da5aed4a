//! What follows when the store has decided.

use std::time::Duration;

use registry_client::protocol::{Refusal, Reply};

use crate::server::registry::api::LogEvent;
use crate::server::registry::model::{ConnId, Now, SessionEvent, SessionNo, SessionState, Tx};

use super::Engine;
use super::pending_commits::Pending;
use super::timers::Timer;

/// How long to wait before the store is asked again, or a deadline looked at that came while it decided.
pub(crate) const STORE_RETRY: Duration = Duration::from_secs(5);

impl Engine {
    /// The store has decided on a change.
    pub(crate) fn store_decided(&mut self, now: Now, tx: Tx, committed: bool) {
        let Some(pending) = self.commits.take(tx) else { return };
        let (Pending::Apply { session: no, .. }
        | Pending::ShutDown { session: no, .. }
        | Pending::Entering { session: no, .. }
        | Pending::Reserving { session: no, .. }
        | Pending::Draining { session: no, .. }
        | Pending::Leaving { session: no, .. }) = pending
        else {
            return self.end_decided(now, pending, committed);
        };
        let waiting = self.settle(no);
        if !committed {
            self.log(LogEvent::StoreRefused(no));
        }
        let refused = || Reply::Error(Refusal::StoreUnavailable);
        match pending {
            Pending::Apply { conn, delta, scopes, stored, .. } => {
                if committed {
                    self.take_places_back(no, &delta);
                    self.install(now, no, tx.0, &delta, scopes.as_deref());
                    self.maintenance_is_stored(&stored);
                    self.store_maintenance_if_changed(no);
                }
                self.answer_commit(now, conn, tx, if committed { Reply::Ok } else { refused() });
            }
            Pending::Entering { conn, entering, stored, .. } if committed => {
                self.maintenance_is_stored(&stored);
                self.entered(now, no, (conn, tx), *entering);
            }
            Pending::Entering { conn, .. } => self.answer_commit(now, conn, tx, refused()),
            Pending::Leaving { stored, .. } => {
                if committed {
                    self.maintenance_is_stored(&stored);
                }
                self.left(now, no);
            }
            Pending::ShutDown { conn, .. } if committed => {
                let waits = self.stop_waiting_for_store(conn, tx);
                self.shut_down(now, no, waits.then_some(conn));
                self.resume(now, conn);
            }
            Pending::ShutDown { conn, .. } => self.answer_commit(now, conn, tx, refused()),
            Pending::Draining { conn, begins, marks, .. } => {
                let reply = if committed { self.drain_is_stored(no, begins, *marks) } else { refused() };
                self.answer_commit(now, conn, tx, reply);
            }
            Pending::Reserving { conn, last, .. } => {
                self.reserved(now, no, conn, committed.then_some(last));
            }
            Pending::Expiry(_)
            | Pending::Forget(_)
            | Pending::StoreMaintenance(_)
            | Pending::StoreKin(_)
            | Pending::Marks(_) => {}
        }
        if self.sessions.get(no).is_some_and(|session| session.state == SessionState::Replaced) {
            self.retire_if_idle(now, no);
        }
        self.go_on_leaving(now, no);
        self.store_new_kin(now, no);
        self.release(now, no, waiting);
    }

    /// The store has decided on a change for which no command waits.
    fn end_decided(&mut self, now: Now, pending: Pending, committed: bool) {
        let retry = now.mono + STORE_RETRY;
        match pending {
            Pending::Expiry(no) => {
                let waiting = self.settle(no);
                if committed {
                    self.advance(now, no, SessionEvent::GraceOver);
                } else {
                    self.log(LogEvent::StoreRefused(no));
                    self.timers.set(Timer::Grace(no), retry);
                }
                self.release(now, no, waiting);
            }
            // With the session's next change.
            Pending::StoreKin(no) if !committed => {
                if let Some(session) = self.sessions.get_mut(no) {
                    session.has_new_kin = true;
                }
            }
            Pending::Marks(marks) => self.marks_decided(now, marks, committed),
            Pending::Forget(no) if !committed => self.timers.set(Timer::Forget(no), retry),
            Pending::StoreMaintenance(stored) if committed => self.maintenance_is_stored(&stored),
            Pending::StoreMaintenance(stored) => {
                for (no, _) in stored {
                    self.timers.set(Timer::StoreMaintenance(no), retry);
                }
            }
            _ => {}
        }
    }

    /// The store has decided on the session's change. Returns the connections whose commands waited for that.
    fn settle(&mut self, no: SessionNo) -> Vec<ConnId> {
        let Some(session) = self.sessions.get_mut(no) else { return Vec::new() };
        session.pending = None;
        std::mem::take(&mut session.waiting)
    }
}
