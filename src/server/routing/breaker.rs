//! Circuit breakers: a backend that has failed too often in a row gets no requests for a while, and then a few trials
//! (PROTOCOL section 3, SEMANTICS section 3).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use registry_client::protocol::CircuitBreaker;
use registry_client::protocol::report::CircuitState;

/// The largest threshold.
pub const MAX_FAILURES: u32 = 1_000_000;
/// The largest number of trials at once.
pub const MAX_TRIALS: u32 = 1_000;

/// The state of a breaker. It fits 64 bits, so that it changes in one compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Requests pass.
    Closed {
        /// Failures in a row.
        failures: u32,
    },
    /// No request passes.
    Open {
        /// The failures in a row that opened it.
        failures: u32,
        /// When trials begin: time since the caller's epoch, in whole milliseconds.
        until: Duration,
    },
    /// A few requests pass as trials.
    HalfOpen {
        /// Trials whose outcome is not known yet.
        running: u32,
        /// Trials that were answered.
        succeeded: u32,
    },
}

/// The outcome of a request, as far as a breaker is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerEvent {
    /// A trial was answered. Other requests count only when the response is complete.
    TrialAnswered,
    /// A trial ended without an outcome, because its client went away.
    TrialAbandoned,
    /// A trial failed.
    TrialFailed,
    /// The response to a request that is no trial is complete.
    Completed,
    /// A request that is no trial failed.
    Failed,
}

impl Breaker {
    /// Lets a request through if it may pass at `now`. Returns the next state, and whether the request is a trial.
    pub fn admit(self, rule: CircuitBreaker, now: Duration) -> Option<(Self, bool)> {
        match self {
            Breaker::Closed { .. } => Some((self, false)),
            Breaker::Open { until, .. } if now < until => None,
            Breaker::Open { .. } => Some((Breaker::HalfOpen { running: 1, succeeded: 0 }, true)),
            Breaker::HalfOpen { running, succeeded } if running + succeeded < rule.half_open_requests => {
                Some((Breaker::HalfOpen { running: running + 1, succeeded }, true))
            }
            Breaker::HalfOpen { .. } => None,
        }
    }

    /// The state after `event` at `now`. Outcomes of requests that passed in an earlier state change nothing.
    #[must_use]
    pub fn next(self, rule: CircuitBreaker, event: BreakerEvent, now: Duration) -> Self {
        match (self, event) {
            (Breaker::Closed { .. }, BreakerEvent::Completed) => Breaker::Closed { failures: 0 },
            (Breaker::Closed { failures }, BreakerEvent::Failed) if failures + 1 < rule.threshold => {
                Breaker::Closed { failures: failures + 1 }
            }
            (Breaker::Closed { failures }, BreakerEvent::Failed) => Breaker::open(rule, failures + 1, now),
            (Breaker::HalfOpen { succeeded, .. }, BreakerEvent::TrialAnswered)
                if succeeded + 1 >= rule.half_open_requests =>
            {
                Breaker::default()
            }
            (Breaker::HalfOpen { running, succeeded }, BreakerEvent::TrialAnswered) => {
                Breaker::HalfOpen { running: running.saturating_sub(1), succeeded: succeeded + 1 }
            }
            (Breaker::HalfOpen { running, succeeded }, BreakerEvent::TrialAbandoned) => {
                Breaker::HalfOpen { running: running.saturating_sub(1), succeeded }
            }
            (Breaker::HalfOpen { .. }, BreakerEvent::TrialFailed) => Breaker::open(rule, rule.threshold, now),
            _ => self,
        }
    }

    fn open(rule: CircuitBreaker, failures: u32, now: Duration) -> Self {
        let until = Duration::from_millis(millis(now.saturating_add(rule.timeout.get())));
        Breaker::Open { failures: failures.min(MAX_FAILURES), until }
    }

    fn pack(self) -> u64 {
        let (kind, a, b, until) = match self {
            Breaker::Closed { failures } => (0, failures & LOW, failures >> COUNT_BITS, 0),
            Breaker::Open { failures, until } => (1, failures & LOW, failures >> COUNT_BITS, millis(until)),
            Breaker::HalfOpen { running, succeeded } => (2, running, succeeded, 0),
        };
        let counts = u64::from(a & LOW) | (u64::from(b & LOW) << COUNT_BITS);
        (kind << KIND_SHIFT) | (counts << UNTIL_BITS) | until
    }

    fn unpack(bits: u64) -> Self {
        let count = |shift: u32| (bits >> shift) as u32 & LOW;
        let (a, b) = (count(UNTIL_BITS), count(UNTIL_BITS + COUNT_BITS));
        let failures = a | (b << COUNT_BITS);
        match bits >> KIND_SHIFT {
            0 => Breaker::Closed { failures },
            1 => Breaker::Open { failures, until: Duration::from_millis(bits & UNTIL_MASK) },
            _ => Breaker::HalfOpen { running: a, succeeded: b },
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker::Closed { failures: 0 }
    }
}

/// The packed form: 2 bits for the kind, two counters of 11 bits, and 40 bits of milliseconds, which are 34 years.
const UNTIL_BITS: u32 = 40;
const UNTIL_MASK: u64 = (1 << UNTIL_BITS) - 1;
const COUNT_BITS: u32 = 11;
const LOW: u32 = (1 << COUNT_BITS) - 1;
const KIND_SHIFT: u32 = UNTIL_BITS + 2 * COUNT_BITS;

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(UNTIL_MASK).min(UNTIL_MASK)
}

/// A route's breaker, shared by its members and by all cores.
#[derive(Debug, Default)]
pub struct SharedBreaker(OnceLock<AtomicBreaker>);

#[derive(Debug)]
struct AtomicBreaker {
    /// A [`Breaker`], packed.
    bits: AtomicU64,
    /// Milliseconds since `epoch` plus one; zero: no request has failed.
    last_failure: AtomicU64,
    /// The moment that all times count from.
    epoch: Instant,
}

/// A breaker's state for CIRCUIT_BREAKER_STATUS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerStatus {
    /// Whether requests pass. An open breaker whose time is over counts as half open: the next request will be a trial.
    pub state: CircuitState,
    /// Failures in a row.
    pub failures: u32,
    /// Trials that were answered.
    pub successes: u32,
    /// When the last request failed.
    pub last_failure: Option<Instant>,
    /// When trials begin, while it is open.
    pub next_attempt: Option<Instant>,
}

impl SharedBreaker {
    /// The state, which is allocated when it is first needed.
    fn state(&self, now: Instant) -> &AtomicBreaker {
        let first = || AtomicBreaker { bits: AtomicU64::new(0), last_failure: AtomicU64::new(0), epoch: now };
        self.0.get_or_init(first)
    }

    /// Whether a request would pass now.
    pub fn may_pass(&self, rule: CircuitBreaker, now: Instant) -> bool {
        let Some(state) = self.0.get() else { return true };
        state.load().admit(rule, state.at(now)).is_some()
    }

    /// How long it stays open; `None`: it is not open.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let state = self.0.get()?;
        match state.load() {
            Breaker::Open { until, .. } => Some(until.saturating_sub(state.at(now))),
            _ => None,
        }
    }

    /// Closes the breaker.
    pub fn reset(&self) {
        if let Some(state) = self.0.get() {
            state.bits.store(0, Ordering::Relaxed);
        }
    }

    /// Lets a request through if it may pass. Returns whether it is a trial.
    pub(super) fn admit(&self, rule: CircuitBreaker, now: Instant) -> Option<bool> {
        let state = self.state(now);
        let now = state.at(now);
        let next = |bits| Breaker::unpack(bits).admit(rule, now).map(|(breaker, _)| breaker.pack());
        let before = state.bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
        Breaker::unpack(before).admit(rule, now).map(|(_, trial)| trial)
    }

    /// The trial that [`SharedBreaker::admit`] let through ended without an outcome.
    pub(super) fn abandon_trial(&self, rule: CircuitBreaker) {
        // The next state does not depend on the time.
        if let Some(state) = self.0.get() {
            self.record(rule, BreakerEvent::TrialAbandoned, state.epoch);
        }
    }

    /// Applies `event`. Returns whether that has opened the breaker.
    pub(crate) fn record(&self, rule: CircuitBreaker, event: BreakerEvent, now: Instant) -> bool {
        let state = self.state(now);
        let at = state.at(now);
        if matches!(event, BreakerEvent::Failed | BreakerEvent::TrialFailed) {
            state.last_failure.store(millis(at) + 1, Ordering::Relaxed);
        }
        let next = |bits| {
            let after = Breaker::unpack(bits).next(rule, event, at).pack();
            (after != bits).then_some(after)
        };
        let before = state.bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        before.is_ok_and(|bits| {
            let before = Breaker::unpack(bits);
            !matches!(before, Breaker::Open { .. })
                && matches!(before.next(rule, event, at), Breaker::Open { .. })
        })
    }

    /// The state at `now`.
    pub fn status(&self, now: Instant) -> BreakerStatus {
        let state = self.state(now);
        let (at, epoch) = (state.at(now), state.epoch);
        let failed = state.last_failure.load(Ordering::Relaxed).checked_sub(1);
        let last_failure = failed.map(|millis| epoch + Duration::from_millis(millis));
        let (state, failures, successes, next_attempt) = match state.load() {
            Breaker::Closed { failures } => (CircuitState::Closed, failures, 0, None),
            Breaker::Open { failures, until } if at < until => {
                (CircuitState::Open, failures, 0, Some(epoch + until))
            }
            Breaker::Open { failures, .. } => (CircuitState::HalfOpen, failures, 0, None),
            Breaker::HalfOpen { succeeded, .. } => (CircuitState::HalfOpen, 0, succeeded, None),
        };
        BreakerStatus { state, failures, successes, last_failure, next_attempt }
    }
}

impl AtomicBreaker {
    fn at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }

    fn load(&self) -> Breaker {
        Breaker::unpack(self.bits.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use registry_client::protocol::GoDuration;

    const START: Duration = Duration::from_secs(1000);

    fn rule() -> CircuitBreaker {
        CircuitBreaker { threshold: 3, timeout: GoDuration::from_secs(10), half_open_requests: 2 }
    }

    fn after(breaker: Breaker, events: &[BreakerEvent], now: Duration) -> Breaker {
        events.iter().fold(breaker, |breaker, event| breaker.next(rule(), *event, now))
    }

    fn opened() -> Breaker {
        after(Breaker::default(), &[BreakerEvent::Failed; 3], START)
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_starts_the_count_anew() {
        use BreakerEvent::{Completed, Failed};
        assert_eq!(after(Breaker::default(), &[Failed; 2], START), Breaker::Closed { failures: 2 });
        let interrupted = after(Breaker::default(), &[Failed, Failed, Completed, Failed, Failed], START);
        assert_eq!(interrupted, Breaker::Closed { failures: 2 });
        assert_eq!(opened(), Breaker::Open { failures: 3, until: START + Duration::from_secs(10) });
        assert_eq!(opened().admit(rule(), START + Duration::from_millis(9_999)), None);
    }

    #[test]
    fn after_its_time_only_the_allowed_number_of_trials_passes() {
        let now = START + Duration::from_secs(10);
        let (one, trial) = opened().admit(rule(), now).unwrap();
        assert!(trial);
        let (two, trial) = one.admit(rule(), now).unwrap();
        assert!(trial);
        assert_eq!(two.admit(rule(), now), None);
        let one_left = after(two, &[BreakerEvent::TrialAbandoned], now);
        assert!(one_left.admit(rule(), now).is_some(), "an abandoned trial makes room for another");
        let half = after(two, &[BreakerEvent::TrialAnswered], now);
        assert_eq!(half, Breaker::HalfOpen { running: 1, succeeded: 1 });
        assert_eq!(half.admit(rule(), now), None, "two are enough to know");
        assert_eq!(after(half, &[BreakerEvent::TrialAnswered], now), Breaker::default());
    }

    #[test]
    fn a_trial_that_fails_opens_it_for_the_whole_time_again() {
        let now = START + Duration::from_secs(15);
        let (half, _) = opened().admit(rule(), now).unwrap();
        let again = after(half, &[BreakerEvent::TrialFailed], now);
        assert_eq!(again, Breaker::Open { failures: 3, until: now + Duration::from_secs(10) });
    }

    #[test]
    fn outcomes_from_an_earlier_state_change_nothing() {
        use BreakerEvent::{Completed, Failed, TrialAnswered, TrialFailed};
        assert_eq!(after(opened(), &[Completed, Failed, TrialAnswered, TrialFailed], START), opened());
        let (half, _) = opened().admit(rule(), START + Duration::from_secs(10)).unwrap();
        assert_eq!(after(half, &[Completed, Failed], START), half);
        assert_eq!(after(Breaker::default(), &[TrialFailed; 9], START), Breaker::default());
    }

    #[test]
    fn the_packed_form_keeps_everything() {
        for breaker in [
            Breaker::default(),
            Breaker::Closed { failures: MAX_FAILURES },
            opened(),
            Breaker::Open { failures: MAX_FAILURES, until: Duration::from_millis(UNTIL_MASK) },
            Breaker::HalfOpen { running: MAX_TRIALS, succeeded: MAX_TRIALS },
        ] {
            assert_eq!(Breaker::unpack(breaker.pack()), breaker);
        }
        assert_eq!(Breaker::default().pack(), 0);
    }
}
