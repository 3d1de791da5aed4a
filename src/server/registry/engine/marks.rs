//! What the leader tells its replicas of sessions beyond what they apply (docs/internals/cluster.md).
//!
//! A session's marks follow from its state. Whatever changes the state touches the session, and after each input the
//! leader compares the marks of touched sessions with those that the store holds. The writes are on the way of no reply:
//! many sessions share one, one is on its way at a time, and at most ten a second begin.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::server::registry::api::Effect;
use crate::server::registry::model::{Now, SessionNo};
use crate::server::registry::persist::{LostRecord, SessionMarks, StoreChange};
use crate::server::registry::session::{Draining, Session};

use super::Engine;
use super::pending_commits::Pending;
use super::store_decision::STORE_RETRY;
use super::timers::Timer;

/// How long a session must be lost before replicas are told: most losses are over sooner.
pub(super) const LOSS_IS_TOLD_AFTER: Duration = Duration::from_secs(2);
/// The pause between two writes.
const PAUSE: Duration = Duration::from_millis(100);
/// The marks of how many sessions one write has at most. A transaction of etcd has at most 128 operations.
const BATCH: usize = 64;

/// Sessions whose marks the store may not hold.
#[derive(Default)]
pub(super) struct MarkQueue {
    /// Sessions that something has happened to during this input.
    touched: BTreeSet<SessionNo>,
    /// Sessions whose marks are to be written.
    due: BTreeSet<SessionNo>,
    /// Marks are on their way to the store.
    is_writing: bool,
    /// The next write begins then at the earliest.
    not_before: Option<Instant>,
}

impl Engine {
    /// Something has happened to a session that its marks may tell.
    pub(super) fn touch(&mut self, no: SessionNo) {
        if self.role.has_replicas() {
            self.marks.touched.insert(no);
        }
    }

    /// Whether replicas have to know what is decided about a session.
    pub(super) fn must_store_marks(&self, no: SessionNo) -> bool {
        self.role.has_replicas() && self.sessions.get(no).is_some_and(|session| session.revision > 0)
    }

    /// The marks of a session as it is.
    pub(super) fn marks_of(&self, now: Now, session: &Session) -> SessionMarks {
        let is_old = |at: Instant| now.mono.saturating_duration_since(at) >= LOSS_IS_TOLD_AFTER;
        let lost = session.lost.filter(|lost| is_old(lost.at.mono) || session.marks.lost.is_some());
        let is_shared = !session.peer.is_loopback() && !self.sessions.is_one_container(session.peer);
        SessionMarks {
            lost: lost.map(|lost| LostRecord { at: lost.at.wall, is_prolonged: lost.is_prolonged }),
            drain: session.drain.as_ref().map(Draining::record),
            suspended: self.membership.suspended(&session.members),
            peer: session.is_rebound.then_some(session.peer),
            shared_address: is_shared,
            superseded: session.superseded.clone(),
        }
    }

    /// Writes the marks that have changed, at the end of an input. Only a leader does.
    pub(super) fn write_marks(&mut self, now: Now) {
        let suspensions = self.membership.take_suspensions();
        if !self.role.has_replicas() {
            return;
        }
        self.marks.touched.extend(suspensions);
        let touched = std::mem::take(&mut self.marks.touched);
        if !self.role.leads() {
            return;
        }
        for no in touched {
            self.compare_marks(now, no);
        }
        self.write_due_marks(now);
    }

    fn compare_marks(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get(no).filter(|session| session.revision > 0) else { return };
        if self.marks_of(now, session) != session.marks {
            self.marks.due.insert(no);
        }
        if let Some(lost) = session.lost
            && session.marks.lost.is_none()
        {
            let at = lost.at.mono + LOSS_IS_TOLD_AFTER;
            if at > now.mono {
                self.timers.set(Timer::MarkLost(no), at);
            }
        }
    }

    fn write_due_marks(&mut self, now: Now) {
        if self.marks.is_writing || self.marks.due.is_empty() {
            return;
        }
        if let Some(at) = self.marks.not_before.filter(|at| *at > now.mono) {
            return self.timers.set(Timer::Marks, at);
        }
        let (mut marks, mut waiting) = (Vec::new(), Vec::new());
        while marks.len() < BATCH
            && let Some(no) = self.marks.due.pop_first()
        {
            let Some(session) = self.sessions.get(no).filter(|session| session.revision > 0) else {
                continue;
            };
            if session.pending.is_some_and(|tx| self.commits.is_drain(tx)) {
                waiting.push(no);
                continue;
            }
            let of = self.marks_of(now, session);
            if of != session.marks {
                marks.push((no, of));
            }
        }
        // The decision is an input, after which this is tried again.
        self.marks.due.extend(waiting);
        if marks.is_empty() {
            return;
        }
        self.marks.is_writing = true;
        self.marks.not_before = Some(now.mono + PAUSE);
        let tx = self.commits.add(Pending::Marks(marks.clone()));
        self.push(Effect::Commit(tx, StoreChange::Marked(marks)));
    }

    /// The store has decided on marks.
    pub(super) fn marks_decided(&mut self, now: Now, marks: Vec<(SessionNo, SessionMarks)>, committed: bool) {
        self.marks.is_writing = false;
        if !committed {
            self.marks.not_before = Some(now.mono + STORE_RETRY);
        }
        for (no, held) in marks {
            if committed && let Some(session) = self.sessions.get_mut(no) {
                session.marks = held;
            }
            self.touch(no);
        }
    }

    /// Forgets what was to be written: this replica does not lead any more.
    pub(super) fn abandon_marks(&mut self) {
        self.marks = MarkQueue::default();
    }
}
