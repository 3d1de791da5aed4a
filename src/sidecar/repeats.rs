//! A failure that goes on is told once, and then ever more seldom, with how often it was met. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many different failures are remembered: a peer that says something else each time must not fill our memory.
const MAX_FAILURES: usize = 16;
/// How long the same failure is not told again: at first, and at most.
const FIRST_SILENCE: Duration = Duration::from_secs(60);
const LONGEST_SILENCE: Duration = Duration::from_secs(3_600);

/// The failures since the last success.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    failures: BTreeMap<String, Failure>,
}

#[derive(Debug)]
struct Failure {
    told: Instant,
    silence: Duration,
    /// Since it was told.
    times: u32,
}

/// What is to be said of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// It is news.
    All,
    /// It is no news, but it has gone on for so long: with so many times more, within that time.
    Again(u32, Duration),
    /// It was said not long ago.
    Nothing,
}

impl Repeats {
    /// The failure was met once more.
    pub(super) fn met(&mut self, failure: &str, now: Instant) -> Say {
        if let Some(known) = self.failures.get_mut(failure) {
            known.times += 1;
            let since = now.saturating_duration_since(known.told);
            if since < known.silence {
                return Say::Nothing;
            }
            let times = std::mem::take(&mut known.times);
            known.told = now;
            known.silence = (known.silence * 2).min(LONGEST_SILENCE);
            return Say::Again(times, since);
        }
        if self.failures.len() >= MAX_FAILURES {
            self.failures.clear();
        }
        let silence = FIRST_SILENCE;
        self.failures.insert(failure.to_owned(), Failure { told: now, silence, times: 0 });
        Say::All
    }

    /// What failed works again.
    pub(super) fn over(&mut self) {
        self.failures.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_at_once_and_then_ever_more_seldom_with_its_number() {
        let (start, mut repeats) = (Instant::now(), Repeats::default());
        let mut told = Vec::new();
        for second in 0..7_200_u64 {
            match repeats.met("refused", start + Duration::from_secs(second)) {
                Say::All => told.push((second, 0)),
                Say::Again(times, _) => told.push((second, times)),
                Say::Nothing => {}
            }
        }
        assert_eq!(
            told,
            [(0, 0), (60, 60), (180, 120), (420, 240), (900, 480), (1_860, 960), (3_780, 1_920)]
        );
        repeats.over();
        assert_eq!(repeats.met("refused", start + Duration::from_secs(7_200)), Say::All);
    }

    #[test]
    fn another_failure_is_news_and_their_number_is_bounded() {
        let (start, mut repeats) = (Instant::now(), Repeats::default());
        for number in 0..10 * MAX_FAILURES {
            assert_eq!(repeats.met(&number.to_string(), start), Say::All);
        }
        assert!(repeats.failures.len() <= MAX_FAILURES);
    }
}
