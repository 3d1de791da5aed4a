//! How long to wait before the next try. No clock: it only deals in durations.

use std::time::Duration;

/// The first pause after a failure.
pub(crate) const FIRST: Duration = Duration::from_millis(100);

/// A row of pauses that grows until it is reset: the first, then exponential with full jitter up to the longest.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    longest: Duration,
    rng: fastrand::Rng,
    taken: u32,
}

impl Backoff {
    pub(crate) fn new(longest: Duration, seed: u64) -> Backoff {
        Backoff { longest: longest.max(FIRST), rng: fastrand::Rng::with_seed(seed), taken: 0 }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let growth = 1_u32.checked_shl(self.taken).unwrap_or(u32::MAX);
        let ceiling = FIRST.saturating_mul(growth).min(self.longest);
        self.taken = self.taken.saturating_add(1);
        let width = u64::try_from((ceiling - FIRST).as_micros()).unwrap_or(u64::MAX);
        FIRST + Duration::from_micros(self.rng.u64(0..=width))
    }

    pub(crate) fn taken(&self) -> u32 {
        self.taken
    }

    pub(crate) fn reset(&mut self) {
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_between_the_first_and_the_longest_and_begin_anew() {
        for seed in 0..100 {
            let longest = Duration::from_secs(5);
            let mut backoff = Backoff::new(longest, seed);
            assert_eq!(backoff.next(), FIRST);
            let pauses: Vec<Duration> = (0..60).map(|_| backoff.next()).collect();
            assert!(pauses.iter().all(|pause| (FIRST..=longest).contains(pause)), "seed {seed}: {pauses:?}");
            assert!(pauses.iter().any(|pause| *pause > longest / 2), "seed {seed}: {pauses:?}");
            backoff.reset();
            assert_eq!(backoff.next(), FIRST);
        }
    }
}
