//! Requests that wait for a member that cannot be connected to, and how they are let go once it can.
//!
//! All workers share this. It must not know how a member is dialled, nor when a request gives up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use crate::server::routing::MemberId;

/// The members that cannot be connected to. Each has one task that dials it.
#[derive(Debug, Default)]
pub(crate) struct Recoveries(Mutex<HashMap<MemberId, Arc<Recovery>>>);

/// Requests that wait for one member.
///
/// When a connection succeeds, one request gets a permit. Each answer gives two permits, so the batches double, and a backend
/// that has just started does not get all that waited at the same moment.
#[derive(Debug)]
pub(crate) struct Recovery {
    permits: Semaphore,
    waiting: AtomicUsize,
    /// The last attempt to connect succeeded.
    is_connectable: AtomicBool,
    /// A request has been answered since the last failure to connect.
    has_answered: AtomicBool,
}

/// The right of one request to go to a member that is recovering. Dropped without an outcome, it is the next one's.
#[derive(Debug)]
pub(crate) struct Permit {
    recovery: Arc<Recovery>,
    is_used: AtomicBool,
}

impl Recoveries {
    /// The recovery of a member, and whether it begins with this call: then the caller must see to it that the member is
    /// dialled, and [`Recoveries::end`] it.
    pub(crate) fn of(&self, member: MemberId) -> (Arc<Recovery>, bool) {
        let mut all = self.all();
        if let Some(recovery) = all.get(&member) {
            return (Arc::clone(recovery), false);
        }
        let recovery = Arc::new(Recovery {
            permits: Semaphore::new(0),
            waiting: AtomicUsize::new(0),
            is_connectable: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
        });
        all.insert(member, Arc::clone(&recovery));
        (recovery, true)
    }

    /// Nobody waits for the member in particular any more.
    pub(crate) fn end(&self, member: MemberId) {
        if let Some(recovery) = self.all().remove(&member) {
            recovery.permits.close();
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<MemberId, Arc<Recovery>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recovery {
    /// Whether the last attempt to connect succeeded.
    pub(crate) fn is_connectable(&self) -> bool {
        self.is_connectable.load(Ordering::SeqCst)
    }

    /// Whether a request waits for a permit.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Whether a request has been answered since the last failure to connect.
    pub(crate) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::SeqCst)
    }

    /// A connection succeeded: the first request may go.
    pub(crate) fn connected(&self) {
        if !self.is_connectable.swap(true, Ordering::SeqCst) {
            self.permits.add_permits(1);
        }
    }

    /// A connection failed. Returns whether the member had answered since the last failure.
    pub(crate) fn failed(&self) -> bool {
        self.is_connectable.store(false, Ordering::SeqCst);
        self.permits.forget_permits(Semaphore::MAX_PERMITS);
        self.has_answered.swap(false, Ordering::SeqCst)
    }

    /// Takes a permit if there is one.
    pub(crate) fn try_permit(self: &Arc<Self>) -> Option<Permit> {
        self.permits.try_acquire().ok()?.forget();
        Some(Permit { recovery: Arc::clone(self), is_used: AtomicBool::new(false) })
    }

    /// Waits for a permit; first come, first served. `None`: the recovery is over. Dropping the future leaves the queue.
    pub(crate) async fn permit(self: &Arc<Self>) -> Option<Permit> {
        let _waiting = CountedWaiting::enter(&self.waiting);
        self.permits.acquire().await.ok()?.forget();
        Some(Permit { recovery: Arc::clone(self), is_used: AtomicBool::new(false) })
    }

    fn give(&self, permits: usize) {
        if self.is_connectable() {
            self.permits.add_permits(permits);
        }
    }
}

impl Permit {
    /// The member answered, so twice as many may go.
    pub(crate) fn answered(&self) {
        if !self.is_used.swap(true, Ordering::SeqCst) {
            self.recovery.has_answered.store(true, Ordering::SeqCst);
            self.recovery.give(2);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.is_used.swap(true, Ordering::SeqCst) {
            self.recovery.give(1);
        }
    }
}

struct CountedWaiting<'a>(&'a AtomicUsize);

impl<'a> CountedWaiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        CountedWaiting(count)
    }
}

impl Drop for CountedWaiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recovery() -> Arc<Recovery> {
        Recoveries::default().of(MemberId(1)).0
    }

    fn all_permits(recovery: &Arc<Recovery>) -> Vec<Permit> {
        std::iter::from_fn(|| recovery.try_permit()).collect()
    }

    #[test]
    fn batches_double_with_the_answers() {
        let recovery = recovery();
        assert_eq!(all_permits(&recovery).len(), 0);
        recovery.connected();
        recovery.connected();
        for size in [1, 2, 4, 8] {
            let batch = all_permits(&recovery);
            assert_eq!(batch.len(), size);
            batch.iter().for_each(Permit::answered);
        }
    }

    #[test]
    fn a_permit_without_an_outcome_is_the_next_ones() {
        let recovery = recovery();
        recovery.connected();
        for _ in 0..3 {
            assert_eq!(all_permits(&recovery).len(), 1);
        }
    }

    #[test]
    fn a_failure_to_connect_takes_the_permits_away_and_the_next_connection_begins_with_one() {
        let recovery = recovery();
        recovery.connected();
        let first = all_permits(&recovery);
        first[0].answered();
        let unanswered = recovery.try_permit();
        assert!(recovery.failed(), "it had answered");
        drop(unanswered);
        assert_eq!(all_permits(&recovery).len(), 0);
        assert!(!recovery.failed());
        recovery.connected();
        assert_eq!(all_permits(&recovery).len(), 1);
    }

    #[tokio::test]
    async fn whoever_waits_when_it_ends_waits_no_longer() {
        let recoveries = Recoveries::default();
        let (recovery, begins) = recoveries.of(MemberId(1));
        assert!(begins && !recoveries.of(MemberId(1)).1);
        let waiting = tokio::spawn(async move { recovery.permit().await.is_none() });
        recoveries.end(MemberId(1));
        assert!(waiting.await.unwrap());
        assert!(recoveries.of(MemberId(1)).1);
    }
}
