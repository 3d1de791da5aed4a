//! What the data plane counts for a member, and whether the member takes requests.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use super::ejection::{Ejection, Outcome};

/// What the data plane counts for a member.
#[derive(Debug, Default)]
pub struct MemberLoad {
    /// Requests at the member whose response is not over.
    pub in_flight: AtomicU32,
    /// Upgraded connections (websockets), which do not count as in flight (SEMANTICS section 6).
    pub upgraded: AtomicU32,
    /// It takes no new requests. Set before the table shows that, which makes `in_flight` exact.
    closed: AtomicBool,
    /// Its session is over, so its upgraded connections must close.
    left: AtomicBool,
    /// Allocated when the first request fails.
    failures: OnceLock<Box<Failures>>,
}

#[derive(Debug)]
struct Failures {
    /// An [`Ejection`], packed.
    ejection: AtomicU64,
    /// The moment that all times count from.
    epoch: Instant,
}

impl MemberLoad {
    /// Takes no more requests. A read of `in_flight` after this counts every request that was taken.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Takes requests again.
    pub fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }

    /// The member is gone for good: upgraded connections to it must close.
    pub fn leave(&self) {
        self.close();
        self.left.store(true, Ordering::SeqCst);
    }

    /// Whether it takes no more requests.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Whether the member is gone for good.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }

    /// Whether there is no failure on record, so that another answer changes nothing.
    pub fn is_well(&self) -> bool {
        self.failures.get().is_none_or(|failures| failures.ejection.load(Ordering::Relaxed) == 0)
    }

    /// Records the outcome of a request. Returns the new state if it has changed.
    pub fn record(&self, outcome: Outcome, now: Instant) -> Option<Ejection> {
        if outcome == Outcome::Answered && self.is_well() {
            return None;
        }
        let first = || Box::new(Failures { ejection: AtomicU64::new(0), epoch: now });
        let Failures { ejection, epoch } = &**self.failures.get_or_init(first);
        let since = now.saturating_duration_since(*epoch);
        let next = |bits| Some(Ejection::unpack(bits).next(outcome, since).pack());
        let before = ejection.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok()?;
        let state = Ejection::unpack(before).next(outcome, since);
        (state.pack() != before).then_some(state)
    }

    /// Whether it is ejected at `now` (SEMANTICS section 3).
    pub fn is_ejected(&self, now: Instant) -> bool {
        let Some(Failures { ejection, epoch }) = self.failures.get().map(|failures| &**failures) else {
            return false;
        };
        Ejection::unpack(ejection.load(Ordering::Relaxed)).is_out(now.saturating_duration_since(*epoch))
    }
}
