//! What the supervisor is doing, for status and health checks.

use crate::sidecar::process::reaper::Exit;

use super::{State, StepList, Supervisor};

/// What goes on, and whether it counts as healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Activity {
    /// What the command is doing.
    pub(crate) phase: Phase,
    /// The step that runs, by its index.
    pub(crate) step: Option<(StepList, usize)>,
    /// An update goes on.
    pub(crate) updating: bool,
    /// Whether a step, an update or a schedule counts as healthy although the application may not be ready. `None`
    /// leaves the answer to the application's readiness.
    pub(crate) healthy: Option<bool>,
}

/// What the command is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The supervisor has not begun.
    #[default]
    Idle,
    /// It waits for dependencies.
    Waiting,
    /// A step of PRE_START or UPDATE_COMMAND runs.
    Steps,
    /// The command starts, or runs and is not ready yet.
    Starting,
    /// The command runs and was ready.
    Running,
    /// The command is stopped for an update.
    StoppingForUpdate,
    /// It waits before a restart or the next run of a schedule.
    Pausing,
    /// The command is stopped for good, or has ended.
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
            State::EnteringMaintenance { .. } | State::StoppingForUpdate { .. } => Phase::StoppingForUpdate,
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
            State::EnteringMaintenance { .. } | State::StoppingForUpdate { .. } => Some(true),
            // After an update the command has PORT_WAIT_TIMEOUT to become ready.
            State::Starting | State::Running { ready_limit: Some(_), .. } if self.updating.is_some() => {
                Some(true)
            }
            // A run may take its time, but an operator should look at one that failed.
            _ if self.policy.every.is_some() => Some(self.last.is_none_or(Exit::is_success)),
            _ => None,
        }
    }
}
