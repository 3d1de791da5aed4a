//! The share of requests of a member that drains (SEMANTICS section 6).

use std::time::{Duration, Instant};

/// A drain: the member's weight falls linearly from one to zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// When it began.
    pub since: Instant,
    /// How long it takes; zero: the weight falls at once.
    pub time: Duration,
}

impl Drain {
    /// The part of its usual requests that a member gets at `now`, from 1 down to 0.
    pub fn weight(&self, now: Instant) -> f64 {
        if self.is_over(now) {
            return 0.0;
        }
        1.0 - now.saturating_duration_since(self.since).as_secs_f64() / self.time.as_secs_f64()
    }

    /// Whether the member gets no new requests at `now`.
    pub fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= self.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_falls_evenly_and_not_below_zero() {
        let since = Instant::now();
        let drain = Drain { since, time: Duration::from_secs(10) };
        let weights = [0, 1, 5, 9, 10, 11].map(|s| drain.weight(since + Duration::from_secs(s)));
        assert_eq!(weights, [1.0, 0.9, 0.5, 0.09999999999999998, 0.0, 0.0]);
        assert_eq!(Drain { since, time: Duration::ZERO }.weight(since), 0.0);
    }
}
