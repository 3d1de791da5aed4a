//! Counts the results of readiness checks: decides whether the application is ready, when to try again and what to
//! log. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The next try is due when the wait has grown by this fraction. So at most a hundredth of the start-up time is lost,
/// and a long wait takes few tries.
const PAUSE_PART: u32 = 100;
/// When the log first says that the application is still not ready. Each further reminder comes after twice the time.
const FIRST_REMINDER: Duration = Duration::from_secs(5);
/// The longest time between two reminders.
const LONGEST_REMINDER: Duration = Duration::from_secs(300);

/// Losses within this time count as flapping: after each, every try must pass for longer before the application is
/// ready again.
pub(super) const FLAP_WINDOW: Duration = Duration::from_secs(600);
const MAX_LOSSES: usize = 16;
/// The longest time for which every try must pass.
const LONGEST_STEADY: Duration = Duration::from_secs(60);

/// The thresholds of a [`Gate`], and how often it wants a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GateConfig {
    /// The shortest pause between two tries while waiting.
    pub(super) shortest: Duration,
    /// The longest pause while waiting, and every pause while ready.
    pub(super) interval: Duration,
    /// How many tries in a row must pass to open it; READY_RISE.
    pub(super) rise: u32,
    /// How many tries in a row must fail to shut it; READY_FALL.
    pub(super) fall: u32,
    /// A longer wait is warned about; PORT_WAIT_TIMEOUT.
    pub(super) overdue: Duration,
}

/// Open while the application is ready: it opens after enough passed tries, and shuts after enough failed ones.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    config: GateConfig,
    open: bool,
    /// How many tries in a row contradict the present state.
    against: u32,
    /// When it last opened or shut.
    since: Instant,
    next_reminder: Duration,
    overdue_told: bool,
    /// When it last shut; at most [`MAX_LOSSES`] times are kept.
    losses: VecDeque<Instant>,
    /// While it is shut: since when every try has passed.
    passing: Option<Instant>,
}

/// What follows from a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decision {
    /// How long to wait before the next try.
    pub(super) pause: Duration,
    /// What to log.
    pub(super) notice: Option<Notice>,
}

/// What to log about a gate. The durations say how long the state before has lasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// It has opened.
    Ready(Duration),
    /// It has shut.
    Lost(Duration),
    /// It has shut again after a short time.
    Flapping {
        /// How long it was open.
        lasted: Duration,
        /// How often it has shut within [`FLAP_WINDOW`].
        losses: usize,
        /// How long every try must pass before it opens again.
        steady: Duration,
    },
    /// It is still shut.
    Waiting(Duration),
    /// It has been shut for longer than PORT_WAIT_TIMEOUT.
    Overdue(Duration),
}

impl Gate {
    /// A gate that shut at `now`.
    pub(super) fn new(config: GateConfig, now: Instant) -> Self {
        let next_reminder = FIRST_REMINDER;
        Gate {
            config,
            open: false,
            against: 0,
            since: now,
            next_reminder,
            overdue_told: false,
            losses: VecDeque::new(),
            passing: None,
        }
    }

    /// A gate that opened at `now`.
    pub(super) fn opened(config: GateConfig, now: Instant) -> Self {
        Gate { open: true, ..Gate::new(config, now) }
    }

    /// Whether it is open.
    pub(super) fn is_ready(&self) -> bool {
        self.open
    }

    /// Counts a try that ended at `now`.
    pub(super) fn on_try(&mut self, passed: bool, now: Instant) -> Decision {
        let lasted = now.saturating_duration_since(self.since);
        self.against = if passed == self.open { 0 } else { self.against + 1 };
        let enough = if self.open { self.config.fall } else { self.config.rise };
        self.passing = if passed && !self.open { self.passing.or(Some(now)) } else { None };
        let notice = if self.against >= enough.max(1) && (self.open || self.is_steady(now)) {
            Some(self.turn(lasted, now))
        } else if self.open {
            None
        } else {
            self.reminder(lasted)
        };
        Decision { pause: self.pause(now), notice }
    }

    fn turn(&mut self, lasted: Duration, now: Instant) -> Notice {
        let losses = std::mem::take(&mut self.losses);
        *self = Gate { open: !self.open, losses, ..Gate::new(self.config, now) };
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

    /// How long every try must pass before it opens: nothing after the first loss, an interval after the second, and
    /// twice as long after each further one.
    fn steady(&self) -> Duration {
        match u32::try_from(self.losses.len()).unwrap_or(u32::MAX) {
            0 | 1 => Duration::ZERO,
            losses => self.config.interval.saturating_mul(1 << (losses - 2).min(16)).min(LONGEST_STEADY),
        }
    }

    fn is_steady(&self, now: Instant) -> bool {
        self.passing.is_some_and(|since| now.saturating_duration_since(since) >= self.steady())
    }

    fn pause(&self, now: Instant) -> Duration {
        if self.open {
            return self.config.interval;
        }
        let waited = now.saturating_duration_since(self.since);
        (waited / PAUSE_PART).max(self.config.shortest).min(self.config.interval)
    }

    fn reminder(&mut self, waited: Duration) -> Option<Notice> {
        let newly_overdue = waited >= self.config.overdue && !self.overdue_told;
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

    const CONFIG: GateConfig = GateConfig {
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
            let decision = gate.on_try(false, start + waited);
            tries += 1;
            told.extend(decision.notice);
            waited += decision.pause;
        }
        (tries, told)
    }

    #[test]
    fn a_start_loses_a_hundredth_of_its_time_at_most_and_a_long_wait_takes_few_tries() {
        let start = Instant::now();
        let mut gate = Gate::new(CONFIG, start);
        for (waited, pause) in
            [(0, 5), (499, 5), (1_000, 10), (60_000, 600), (500_000, 5_000), (9_000_000, 5_000)]
        {
            let decision = gate.on_try(false, start + Duration::from_millis(waited));
            assert_eq!(decision.pause, Duration::from_millis(pause), "after {waited} ms");
        }
        let (tries, _) = fail_for(&mut Gate::new(CONFIG, start), start, Duration::from_secs(60));
        assert!(tries < 700, "{tries}");
        let short = GateConfig { interval: Duration::from_millis(1), ..CONFIG };
        assert_eq!(Gate::new(short, start).on_try(false, start).pause, Duration::from_millis(1));
    }

    #[test]
    fn it_reminds_at_growing_distances_and_loudly_once_it_is_overdue() {
        let start = Instant::now();
        let (_, told) = fail_for(&mut Gate::new(CONFIG, start), start, Duration::from_secs(3_000));
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
        let mut gate = Gate::new(GateConfig { rise: 2, ..CONFIG }, start);
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
        let mut gate = Gate::new(CONFIG, start);
        gate.on_try(true, start);
        for passed in [false, false, true, false, false] {
            let decision = gate.on_try(passed, start);
            assert_eq!(decision, Decision { pause: CONFIG.interval, notice: None });
        }
        let lost = start + Duration::from_secs(90);
        let decision = gate.on_try(false, lost);
        assert_eq!(
            decision,
            Decision { pause: CONFIG.shortest, notice: Some(Notice::Lost(Duration::from_secs(90))) }
        );
        assert!(!gate.is_ready());
        // The wait for its return is a new one.
        let decision = gate.on_try(false, lost + Duration::from_secs(6));
        assert_eq!(decision.notice, Some(Notice::Waiting(Duration::from_secs(6))));
    }

    #[test]
    fn an_application_that_comes_and_goes_must_stay_longer_each_time() {
        let mut now = Instant::now();
        let mut gate = Gate::opened(GateConfig { fall: 1, ..CONFIG }, now);
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
