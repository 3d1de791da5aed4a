//! Deadlines, each at most once. Finding the next one does not depend on how many there are.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use crate::server::registry::model::{ConnId, SessionNo, TestId};

/// What becomes due. Deadlines of the same moment come in the order of the kinds here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The connection has not sent a valid command in time.
    Silent(ConnId),
    /// A backend had as long to answer a BACKEND_TEST as a command may wait.
    Test(TestId),
    /// The connection's command has waited as long as one may.
    Wait(ConnId),
    /// The session's stage was not applied in time. It comes before the end of the session, which may go to the store.
    Stage(SessionNo),
    /// The session did not return to the new leader in time.
    Orphan(SessionNo),
    /// The session did not return in time.
    Grace(SessionNo),
    /// Ask the store again to forget the session.
    Forget(SessionNo),
    /// Ask the store again to hold the session's maintenance.
    StoreMaintenance(SessionNo),
    /// The session's drain is over.
    Drain(SessionNo),
    /// The time of a maintenance request of the session is over.
    Verdict(SessionNo),
    /// There was no wrong secret from the address for a while.
    AuthBackoff(IpAddr),
    /// The session has been lost for long enough to be marked.
    MarkLost(SessionNo),
    /// Ask the store to hold the marks that have changed.
    Marks,
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeSet<(Instant, Timer)>,
    at: HashMap<Timer, Instant>,
}

impl Timers {
    /// Sets or moves a deadline.
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        if let Some(before) = self.at.insert(timer, at) {
            self.due.remove(&(before, timer));
        }
        self.due.insert((at, timer));
    }

    pub(super) fn cancel(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.due.remove(&(at, timer));
        }
    }

    /// Cancels those of which `is` says so.
    pub(super) fn cancel_all(&mut self, is: impl Fn(Timer) -> bool) {
        self.due.retain(|(_, timer)| !is(*timer));
        self.at.retain(|timer, _| !is(*timer));
    }

    /// When it becomes due.
    pub(super) fn at(&self, timer: Timer) -> Option<Instant> {
        self.at.get(&timer).copied()
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.at.contains_key(&timer)
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the earliest deadline that has passed.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.cancel(timer);
        Some(timer)
    }
}
