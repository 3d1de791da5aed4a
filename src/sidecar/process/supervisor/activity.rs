//! What the machine is doing, for people and for health checks.

use crate::sidecar::process::reaper::Exit;

use super::{State, Supervisor, Work};

/// What goes on, and whether it is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Where the command stands.
    pub(crate) phase: Phase,
    /// The step that runs, by its index.
    pub(crate) step: Option<(Work, usize)>,
    /// An update goes on.
    pub(crate) updating: bool,
    /// It is healthy, although the application may not be ready: a step, an update or a schedule that is as it
    /// should be. `None`: that is for the application to say.
    pub(crate) healthy: Option<bool>,
}

/// Where the command stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing has begun, or nothing is wrapped.
    #[default]
    Idle,
    /// For dependencies.
    Waiting,
    /// Steps before its start, or of an update.
    Steps,
    /// It starts: it runs, and does not answer yet.
    Starting,
    /// It runs.
    Running,
    /// It has been asked to end for an update, or is about to be.
    Halting,
    /// Between two runs.
    Pausing,
    /// It is asked to end for good, or has ended.
    Stopping,
}

impl Default for Activity {
    fn default() -> Self {
        Activity { phase: Phase::Idle, step: None, updating: false, healthy: None }
    }
}

impl Supervisor {
    /// What goes on now.
    pub(crate) fn activity(&self) -> Activity {
        let step = match self.state {
            State::Step { work, index, .. } | State::EndingStep { work, index, .. } => Some((work, index)),
            _ => None,
        };
        Activity { phase: self.phase(), step, updating: self.updating.is_some(), healthy: self.healthy() }
    }

    fn phase(&self) -> Phase {
        match self.state {
            State::New => Phase::Idle,
            State::Waiting { .. } => Phase::Waiting,
            State::Step { .. } | State::EndingStep { .. } => Phase::Steps,
            State::Starting | State::Running { ready: false, .. } => Phase::Starting,
            State::Running { .. } => Phase::Running,
            State::Covering { .. } | State::Halting { .. } => Phase::Halting,
            State::Pausing { .. } => Phase::Pausing,
            State::Draining { .. }
            | State::Leaving { .. }
            | State::Stopping { .. }
            | State::Withdrawing { .. }
            | State::Done => Phase::Stopping,
        }
    }

    fn healthy(&self) -> Option<bool> {
        match self.state {
            State::Step { .. } | State::EndingStep { .. } => Some(true),
            State::Covering { .. } | State::Halting { .. } => Some(true),
            // The last of an update: it has as long as PORT_WAIT_TIMEOUT.
            State::Starting | State::Running { patience: Some(_), .. } if self.updating.is_some() => {
                Some(true)
            }
            // A run may take its time; one that failed is what somebody should look at.
            _ if self.policy.every.is_some() => Some(self.last.is_none_or(Exit::is_success)),
            _ => None,
        }
    }
}
