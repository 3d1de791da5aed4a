//! Updates in place: UPDATE_CHECK asks for them at intervals, and UPDATE_COMMAND runs behind the maintenance page.
//! After a failure the command is started as it is.

use std::time::{Duration, Instant};

use crate::sidecar::process::reaper::Exit;
use registry_client::Visibility;

use super::{Effect, Notice, State, StepList, Supervisor};

/// How long the proxy may take to confirm the maintenance page. The client assumes it after the same time.
const CONFIRM_LIMIT: Duration = Duration::from_secs(30);

/// When UPDATE_CHECK runs; only while the command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UpdateCheck {
    /// There are no updates, or the command has not run yet.
    Never,
    /// It is due at this time.
    At(Instant),
    /// It runs, and times out at this time, if ever.
    Until(Option<Instant>),
}

/// The update that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Updating {
    /// Nothing has failed so far.
    Well,
    /// A line of UPDATE_COMMAND has failed; the command is started as it is.
    Failed { index: usize, exit: Exit },
}

impl UpdateCheck {
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            UpdateCheck::Never => None,
            UpdateCheck::At(at) => Some(at),
            UpdateCheck::Until(until) => until,
        }
    }
}

impl Supervisor {
    /// Schedules the first check. A check that came due while the command did not run is made at once.
    pub(super) fn schedule_check(&mut self, now: Instant) {
        if let (UpdateCheck::Never, Some(update)) = (self.check, &self.policy.update) {
            self.check = UpdateCheck::At(now + update.every);
        }
    }

    /// Ends the check if it runs; it is due again after the usual time.
    pub(super) fn end_check(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if matches!(self.check, UpdateCheck::Until(_)) {
            self.postpone_check(now);
            out.push(Effect::EndCheck);
        }
    }

    pub(super) fn checked(&mut self, exit: Exit, now: Instant, out: &mut Vec<Effect>) {
        if !matches!(self.check, UpdateCheck::Until(_)) {
            return;
        }
        self.postpone_check(now);
        match exit {
            Exit::Code(0) => self.enter_maintenance(now, out),
            // 126 and 127: the shell could not run the program.
            Exit::Code(126 | 127) | Exit::Signal(_) => out.push(Effect::Log(Notice::CheckFailed { exit })),
            Exit::Code(_) => {}
        }
    }

    /// The deadline of the check has passed, or that of the application's readiness.
    pub(super) fn running_elapsed(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if let State::Running { ready_limit, .. } = &mut self.state
            && ready_limit.take_if(|until| *until <= now).is_some()
        {
            out.push(Effect::Log(Notice::NotReadyAfterUpdate));
        }
        match self.check {
            UpdateCheck::At(at) if at <= now => {
                let timeout = self.policy.update.as_ref().and_then(|update| update.timeout);
                self.check = UpdateCheck::Until(timeout.map(|limit| now + limit));
                out.push(Effect::RunCheck);
            }
            UpdateCheck::Until(Some(until)) if until <= now => {
                out.push(Effect::Log(Notice::CheckOverdue));
                self.end_check(now, out);
            }
            _ => {}
        }
    }

    /// There is an update. Requests must not meet the command while it stops, so the proxy has to confirm the
    /// maintenance page first; unless people do not see the application anyway.
    fn enter_maintenance(&mut self, now: Instant, out: &mut Vec<Effect>) {
        out.push(Effect::Log(Notice::Updating));
        self.updating = Some(Updating::Well);
        let seen = self.wanted == Visibility::Live;
        if seen || self.policy.page {
            self.publish(Visibility::Maintenance, out);
        }
        match seen {
            true => {
                self.state = State::EnteringMaintenance { until: now + CONFIRM_LIMIT + self.policy.drain }
            }
            false => self.stop_for_update(now, out),
        }
    }

    pub(super) fn stop_for_update(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.state = State::StoppingForUpdate { kill_at: Some(now + self.policy.stop_limit()) };
        out.push(Effect::StopCommand);
    }

    /// Starts the command as it is.
    pub(super) fn update_failed(&mut self, index: usize, exit: Exit, now: Instant, out: &mut Vec<Effect>) {
        out.push(Effect::Log(Notice::UpdateFailed { index, exit }));
        self.failed_updates = self.failed_updates.saturating_add(1);
        self.postpone_check(now);
        self.updating = Some(Updating::Failed { index, exit });
        let (count, _) = self.policy.steps_in(StepList::Update);
        self.step(StepList::Update, count, now, out);
    }

    /// The application is ready again.
    pub(super) fn update_over(&mut self, out: &mut Vec<Effect>) {
        match self.updating.take() {
            Some(Updating::Well) => {
                self.failed_updates = 0;
                out.push(Effect::Log(Notice::Updated));
            }
            Some(Updating::Failed { index, exit }) => out.push(Effect::Log(Notice::Restored { index, exit })),
            None => {}
        }
    }

    /// The command has ended before the application was ready.
    pub(super) fn update_lost(&mut self, exit: Exit, out: &mut Vec<Effect>) {
        if self.updating.take().is_some() {
            out.push(Effect::Log(Notice::ExitedAfterUpdate { exit }));
        }
    }

    fn postpone_check(&mut self, now: Instant) {
        self.check = match &self.policy.update {
            Some(update) => UpdateCheck::At(now + update.pause(self.failed_updates)),
            None => UpdateCheck::Never,
        };
    }
}
