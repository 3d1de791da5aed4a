//! A request that a circuit breaker has let through (SEMANTICS section 3).

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use registry_client::protocol::CircuitBreaker;

use super::breaker::BreakerEvent;
use super::route_state::RouteState;

/// A request that a breaker has let through. It reports its outcome to the breaker once. A trial that is dropped
/// without an outcome is abandoned.
#[derive(Debug)]
pub struct Admission {
    route: Arc<RouteState>,
    rule: CircuitBreaker,
    is_trial: bool,
    is_reported: Cell<bool>,
}

impl Admission {
    /// Asks the breaker of `route`. `None`: the request may not pass.
    pub fn ask(route: &Arc<RouteState>, rule: CircuitBreaker, now: Instant) -> Option<Self> {
        let is_trial = route.breaker().admit(rule, now)?;
        Some(Admission { route: Arc::clone(route), rule, is_trial, is_reported: Cell::new(false) })
    }

    /// The backend sent the head of a response that is no failure.
    pub fn answered(&self, now: Instant) {
        if self.is_trial && !self.is_reported.replace(true) {
            self.route.breaker().record(self.rule, BreakerEvent::TrialAnswered, now);
        }
    }

    /// The response is complete.
    pub fn completed(&self, now: Instant) {
        if self.is_trial {
            return self.answered(now);
        }
        if !self.is_reported.replace(true) {
            self.route.breaker().record(self.rule, BreakerEvent::Completed, now);
        }
    }

    /// The request failed. Returns whether that has opened the breaker.
    pub fn failed(&self, now: Instant) -> bool {
        let event = if self.is_trial { BreakerEvent::TrialFailed } else { BreakerEvent::Failed };
        !self.is_reported.replace(true) && self.route.breaker().record(self.rule, event, now)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.is_trial && !self.is_reported.get() {
            self.route.breaker().abandon_trial(self.rule);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use registry_client::protocol::GoDuration;
    use registry_client::protocol::report::CircuitState;

    fn rule() -> CircuitBreaker {
        CircuitBreaker { threshold: 3, timeout: GoDuration::from_secs(10), half_open_requests: 2 }
    }

    #[test]
    fn a_trial_that_is_dropped_without_an_outcome_makes_room_for_another() {
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
        let status = route.breaker().status(later);
        assert_eq!((status.state, status.failures), (CircuitState::Closed, 0));
    }
}
