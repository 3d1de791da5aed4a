//! Deadlines: each of a kind at most once, the earliest at hand, none looked at before its time.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::server::registry::model::{ConnId, SessionNo};

/// What becomes due. Of what is due at the same moment, the kind that is named first goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The connection never sent a valid command.
    Silent(ConnId),
    /// The connection's command has waited for long enough.
    Wait(ConnId),
    /// The session's staged changes were not applied. Before its end, of which the store might then be deciding.
    Stage(SessionNo),
    /// The session did not return.
    Grace(SessionNo),
    /// The store refused to forget the session; ask again.
    Forget(SessionNo),
    /// The store refused to hold the session's maintenance; ask again.
    StoreMaintenance(SessionNo),
    /// The session's drain is over.
    Drain(SessionNo),
    /// A maintenance request of the session gets its verdict.
    Verdict(SessionNo),
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
