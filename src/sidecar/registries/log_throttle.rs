//! Logs a failure that goes on at once, and then less and less often, with how often it occurred. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many different failures are remembered. The bound protects against a peer whose errors all differ.
const MAX_FAILURES: usize = 16;
/// How long a repeated failure is suppressed after it was logged: at first, and at most.
const FIRST_SILENCE: Duration = Duration::from_secs(60);
const LONGEST_SILENCE: Duration = Duration::from_secs(3_600);

/// The failures since the last success.
#[derive(Debug, Default)]
pub(super) struct LogThrottle {
    failures: BTreeMap<String, Failure>,
}

#[derive(Debug)]
struct Failure {
    told: Instant,
    silence: Duration,
    /// How often it occurred since it was logged.
    times: u32,
}

/// Whether to log an occurrence.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Log {
    /// Log it: the failure is new.
    Now,
    /// Log it again: it occurred this many times within this time.
    Repeated(u32, Duration),
    /// Do not log it, or only for debugging: it was logged a short time ago.
    Suppressed,
}

impl LogThrottle {
    /// The failure has occurred once more.
    pub(super) fn on_failure(&mut self, failure: &str, now: Instant) -> Log {
        if let Some(known) = self.failures.get_mut(failure) {
            known.times += 1;
            let since = now.saturating_duration_since(known.told);
            if since < known.silence {
                return Log::Suppressed;
            }
            let times = std::mem::take(&mut known.times);
            known.told = now;
            known.silence = (known.silence * 2).min(LONGEST_SILENCE);
            return Log::Repeated(times, since);
        }
        if self.failures.len() >= MAX_FAILURES {
            self.failures.clear();
        }
        let silence = FIRST_SILENCE;
        self.failures.insert(failure.to_owned(), Failure { told: now, silence, times: 0 });
        Log::Now
    }

    /// Something succeeded: every failure is new again.
    pub(super) fn on_success(&mut self) {
        self.failures.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_at_once_and_then_ever_more_seldom_with_its_number() {
        let (start, mut throttle) = (Instant::now(), LogThrottle::default());
        let mut told = Vec::new();
        for second in 0..7_200_u64 {
            match throttle.on_failure("refused", start + Duration::from_secs(second)) {
                Log::Now => told.push((second, 0)),
                Log::Repeated(times, _) => told.push((second, times)),
                Log::Suppressed => {}
            }
        }
        assert_eq!(
            told,
            [(0, 0), (60, 60), (180, 120), (420, 240), (900, 480), (1_860, 960), (3_780, 1_920)]
        );
        throttle.on_success();
        assert_eq!(throttle.on_failure("refused", start + Duration::from_secs(7_200)), Log::Now);
    }

    #[test]
    fn another_failure_is_news_and_their_number_is_bounded() {
        let (start, mut throttle) = (Instant::now(), LogThrottle::default());
        for number in 0..10 * MAX_FAILURES {
            assert_eq!(throttle.on_failure(&number.to_string(), start), Log::Now);
        }
        assert!(throttle.failures.len() <= MAX_FAILURES);
    }
}
