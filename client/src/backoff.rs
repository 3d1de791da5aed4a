//! How long to wait before trying again: the least delay first, then exponential with full jitter between the
//! least and the greatest. No clock: it only deals in durations.

use std::time::Duration;

/// A series of delays that grow until it is reset.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    rng: fastrand::Rng,
    taken: u32,
}

/// One delay of the series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delay {
    /// How long to wait.
    pub(super) wait: Duration,
    /// Which one it is, from 1.
    pub(super) attempt: u32,
    /// The range that it was drawn from has reached the maximum.
    pub(super) at_cap: bool,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Backoff { min, max: max.max(min), rng: fastrand::Rng::with_seed(seed), taken: 0 }
    }

    /// The next delay.
    pub(super) fn next(&mut self) -> Delay {
        let growth = 1_u32.checked_shl(self.taken).unwrap_or(u32::MAX);
        let ceiling = self.min.saturating_mul(growth).min(self.max);
        self.taken = self.taken.saturating_add(1);
        let range = (ceiling - self.min).as_micros();
        let jitter = self.rng.u64(0..=u64::try_from(range).unwrap_or(u64::MAX));
        Delay {
            wait: self.min + Duration::from_micros(jitter),
            attempt: self.taken,
            at_cap: ceiling == self.max && self.taken > 1,
        }
    }

    /// How many delays were taken since the last reset.
    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    /// The next delay is the least again.
    pub(super) fn reset(&mut self) {
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(10);

    #[test]
    fn the_first_delay_is_the_least_and_later_ones_stay_between_the_bounds() {
        for seed in 0..200 {
            let mut backoff = Backoff::new(MIN, MAX, seed);
            assert_eq!(backoff.next(), Delay { wait: MIN, attempt: 1, at_cap: false });
            for attempt in 2..70 {
                let delay = backoff.next();
                let ceiling = MIN.saturating_mul(1 << (attempt - 1).min(20)).min(MAX);
                assert!(
                    MIN <= delay.wait && delay.wait <= ceiling,
                    "seed {seed}, attempt {attempt}: {delay:?}"
                );
                assert_eq!(delay.at_cap, attempt >= 8, "seed {seed}, attempt {attempt}");
            }
            backoff.reset();
            assert_eq!(backoff.next().wait, MIN);
        }
    }

    #[test]
    fn jitter_is_full_not_a_fringe() {
        let mut backoff = Backoff::new(MIN, MAX, 7);
        let waits: Vec<_> = (0..300).map(|_| backoff.next().wait).skip(10).collect();
        assert!(waits.iter().any(|wait| *wait < MAX / 4) && waits.iter().any(|wait| *wait > MAX / 4 * 3));
    }

    #[test]
    fn bounds_the_wrong_way_round_are_taken_as_the_least() {
        let mut backoff = Backoff::new(MAX, MIN, 7);
        assert!((0..50).all(|_| backoff.next().wait == MAX));
    }
}
