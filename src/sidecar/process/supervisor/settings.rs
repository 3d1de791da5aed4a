//! The configuration of the supervisor, and the arithmetic on it.

use std::time::{Duration, Instant};

use crate::sidecar::config::Restart;
use crate::sidecar::process::reaper::Exit;

use super::StepList;

/// The longest pause before a restart, unless RESTART_DELAY itself is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The longest pause between two checks for updates, unless UPDATE_CHECK_INTERVAL itself is longer.
const LONGEST_UPDATE_PAUSE: Duration = Duration::from_secs(24 * 3_600);
/// How long a command without STOP_GRACE_PERIOD may take to end for an update. It is systemd's default.
const STOP_LIMIT: Duration = Duration::from_secs(90);
/// SIGKILL is sent this long before the end of the grace period, or at half of a short one, so that this process
/// exits by itself before the engine kills it.
const SPARE: Duration = Duration::from_secs(1);

/// The configuration of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// WAIT_FOR_TIMEOUT; `None` where there are no dependencies.
    pub(crate) wait: Option<Duration>,
    /// How many steps PRE_START has.
    pub(crate) steps: usize,
    /// Whether a failed step keeps the command from starting.
    pub(crate) steps_fatal: bool,
    /// PRE_START_TIMEOUT for each step; `None` sets no limit.
    pub(crate) step_timeout: Option<Duration>,
    /// Whether people see the maintenance page before the command has run at all.
    pub(crate) page: bool,
    /// Updates in place; `None` where there are none.
    pub(crate) update: Option<UpdatePolicy>,
    /// PORT_WAIT_TIMEOUT: how long the application may take to be ready after an update before it is warned about.
    pub(crate) ready_limit: Duration,
    /// RESTART.
    pub(crate) restart: Restart,
    /// RESTART_DELAY: the first pause before a restart.
    pub(crate) delay: Duration,
    /// RUN_EVERY: from one start of the command to the next.
    pub(crate) every: Option<Duration>,
    /// How long requests in flight may take to end at a stop.
    pub(crate) drain: Duration,
    /// STOP_GRACE_PERIOD: how long after the stop signal the engine kills; `None` where that is not known, so that
    /// nothing is killed from here.
    pub(crate) grace: Option<Duration>,
}

/// How the command is updated in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpdatePolicy {
    /// UPDATE_CHECK_INTERVAL: from the end of one check to the next, more than zero.
    pub(crate) every: Duration,
    /// How many lines UPDATE_COMMAND has.
    pub(crate) steps: usize,
    /// UPDATE_TIMEOUT, for the check and for each line; `None` sets no limit.
    pub(crate) timeout: Option<Duration>,
}

impl UpdatePolicy {
    /// The time until the next check after this many failed updates in a row. It doubles, because each failure is an
    /// outage.
    pub(super) fn pause(&self, failed: u32) -> Duration {
        let grown = self.every.saturating_mul(1_u32.checked_shl(failed).unwrap_or(u32::MAX));
        grown.min(LONGEST_UPDATE_PAUSE.max(self.every))
    }
}

impl Policy {
    /// After a command has run for this long, the next pause before a restart is the first again.
    pub(crate) const HEALTHY: Duration = Duration::from_secs(60);

    /// Whether a command that ended like this is restarted.
    pub(super) fn restarts(&self, exit: Exit) -> bool {
        match self.restart {
            Restart::No => false,
            Restart::OnFailure => !exit.is_success(),
            Restart::Always => true,
        }
    }

    /// The pause before a restart; it doubles with each earlier crash.
    pub(super) fn pause(&self, crashes: u32) -> Duration {
        let grown = self.delay.saturating_mul(1_u32.checked_shl(crashes).unwrap_or(u32::MAX));
        grown.min(LONGEST_PAUSE.max(self.delay))
    }

    /// How many steps the list has, and how long each may take.
    pub(super) fn steps_in(&self, work: StepList) -> (usize, Option<Duration>) {
        match work {
            StepList::PreStart => (self.steps, self.step_timeout),
            StepList::Update => {
                self.update.as_ref().map_or((0, None), |update| (update.steps, update.timeout))
            }
        }
    }

    /// How long the command may take to end for an update. There is always a limit, because no engine kills it there.
    pub(super) fn stop_limit(&self) -> Duration {
        self.kill_after().unwrap_or(STOP_LIMIT)
    }

    /// How long after the first request to stop SIGKILL is sent, if ever.
    pub(super) fn kill_after(&self) -> Option<Duration> {
        self.grace.map(|grace| grace.saturating_sub(SPARE).max(grace / 2))
    }

    /// How long the drain may take: it leaves the command at least half of the time.
    pub(super) fn drain_limit(&self) -> Duration {
        self.kill_after().map_or(self.drain, |after| self.drain.min(after / 2))
    }
}

/// The first time after `now` that is a multiple of `every` after `slot`. Runs do not overlap: those that would have
/// begun during a long one are left out.
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
            ready_limit: Duration::from_secs(30),
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
