//! How the command is treated, and the arithmetic of it.

use std::time::{Duration, Instant};

use crate::sidecar::config::Restart;
use crate::sidecar::process::reaper::Exit;

use super::Work;

/// No pause between restarts is longer, unless RESTART_DELAY itself is.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// No pause between two checks for updates is longer, unless UPDATE_CHECK_INTERVAL itself is.
const LONGEST_UPDATE_PAUSE: Duration = Duration::from_secs(24 * 3_600);
/// How long a command without STOP_GRACE_PERIOD may take to end for an update; systemd's default.
const HALT_LIMIT: Duration = Duration::from_secs(90);
/// SIGKILL comes this long before the end of the grace period, or at half of a short one, so that we end by
/// ourselves.
const SPARE: Duration = Duration::from_secs(1);

/// What the supervisor goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// How long dependencies are waited for; `None`: there are none.
    pub(crate) wait: Option<Duration>,
    /// How many steps come before the first start.
    pub(crate) steps: usize,
    /// Whether a step that fails is the end.
    pub(crate) steps_fatal: bool,
    /// How long one step may take; `None`: as long as it likes.
    pub(crate) step_timeout: Option<Duration>,
    /// Whether people are shown a maintenance page before the command has run at all.
    pub(crate) page: bool,
    /// Updates in place; `None`: there are none.
    pub(crate) update: Option<UpdatePolicy>,
    /// How long the command may take to be ready after an update until that counts as trouble.
    pub(crate) patience: Duration,
    /// RESTART.
    pub(crate) restart: Restart,
    /// RESTART_DELAY: the first pause before a restart.
    pub(crate) delay: Duration,
    /// RUN_EVERY: from one start of the command to the next.
    pub(crate) every: Option<Duration>,
    /// How long requests in flight may take at a stop.
    pub(crate) drain: Duration,
    /// STOP_GRACE_PERIOD: when whoever stops us loses patience; `None`: never known, so nothing is killed.
    pub(crate) grace: Option<Duration>,
}

/// How the command is updated in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpdatePolicy {
    /// UPDATE_CHECK_INTERVAL: from the end of one check to the next, more than zero.
    pub(crate) every: Duration,
    /// How many lines UPDATE_COMMAND has.
    pub(crate) steps: usize,
    /// UPDATE_TIMEOUT, for the check and for each line; `None`: as long as it likes.
    pub(crate) timeout: Option<Duration>,
}

impl UpdatePolicy {
    /// The time until the next check after so many updates in a row that failed. It doubles, because each
    /// failure is an outage.
    pub(super) fn pause(&self, failed: u32) -> Duration {
        let grown = self.every.saturating_mul(1_u32.checked_shl(failed).unwrap_or(u32::MAX));
        grown.min(LONGEST_UPDATE_PAUSE.max(self.every))
    }
}

impl Policy {
    /// A command that ran this long was healthy: the next pause is the first again.
    pub(crate) const HEALTHY: Duration = Duration::from_secs(60);

    /// Whether a command that ended like this is started again.
    pub(super) fn restarts(&self, exit: Exit) -> bool {
        match self.restart {
            Restart::No => false,
            Restart::OnFailure => !exit.is_success(),
            Restart::Always => true,
        }
    }

    /// The pause before a restart after so many earlier ones: it doubles.
    pub(super) fn pause(&self, crashes: u32) -> Duration {
        let grown = self.delay.saturating_mul(1_u32.checked_shl(crashes).unwrap_or(u32::MAX));
        grown.min(LONGEST_PAUSE.max(self.delay))
    }

    /// How many steps there are, and how long each may take.
    pub(super) fn steps_of(&self, work: Work) -> (usize, Option<Duration>) {
        match work {
            Work::PreStart => (self.steps, self.step_timeout),
            Work::Update => self.update.as_ref().map_or((0, None), |update| (update.steps, update.timeout)),
        }
    }

    /// How long the command may take to end for an update. Nobody else would kill it there, as an engine does
    /// at a stop.
    pub(super) fn halt_limit(&self) -> Duration {
        self.kill_after().unwrap_or(HALT_LIMIT)
    }

    /// How long after the first request to stop SIGKILL comes, if ever.
    pub(super) fn kill_after(&self) -> Option<Duration> {
        self.grace.map(|grace| grace.saturating_sub(SPARE).max(grace / 2))
    }

    /// The drain leaves the command at least half of the time that there is.
    pub(super) fn drain_limit(&self) -> Duration {
        self.kill_after().map_or(self.drain, |after| self.drain.min(after / 2))
    }
}

/// The first time after `now` on the grid that `slot` began. Runs do not overlap: what a long one ran over
/// is left out.
pub(super) fn next_slot(slot: Instant, every: Duration, now: Instant) -> Instant {
    let passed = now.saturating_duration_since(slot);
    let whole = passed.as_nanos() / every.as_nanos().max(1);
    let next = u32::try_from(whole + 1).ok().and_then(|slots| every.checked_mul(slots));
    next.and_then(|after| slot.checked_add(after)).unwrap_or(now + every)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy {
            wait: None,
            steps: 0,
            steps_fatal: true,
            step_timeout: None,
            page: false,
            update: None,
            patience: Duration::from_secs(30),
            restart: Restart::Always,
            delay: Duration::from_secs(5),
            every: None,
            drain: Duration::from_secs(5),
            grace: None,
        }
    }

    #[test]
    fn pauses_double_up_to_five_minutes_unless_longer_ones_are_asked_for() {
        let pauses: Vec<u64> = (0..9).map(|crashes| policy().pause(crashes).as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(policy().pause(u32::MAX), LONGEST_PAUSE);
        let patient = Policy { delay: Duration::from_secs(3_600), ..policy() };
        assert_eq!(patient.pause(4), Duration::from_secs(3_600));
        assert_eq!(Policy { delay: Duration::ZERO, ..policy() }.pause(40), Duration::ZERO);
    }

    #[test]
    fn the_kill_comes_a_second_before_the_end_and_the_drain_leaves_half_of_it() {
        let with = |secs| Policy { grace: Some(Duration::from_secs(secs)), ..policy() };
        assert_eq!((policy().kill_after(), policy().drain_limit()), (None, Duration::from_secs(5)));
        assert_eq!(with(30).kill_after(), Some(Duration::from_secs(29)));
        assert_eq!(with(30).drain_limit(), Duration::from_secs(5));
        assert_eq!(with(1).kill_after(), Some(Duration::from_millis(500)));
        assert_eq!(with(7).drain_limit(), Duration::from_secs(3));
    }

    #[test]
    fn a_run_that_is_late_does_not_move_those_after_it() {
        let (start, every) = (Instant::now(), Duration::from_secs(60));
        let after = |secs| next_slot(start, every, start + Duration::from_secs(secs)) - start;
        assert_eq!(after(0), every);
        assert_eq!(after(59), every);
        assert_eq!(after(60), every * 2);
        assert_eq!(after(150), every * 3);
    }
}
