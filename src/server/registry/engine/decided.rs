//! What follows when the store has decided.

use super::Engine;
use super::commits::Pending;
use super::timers::Timer;
use crate::server::registry::api::Happening;
use crate::server::registry::model::{ConnId, Now, SessionEvent, SessionNo, SessionState, Tx};
use registry_client::protocol::{Refusal, Reply};
use std::time::Duration;

/// When to ask the store again to forget a session.
pub(crate) const STORE_RETRY: Duration = Duration::from_secs(5);

impl Engine {
    /// The store has decided.
    pub(crate) fn decided(&mut self, now: Now, tx: Tx, committed: bool) {
        let Some(pending) = self.commits.take(tx) else { return };
        let (Pending::Apply { session: no, .. }
        | Pending::ShutDown { session: no, .. }
        | Pending::Entering { session: no, .. }
        | Pending::Reserving { session: no, .. }
        | Pending::Leaving { session: no, .. }) = pending
        else {
            return self.end_decided(now, pending, committed);
        };
        let waiting = self.settle(no);
        if !committed {
            self.log(Happening::StoreRefused(no));
        }
        let refused = || Reply::Error(Refusal::StoreUnavailable);
        match pending {
            Pending::Apply { conn, delta, scopes, kept, .. } => {
                if committed {
                    self.install(now, no, tx.0, &delta, scopes.as_deref());
                    self.is_kept(&kept);
                    self.keep_up(no);
                }
                self.answer_commit(now, conn, tx, if committed { Reply::Ok } else { refused() });
            }
            Pending::Entering { conn, entering, kept, .. } if committed => {
                self.is_kept(&kept);
                self.entered(now, no, (conn, tx), *entering);
            }
            Pending::Entering { conn, .. } => self.answer_commit(now, conn, tx, refused()),
            Pending::Leaving { kept, .. } => {
                if committed {
                    self.is_kept(&kept);
                }
                self.left(now, no);
            }
            Pending::ShutDown { conn, .. } if committed => {
                let waits = self.stop_waiting_for_store(conn, tx);
                self.shut_down(now, no, waits.then_some(conn));
                self.resume(now, conn);
            }
            Pending::ShutDown { conn, .. } => self.answer_commit(now, conn, tx, refused()),
            Pending::Reserving { conn, last, .. } => {
                self.reserved(now, no, conn, committed.then_some(last));
            }
            Pending::Expiry(_) | Pending::Forget(_) | Pending::Remember(_) => {}
        }
        if self.sessions.get(no).is_some_and(|session| session.state == SessionState::Replaced) {
            self.retire_if_idle(now, no);
        }
        self.go_on_leaving(now, no);
        self.release(now, no, waiting);
    }

    /// The store has decided on the end of a session that nobody asked for.
    fn end_decided(&mut self, now: Now, pending: Pending, committed: bool) {
        let retry = now.mono + STORE_RETRY;
        match pending {
            Pending::Expiry(no) => {
                let waiting = self.settle(no);
                if committed {
                    self.advance(now, no, SessionEvent::GraceOver);
                } else {
                    self.log(Happening::StoreRefused(no));
                    self.timers.set(Timer::Grace(no), retry);
                }
                self.release(now, no, waiting);
            }
            Pending::Forget(no) if !committed => self.timers.set(Timer::Forget(no), retry),
            Pending::Remember(kept) if committed => self.is_kept(&kept),
            Pending::Remember(kept) => {
                for (no, _) in kept {
                    self.timers.set(Timer::Remember(no), retry);
                }
            }
            _ => {}
        }
    }

    /// The session's change is decided. Returns who waited for it.
    fn settle(&mut self, no: SessionNo) -> Vec<ConnId> {
        let Some(session) = self.sessions.get_mut(no) else { return Vec::new() };
        session.pending = None;
        std::mem::take(&mut session.waiting)
    }
}
