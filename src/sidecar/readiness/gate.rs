//! Counts the tries of readiness checks, and decides when the next is due and what to log. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A try is due when the wait has grown by this part of itself: a hundredth of it is lost at most, and a
/// wait of any length takes few tries.
const PAUSE_PART: u32 = 100;
/// The first reminder that we are still waiting; each further one comes after twice the time.
const FIRST_REMINDER: Duration = Duration::from_secs(5);
/// But after no more than this.
const LONGEST_REMINDER: Duration = Duration::from_secs(300);

/// An application that is lost this often within this time comes and goes: it is believed to be back only
/// when it has been ready for longer each time.
pub(super) const FLAP_WINDOW: Duration = Duration::from_secs(600);
const MAX_LOSSES: usize = 16;
/// But no longer than this.
const LONGEST_STEADY: Duration = Duration::from_secs(60);

/// How a [`Gate`] counts and how fast it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// The shortest pause between two tries while waiting.
    pub(super) shortest: Duration,
    /// The longest while waiting, and every pause while ready.
    pub(super) interval: Duration,
    /// So many tries in a row must pass to open it.
    pub(super) rise: u32,
    /// So many must fail in a row to shut it.
    pub(super) fall: u32,
    /// Waiting longer than this is worth a warning.
    pub(super) overdue: Duration,
}

/// Ready or not: opens after enough tries that passed, shuts after enough that failed. Starts shut.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pace: Pace,
    open: bool,
    /// Tries in a row that spoke against the present state.
    against: u32,
    /// Since when it is as it is.
    since: Instant,
    next_reminder: Duration,
    overdue_told: bool,
    /// When it was shut lately; at most [`MAX_LOSSES`].
    losses: VecDeque<Instant>,
    /// Since when every try has passed, while it is shut.
    passing: Option<Instant>,
}

/// What follows from a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// After this pause it is time for the next.
    pub(super) pause: Duration,
    /// What people should know.
    pub(super) notice: Option<Notice>,
}

/// What people should know about a gate. The durations say how long the state before has lasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// It has opened.
    Ready(Duration),
    /// It has shut.
    Lost(Duration),
    /// It has shut, not for the first time lately.
    Flapping {
        /// How long it was open.
        lasted: Duration,
        /// How often it has shut lately.
        losses: usize,
        /// How long every try must pass before it opens again.
        steady: Duration,
    },
    /// It is still shut.
    Waiting(Duration),
    /// It is still shut, longer than anybody meant it to be.
    Overdue(Duration),
}

impl Gate {
    /// A gate that is shut, and has been since `now`.
    pub(super) fn new(pace: Pace, now: Instant) -> Self {
        let next_reminder = FIRST_REMINDER;
        Gate {
            pace,
            open: false,
            against: 0,
            since: now,
            next_reminder,
            overdue_told: false,
            losses: VecDeque::new(),
            passing: None,
        }
    }

    /// A gate that has just opened.
    pub(super) fn opened(pace: Pace, now: Instant) -> Self {
        Gate { open: true, ..Gate::new(pace, now) }
    }

    /// Whether it is open.
    pub(super) fn is_ready(&self) -> bool {
        self.open
    }

    /// Counts a try that ended at `now`.
    pub(super) fn on_try(&mut self, passed: bool, now: Instant) -> Step {
        let lasted = now.saturating_duration_since(self.since);
        self.against = if passed == self.open { 0 } else { self.against + 1 };
        let enough = if self.open { self.pace.fall } else { self.pace.rise };
        self.passing = if passed && !self.open { self.passing.or(Some(now)) } else { None };
        let notice = if self.against >= enough.max(1) && (self.open || self.is_steady(now)) {
            Some(self.turn(lasted, now))
        } else if self.open {
            None
        } else {
            self.reminder(lasted)
        };
        Step { pause: self.pause(now), notice }
    }

    fn turn(&mut self, lasted: Duration, now: Instant) -> Notice {
        let losses = std::mem::take(&mut self.losses);
        *self = Gate { open: !self.open, losses, ..Gate::new(self.pace, now) };
        if self.open {
            return Notice::Ready(lasted);
        }
        self.losses.retain(|loss| now.saturating_duration_since(*loss) < FLAP_WINDOW);
        if self.losses.len() >= MAX_LOSSES {
            self.losses.pop_front();
        }
        self.losses.push_back(now);
        match self.losses.len() {
            1 => Notice::Lost(lasted),
            losses => Notice::Flapping { lasted, losses, steady: self.steady() },
        }
    }

    /// How long every try must pass before it opens: nothing the first time, an interval the second, and twice
    /// as long each further time.
    fn steady(&self) -> Duration {
        match u32::try_from(self.losses.len()).unwrap_or(u32::MAX) {
            0 | 1 => Duration::ZERO,
            losses => self.pace.interval.saturating_mul(1 << (losses - 2).min(16)).min(LONGEST_STEADY),
        }
    }

    fn is_steady(&self, now: Instant) -> bool {
        self.passing.is_some_and(|since| now.saturating_duration_since(since) >= self.steady())
    }

    fn pause(&self, now: Instant) -> Duration {
        if self.open {
            return self.pace.interval;
        }
        let waited = now.saturating_duration_since(self.since);
        (waited / PAUSE_PART).max(self.pace.shortest).min(self.pace.interval)
    }

    fn reminder(&mut self, waited: Duration) -> Option<Notice> {
        let newly_overdue = waited >= self.pace.overdue && !self.overdue_told;
        if !newly_overdue && waited < self.next_reminder {
            return None;
        }
        self.overdue_told |= newly_overdue;
        self.next_reminder = waited + waited.clamp(FIRST_REMINDER, LONGEST_REMINDER);
        Some(if self.overdue_told { Notice::Overdue(waited) } else { Notice::Waiting(waited) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        shortest: Duration::from_millis(5),
        interval: Duration::from_secs(5),
        rise: 1,
        fall: 3,
        overdue: Duration::from_secs(30),
    };

    /// Tries that fail for as long as `span`: how many there were, and what was told, in whole seconds.
    fn fail_for(gate: &mut Gate, start: Instant, span: Duration) -> (usize, Vec<Notice>) {
        let (mut tries, mut told, mut waited) = (0, Vec::new(), Duration::ZERO);
        while waited < span {
            let step = gate.on_try(false, start + waited);
            tries += 1;
            told.extend(step.notice);
            waited += step.pause;
        }
        (tries, told)
    }

    #[test]
    fn a_start_loses_a_hundredth_of_its_time_at_most_and_a_long_wait_takes_few_tries() {
        let start = Instant::now();
        let mut gate = Gate::new(PACE, start);
        for (waited, pause) in
            [(0, 5), (499, 5), (1_000, 10), (60_000, 600), (500_000, 5_000), (9_000_000, 5_000)]
        {
            let step = gate.on_try(false, start + Duration::from_millis(waited));
            assert_eq!(step.pause, Duration::from_millis(pause), "after {waited} ms");
        }
        let (tries, _) = fail_for(&mut Gate::new(PACE, start), start, Duration::from_secs(60));
        assert!(tries < 700, "{tries}");
        let short = Pace { interval: Duration::from_millis(1), ..PACE };
        assert_eq!(Gate::new(short, start).on_try(false, start).pause, Duration::from_millis(1));
    }

    #[test]
    fn it_reminds_at_growing_distances_and_loudly_once_it_is_overdue() {
        let start = Instant::now();
        let (_, told) = fail_for(&mut Gate::new(PACE, start), start, Duration::from_secs(3_000));
        let told: Vec<String> = told
            .into_iter()
            .map(|notice| match notice {
                Notice::Waiting(waited) => format!("waiting {}", waited.as_secs()),
                Notice::Overdue(waited) => format!("overdue {}", waited.as_secs()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told[..5], ["waiting 5", "waiting 10", "waiting 20", "overdue 30", "overdue 60"]);
        assert!(told.len() < 20, "{told:?}");
    }

    #[test]
    fn it_opens_after_enough_passes_in_a_row() {
        let start = Instant::now();
        let mut gate = Gate::new(Pace { rise: 2, ..PACE }, start);
        let later = start + Duration::from_secs(1);
        for passed in [true, false, true] {
            assert_eq!(gate.on_try(passed, start).notice, None);
            assert!(!gate.is_ready());
        }
        assert_eq!(gate.on_try(true, later).notice, Some(Notice::Ready(Duration::from_secs(1))));
        assert!(gate.is_ready());
    }

    #[test]
    fn it_shuts_after_enough_failures_in_a_row_and_then_asks_fast_again() {
        let start = Instant::now();
        let mut gate = Gate::new(PACE, start);
        gate.on_try(true, start);
        for passed in [false, false, true, false, false] {
            let step = gate.on_try(passed, start);
            assert_eq!(step, Step { pause: PACE.interval, notice: None });
        }
        let lost = start + Duration::from_secs(90);
        let step = gate.on_try(false, lost);
        assert_eq!(step, Step { pause: PACE.shortest, notice: Some(Notice::Lost(Duration::from_secs(90))) });
        assert!(!gate.is_ready());
        // The wait for its return is a new one.
        let step = gate.on_try(false, lost + Duration::from_secs(6));
        assert_eq!(step.notice, Some(Notice::Waiting(Duration::from_secs(6))));
    }

    #[test]
    fn an_application_that_comes_and_goes_must_stay_longer_each_time() {
        let mut now = Instant::now();
        let mut gate = Gate::opened(Pace { fall: 1, ..PACE }, now);
        let mut came_back_after = Vec::new();
        for round in 0..7 {
            let notice = gate.on_try(false, now).notice;
            match round {
                0 => assert!(matches!(notice, Some(Notice::Lost(_))), "{notice:?}"),
                _ => assert!(
                    matches!(notice, Some(Notice::Flapping { losses, .. }) if losses == round + 1),
                    "{notice:?}"
                ),
            }
            let lost = now;
            while !gate.is_ready() {
                now += Duration::from_secs(1);
                gate.on_try(true, now);
            }
            came_back_after.push((now - lost).as_secs());
        }
        assert_eq!(came_back_after, [1, 6, 11, 21, 41, 61, 61]);
        now += FLAP_WINDOW;
        assert!(matches!(gate.on_try(false, now).notice, Some(Notice::Lost(_))));
    }
}
