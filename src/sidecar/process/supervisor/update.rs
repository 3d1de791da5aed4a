//! Updates in place: asked for now and then, done behind a page, and undone as far as starting what is there.

use std::time::{Duration, Instant};

use crate::client::Wanted;
use crate::sidecar::process::reaper::Exit;

use super::{Effect, Notice, State, Supervisor, Work};

/// How long the proxy may take to confirm that people get the page; the client takes it for granted after as
/// long.
const COVER_LIMIT: Duration = Duration::from_secs(30);

/// UPDATE_CHECK. It is asked only while the command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// There are no updates, or the command has not run yet.
    Never,
    /// It is due then.
    At(Instant),
    /// It runs; `None`: for as long as it likes.
    Until(Option<Instant>),
}

/// The update that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Updating {
    /// So far it went well.
    Well,
    /// A line of UPDATE_COMMAND has failed: what was there before is started again.
    Failed { index: usize, exit: Exit },
}

impl Check {
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Check::Never => None,
            Check::At(at) => Some(at),
            Check::Until(until) => until,
        }
    }
}

impl Supervisor {
    /// The command runs. A check that came due while it did not is made at once.
    pub(super) fn schedule_check(&mut self, now: Instant) {
        if let (Check::Never, Some(update)) = (self.check, &self.policy.update) {
            self.check = Check::At(now + update.every);
        }
    }

    /// The check runs no longer, if it did; it is due again after the usual time.
    pub(super) fn end_check(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if matches!(self.check, Check::Until(_)) {
            self.postpone_check(now);
            out.push(Effect::EndCheck);
        }
    }

    pub(super) fn checked(&mut self, exit: Exit, now: Instant, out: &mut Vec<Effect>) {
        if !matches!(self.check, Check::Until(_)) {
            return;
        }
        self.postpone_check(now);
        match exit {
            Exit::Code(0) => self.cover(now, out),
            // What a shell says of a program that it cannot run.
            Exit::Code(126 | 127) | Exit::Signal(_) => out.push(Effect::Say(Notice::CheckFailed { exit })),
            Exit::Code(_) => {}
        }
    }

    /// The deadline of the check or of the patience is over.
    pub(super) fn running_elapsed(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if let State::Running { patience, .. } = &mut self.state
            && patience.take_if(|until| *until <= now).is_some()
        {
            out.push(Effect::Say(Notice::NotReady));
        }
        match self.check {
            Check::At(at) if at <= now => {
                let timeout = self.policy.update.as_ref().and_then(|update| update.timeout);
                self.check = Check::Until(timeout.map(|limit| now + limit));
                out.push(Effect::RunCheck);
            }
            Check::Until(Some(until)) if until <= now => {
                out.push(Effect::Say(Notice::CheckOverdue));
                self.end_check(now, out);
            }
            _ => {}
        }
    }

    /// There is an update. Nobody is to meet the command while it stops; who sees nothing of it anyway is not
    /// waited for.
    fn cover(&mut self, now: Instant, out: &mut Vec<Effect>) {
        out.push(Effect::Say(Notice::Updating));
        self.updating = Some(Updating::Well);
        let seen = self.wanted == Wanted::Live;
        if seen || self.policy.page {
            self.publish(Wanted::Maintenance, out);
        }
        match seen {
            true => self.state = State::Covering { until: now + COVER_LIMIT + self.policy.drain },
            false => self.halt(now, out),
        }
    }

    pub(super) fn halt(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.state = State::Halting { kill_at: Some(now + self.policy.halt_limit()) };
        out.push(Effect::StopCommand);
    }

    /// What was there before is started again, if that is still possible.
    pub(super) fn update_failed(&mut self, index: usize, exit: Exit, now: Instant, out: &mut Vec<Effect>) {
        out.push(Effect::Say(Notice::UpdateFailed { index, exit }));
        self.failed_updates = self.failed_updates.saturating_add(1);
        self.postpone_check(now);
        self.updating = Some(Updating::Failed { index, exit });
        let (count, _) = self.policy.steps_of(Work::Update);
        self.step(Work::Update, count, now, out);
    }

    /// The command answers again.
    pub(super) fn update_over(&mut self, out: &mut Vec<Effect>) {
        match self.updating.take() {
            Some(Updating::Well) => {
                self.failed_updates = 0;
                out.push(Effect::Say(Notice::Updated));
            }
            Some(Updating::Failed { index, exit }) => out.push(Effect::Say(Notice::Restored { index, exit })),
            None => {}
        }
    }

    /// The command has ended before it answered.
    pub(super) fn update_lost(&mut self, exit: Exit, out: &mut Vec<Effect>) {
        if self.updating.take().is_some() {
            out.push(Effect::Say(Notice::NotBack { exit }));
        }
    }

    fn postpone_check(&mut self, now: Instant) {
        self.check = match &self.policy.update {
            Some(update) => Check::At(now + update.pause(self.failed_updates)),
            None => Check::Never,
        };
    }
}
