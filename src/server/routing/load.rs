//! What the data plane counts for a member, and whether the member takes requests.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use super::ejection::{Ejection, Outcome};
use super::outage::Outage;

/// Between two lines about invalid responses of one member, in milliseconds.
const TOLD_PAUSE: u64 = 60_000;

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
    /// One of its responses had a head with more lines than a connection takes.
    long_heads: AtomicBool,
    /// Allocated when the first request fails.
    failures: OnceLock<Box<Failures>>,
}

#[derive(Debug)]
struct Failures {
    /// An [`Ejection`], packed.
    ejection: AtomicU64,
    /// An [`Outage`], packed.
    outage: AtomicU64,
    /// When the log may tell of its next invalid response: milliseconds since `epoch`.
    next_told: AtomicU64,
    /// The moment that all times count from.
    epoch: Instant,
}

impl MemberLoad {
    /// Takes no more requests. A read of `in_flight` after this counts every request that was taken.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Takes requests again. A member that was closed begins without an outage, because whoever opens it has proof
    /// that it answers.
    pub fn open(&self) {
        if self.closed.swap(false, Ordering::SeqCst)
            && let Some(failures) = self.failures.get()
        {
            failures.outage.store(0, Ordering::Release);
        }
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

    /// From now on connections to it take heads with many lines.
    pub fn needs_long_heads(&self) {
        self.long_heads.store(true, Ordering::Relaxed);
    }

    /// Whether connections to it must take heads with many lines.
    pub fn has_long_heads(&self) -> bool {
        self.long_heads.load(Ordering::Relaxed)
    }

    /// Whether the log may tell of an invalid response: once a minute.
    pub fn may_tell(&self, now: Instant) -> bool {
        let Failures { next_told, epoch, .. } = self.failures(now);
        let since = now.saturating_duration_since(*epoch).as_millis() as u64;
        let next = |told| (told <= since).then_some(since + TOLD_PAUSE);
        next_told.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Whether there is no failure on record, so that another answer changes nothing.
    pub fn is_well(&self) -> bool {
        let is_clear = |state: &AtomicU64| state.load(Ordering::Relaxed) == 0;
        self.failures.get().is_none_or(|failures| is_clear(&failures.ejection) && is_clear(&failures.outage))
    }

    /// Records the outcome of a request. Returns the new state if it has changed.
    pub fn record(&self, outcome: Outcome, now: Instant) -> Option<Ejection> {
        if outcome == Outcome::Answered && self.is_well() {
            return None;
        }
        let Failures { ejection, outage, epoch, .. } = self.failures(now);
        if outcome == Outcome::Answered {
            let _ = outage.fetch_update(Ordering::AcqRel, Ordering::Acquire, |bits| {
                Some(Outage::unpack(bits).answered().pack())
            });
        }
        let since = now.saturating_duration_since(*epoch);
        let next = |bits| Some(Ejection::unpack(bits).next(outcome, since).pack());
        let before = ejection.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok()?;
        let state = Ejection::unpack(before).next(outcome, since);
        (state.pack() != before).then_some(state)
    }

    /// Whether it is ejected at `now` (SEMANTICS section 3).
    pub fn is_ejected(&self, now: Instant) -> bool {
        let Some(Failures { ejection, epoch, .. }) = self.failures.get().map(|failures| &**failures) else {
            return false;
        };
        Ejection::unpack(ejection.load(Ordering::Relaxed)).is_out(now.saturating_duration_since(*epoch))
    }

    /// The member cannot be connected to. Returns whether that is news.
    pub fn set_unreachable(&self, now: Instant) -> bool {
        let Failures { outage, epoch, .. } = self.failures(now);
        let since = now.saturating_duration_since(*epoch);
        let next = |bits| Some(Outage::unpack(bits).failed(since).pack());
        let before = outage.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        before.is_ok_and(|before| !Outage::unpack(before).is_unreachable())
    }

    /// The member can be connected to again, which is not yet an answer.
    pub fn set_reachable(&self) {
        let Some(failures) = self.failures.get() else { return };
        let next = |bits| Some(Outage::unpack(bits).reached().pack());
        let _ = failures.outage.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// Whether the member cannot be connected to.
    pub fn is_unreachable(&self) -> bool {
        self.outage().is_some_and(|(outage, _)| outage.is_unreachable())
    }

    /// When the member could not be connected to for the first time since its last answer, if it cannot now.
    pub fn unreachable_since(&self) -> Option<Instant> {
        let (outage, epoch) = self.outage()?;
        outage.unreachable_since().map(|since| epoch + since)
    }

    fn outage(&self) -> Option<(Outage, Instant)> {
        let failures = self.failures.get()?;
        Some((Outage::unpack(failures.outage.load(Ordering::Acquire)), failures.epoch))
    }

    fn failures(&self, now: Instant) -> &Failures {
        let first = || {
            Box::new(Failures {
                ejection: AtomicU64::new(0),
                outage: AtomicU64::new(0),
                next_told: AtomicU64::new(0),
                epoch: now,
            })
        };
        self.failures.get_or_init(first)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_invalid_response_is_told_once_a_minute() {
        let (load, start) = (MemberLoad::default(), Instant::now());
        let told = |seconds| load.may_tell(start + Duration::from_secs(seconds));
        assert_eq!([0, 1, 59, 60, 61, 200].map(told), [true, false, false, true, false, true]);
        assert!(load.is_well(), "which is no failure");
    }
}
