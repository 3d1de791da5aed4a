//! A model of etcd, as far as replicas rely on it: one order of all changes; a key that hangs on a lease; transactions
//! that compare; a history that may be compacted.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use registry_sidecar::server::registry::StoreChange;
use registry_sidecar::server::registry::persist::SavedState;

/// How long a lease lasts.
pub(crate) const TTL: Duration = Duration::from_secs(5);

/// Who leads, and under which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) term: u64,
    pub(crate) replica: usize,
}

#[derive(Default)]
pub(crate) struct Etcd {
    pub(crate) state: SavedState,
    pub(crate) revision: u64,
    history: VecDeque<(u64, StoreChange)>,
    key: Option<(Key, Duration)>,
    /// The transactions that were made, by term and number.
    made: BTreeSet<(u64, u64)>,
    /// Nobody reaches it.
    pub(crate) is_away: bool,
}

impl Etcd {
    /// The leader's key, unless its lease is over.
    pub(crate) fn leader(&mut self, now: Duration) -> Option<Key> {
        // While etcd is away its clock for leases stands, and it starts them anew when it is back.
        if let Some((_, until)) = self.key
            && until <= now
            && !self.is_away
        {
            self.key = None;
        }
        self.key.map(|(key, _)| key)
    }

    /// etcd has elected a leader of its own again: leases start anew.
    pub(crate) fn come_back(&mut self, now: Duration) {
        self.is_away = false;
        if let Some((_, until)) = &mut self.key {
            *until = now + TTL;
        }
    }

    pub(crate) fn campaign(&mut self, replica: usize, now: Duration) -> Option<Key> {
        if self.leader(now).is_some() {
            return None;
        }
        self.revision += 1;
        let key = Key { term: self.revision, replica };
        self.key = Some((key, now + TTL));
        Some(key)
    }

    /// Whether the key is still there; its lease starts anew if so.
    pub(crate) fn renew(&mut self, term: u64, now: Duration) -> bool {
        let holds = self.leader(now).is_some_and(|key| key.term == term);
        if holds && let Some((_, until)) = &mut self.key {
            *until = now + TTL;
        }
        holds
    }

    pub(crate) fn resign(&mut self, term: u64) {
        self.key.take_if(|(key, _)| key.term == term);
    }

    /// A transaction: it holds if the leader's key is that of the term, and it was not made before. Returns whether its
    /// change is held.
    pub(crate) fn commit(&mut self, term: u64, number: u64, change: &StoreChange, now: Duration) -> bool {
        if self.made.contains(&(term, number)) {
            return true;
        }
        if self.leader(now).is_none_or(|key| key.term != term) {
            return false;
        }
        self.made.insert((term, number));
        self.revision += 1;
        self.state.apply(change);
        self.history.push_back((self.revision, change.clone()));
        true
    }

    /// What changed behind a revision. `None`: that was compacted.
    pub(crate) fn since(&self, revision: u64, compacted: u64) -> Option<Vec<(u64, StoreChange)>> {
        (revision >= compacted)
            .then(|| self.history.iter().filter(|(at, _)| *at > revision).cloned().collect())
    }
}
