//! Circuit breakers: a backend that fails time after time gets no requests for a while, and then a few trials
//! (PROTOCOL section 3, SEMANTICS section 3).

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use registry_client::protocol::CircuitBreaker;
use registry_client::protocol::report::CircuitState;

use super::RouteState;

/// The largest threshold that can be counted to.
pub const MOST_FAILURES: u32 = 1_000_000;
/// The most trials at once.
pub const MOST_TRIALS: u32 = 1_000;

/// What a breaker is at. Small, so that all of it changes in one compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Requests pass.
    Closed {
        /// In a row.
        failures: u32,
    },
    /// None passes until this time (since any fixed moment, in whole milliseconds).
    Open {
        /// How many opened it.
        failures: u32,
        /// When trials begin.
        until: Duration,
    },
    /// A few pass, to see what becomes of them.
    HalfOpen {
        /// Trials whose outcome is not known.
        running: u32,
        /// Trials that went well.
        succeeded: u32,
    },
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A trial was answered. (Any other answer means nothing before it is complete.)
    TrialAnswered,
    /// A trial ended without saying anything about the backend: its client went away.
    TrialAbandoned,
    /// A trial failed.
    TrialFailed,
    /// A request that was no trial was answered to the end.
    Completed,
    /// A request that was no trial failed.
    Failed,
}

impl Breaker {
    /// Lets a request through, or not. The breaker after it, and whether the request is a trial.
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

    /// The breaker after `event` at `now`. What a trial or a request of an earlier phase says changes nothing.
    #[must_use]
    pub fn next(self, rule: CircuitBreaker, event: Event, now: Duration) -> Self {
        match (self, event) {
            (Breaker::Closed { .. }, Event::Completed) => Breaker::Closed { failures: 0 },
            (Breaker::Closed { failures }, Event::Failed) if failures + 1 < rule.threshold => {
                Breaker::Closed { failures: failures + 1 }
            }
            (Breaker::Closed { failures }, Event::Failed) => Breaker::open(rule, failures + 1, now),
            (Breaker::HalfOpen { succeeded, .. }, Event::TrialAnswered)
                if succeeded + 1 >= rule.half_open_requests =>
            {
                Breaker::default()
            }
            (Breaker::HalfOpen { running, succeeded }, Event::TrialAnswered) => {
                Breaker::HalfOpen { running: running.saturating_sub(1), succeeded: succeeded + 1 }
            }
            (Breaker::HalfOpen { running, succeeded }, Event::TrialAbandoned) => {
                Breaker::HalfOpen { running: running.saturating_sub(1), succeeded }
            }
            (Breaker::HalfOpen { .. }, Event::TrialFailed) => Breaker::open(rule, rule.threshold, now),
            _ => self,
        }
    }

    fn open(rule: CircuitBreaker, failures: u32, now: Duration) -> Self {
        let until = Duration::from_millis(millis(now.saturating_add(rule.timeout.get())));
        Breaker::Open { failures: failures.min(MOST_FAILURES), until }
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

/// 34 years of milliseconds, two counters, two bits for the kind.
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
pub struct SharedBreaker(OnceLock<Phase>);

#[derive(Debug)]
struct Phase {
    /// A [`Breaker`], packed.
    bits: AtomicU64,
    /// Milliseconds plus one; zero: there was none.
    last_failure: AtomicU64,
    /// The moment that its times count from.
    epoch: Instant,
}

/// What people want to know of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerStatus {
    /// Whether requests pass. One whose time is over is half open: the next request will be a trial.
    pub state: CircuitState,
    /// Failures in a row.
    pub failures: u32,
    /// Trials that went well.
    pub successes: u32,
    /// When a request failed last.
    pub last_failure: Option<Instant>,
    /// When trials begin, while it is open.
    pub next_attempt: Option<Instant>,
}

impl SharedBreaker {
    /// From its first word on.
    fn phase(&self, now: Instant) -> &Phase {
        let first = || Phase { bits: AtomicU64::new(0), last_failure: AtomicU64::new(0), epoch: now };
        self.0.get_or_init(first)
    }

    /// Whether a request might pass now.
    pub fn may_pass(&self, rule: CircuitBreaker, now: Instant) -> bool {
        let Some(phase) = self.0.get() else { return true };
        phase.load().admit(rule, phase.at(now)).is_some()
    }

    /// How long until one might.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let phase = self.0.get()?;
        match phase.load() {
            Breaker::Open { until, .. } => Some(until.saturating_sub(phase.at(now))),
            _ => None,
        }
    }

    /// Closes it.
    pub fn reset(&self) {
        if let Some(phase) = self.0.get() {
            phase.bits.store(0, Ordering::Relaxed);
        }
    }

    fn admit(&self, rule: CircuitBreaker, now: Instant) -> Option<bool> {
        let phase = self.phase(now);
        let now = phase.at(now);
        let next = |bits| Breaker::unpack(bits).admit(rule, now).map(|(breaker, _)| breaker.pack());
        let before = phase.bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
        Breaker::unpack(before).admit(rule, now).map(|(_, trial)| trial)
    }

    /// Takes note. True: that has opened it.
    fn record(&self, rule: CircuitBreaker, event: Event, now: Instant) -> bool {
        let phase = self.phase(now);
        let at = phase.at(now);
        if matches!(event, Event::Failed | Event::TrialFailed) {
            phase.last_failure.store(millis(at) + 1, Ordering::Relaxed);
        }
        let next = |bits| {
            let after = Breaker::unpack(bits).next(rule, event, at).pack();
            (after != bits).then_some(after)
        };
        let before = phase.bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        before.is_ok_and(|bits| {
            let before = Breaker::unpack(bits);
            !matches!(before, Breaker::Open { .. })
                && matches!(before.next(rule, event, at), Breaker::Open { .. })
        })
    }

    /// What it is at.
    pub fn status(&self, now: Instant) -> BreakerStatus {
        let phase = self.phase(now);
        let (at, epoch) = (phase.at(now), phase.epoch);
        let failed = phase.last_failure.load(Ordering::Relaxed).checked_sub(1);
        let last_failure = failed.map(|millis| epoch + Duration::from_millis(millis));
        let (state, failures, successes, next_attempt) = match phase.load() {
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

impl Phase {
    fn at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }

    fn load(&self) -> Breaker {
        Breaker::unpack(self.bits.load(Ordering::Relaxed))
    }
}

/// A request that a breaker let through. It owes the breaker a word about what became of it; a trial that never
/// gives it is abandoned when this is dropped.
#[derive(Debug)]
pub struct Admission {
    route: Arc<RouteState>,
    rule: CircuitBreaker,
    trial: bool,
    /// Nothing more is to be said.
    told: Cell<bool>,
}

impl Admission {
    /// Asks the breaker of `route`. `None`: not now.
    pub fn ask(route: &Arc<RouteState>, rule: CircuitBreaker, now: Instant) -> Option<Self> {
        let trial = route.breaker().admit(rule, now)?;
        Some(Admission { route: Arc::clone(route), rule, trial, told: Cell::new(false) })
    }

    /// The backend sent the head of a response that is no failure.
    pub fn answered(&self, now: Instant) {
        if self.trial && !self.told.replace(true) {
            self.route.breaker().record(self.rule, Event::TrialAnswered, now);
        }
    }

    /// The response is complete.
    pub fn completed(&self, now: Instant) {
        if self.trial {
            return self.answered(now);
        }
        if !self.told.replace(true) {
            self.route.breaker().record(self.rule, Event::Completed, now);
        }
    }

    /// The request failed. True: that has opened the breaker.
    pub fn failed(&self, now: Instant) -> bool {
        let event = if self.trial { Event::TrialFailed } else { Event::Failed };
        !self.told.replace(true) && self.route.breaker().record(self.rule, event, now)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.trial && !self.told.get() {
            // Being abandoned does not depend on the time.
            if let Some(phase) = self.route.breaker().0.get() {
                self.route.breaker().record(self.rule, Event::TrialAbandoned, phase.epoch);
            }
        }
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

    fn after(breaker: Breaker, events: &[Event], now: Duration) -> Breaker {
        events.iter().fold(breaker, |breaker, event| breaker.next(rule(), *event, now))
    }

    fn opened() -> Breaker {
        after(Breaker::default(), &[Event::Failed; 3], START)
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_in_between_does_not_let_them() {
        use Event::{Completed, Failed};
        assert_eq!(after(Breaker::default(), &[Failed; 2], START), Breaker::Closed { failures: 2 });
        let interrupted = after(Breaker::default(), &[Failed, Failed, Completed, Failed, Failed], START);
        assert_eq!(interrupted, Breaker::Closed { failures: 2 });
        assert_eq!(opened(), Breaker::Open { failures: 3, until: START + Duration::from_secs(10) });
        assert_eq!(opened().admit(rule(), START + Duration::from_millis(9_999)), None);
    }

    #[test]
    fn after_its_time_as_many_trials_pass_as_are_allowed_and_no_more() {
        let now = START + Duration::from_secs(10);
        let (one, trial) = opened().admit(rule(), now).unwrap();
        assert!(trial);
        let (two, trial) = one.admit(rule(), now).unwrap();
        assert!(trial);
        assert_eq!(two.admit(rule(), now), None);
        let one_left = after(two, &[Event::TrialAbandoned], now);
        assert!(one_left.admit(rule(), now).is_some(), "an abandoned trial makes room for another");
        let half = after(two, &[Event::TrialAnswered], now);
        assert_eq!(half, Breaker::HalfOpen { running: 1, succeeded: 1 });
        assert_eq!(half.admit(rule(), now), None, "two are enough to know");
        assert_eq!(after(half, &[Event::TrialAnswered], now), Breaker::default());
    }

    #[test]
    fn a_trial_that_fails_opens_it_for_the_whole_time_again() {
        let now = START + Duration::from_secs(15);
        let (half, _) = opened().admit(rule(), now).unwrap();
        let again = after(half, &[Event::TrialFailed], now);
        assert_eq!(again, Breaker::Open { failures: 3, until: now + Duration::from_secs(10) });
    }

    #[test]
    fn requests_from_before_change_nothing_later() {
        use Event::{Completed, Failed, TrialAnswered, TrialFailed};
        assert_eq!(after(opened(), &[Completed, Failed, TrialAnswered, TrialFailed], START), opened());
        let (half, _) = opened().admit(rule(), START + Duration::from_secs(10)).unwrap();
        assert_eq!(after(half, &[Completed, Failed], START), half);
        assert_eq!(after(Breaker::default(), &[TrialFailed; 9], START), Breaker::default());
    }

    #[test]
    fn the_packed_form_keeps_everything() {
        for breaker in [
            Breaker::default(),
            Breaker::Closed { failures: MOST_FAILURES },
            opened(),
            Breaker::Open { failures: MOST_FAILURES, until: Duration::from_millis(UNTIL_MASK) },
            Breaker::HalfOpen { running: MOST_TRIALS, succeeded: MOST_TRIALS },
        ] {
            assert_eq!(Breaker::unpack(breaker.pack()), breaker);
        }
        assert_eq!(Breaker::default().pack(), 0);
    }

    #[test]
    fn an_admission_that_is_dropped_without_a_word_was_abandoned() {
        let now = Instant::now();
        let route = Arc::new(RouteState::default());
        let ask = |now| Admission::ask(&route, rule(), now);
        for _ in 0..3 {
            ask(now).unwrap().failed(now);
        }
        assert!(ask(now).is_none());
        assert_eq!(route.breaker().status(now).state, CircuitState::Open);
        let later = now + Duration::from_secs(11);
        assert_eq!(route.breaker().status(later).state, CircuitState::HalfOpen);
        let (one, other) = (ask(later).unwrap(), ask(later).unwrap());
        assert!(ask(later).is_none());
        drop(one);
        let one = ask(later).unwrap();
        one.answered(later);
        other.answered(later);
        other.completed(later);
        assert_eq!(route.breaker().status(later).state, CircuitState::Closed);
        drop((one, other));
        assert_eq!(route.breaker().phase(now).load(), Breaker::default());
    }
}
