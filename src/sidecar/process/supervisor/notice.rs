//! What the log says about the command.

use std::fmt;
use std::time::Duration;

use crate::sidecar::process::reaper::Exit;

use super::StepList;

/// One line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The dependencies were not ready within WAIT_FOR_TIMEOUT.
    DependenciesMissing,
    /// A step of PRE_START has failed.
    StepFailed {
        /// Which.
        index: usize,
        /// How it ended.
        exit: Exit,
        /// Whether the command is therefore not started.
        fatal: bool,
    },
    /// A step takes longer than its time-out and is asked to end.
    StepOverdue {
        /// The list that it belongs to.
        work: StepList,
        /// Which.
        index: usize,
    },
    /// The command has ended by itself.
    Ended {
        /// How.
        exit: Exit,
        /// After how long.
        ran: Duration,
    },
    /// The command is restarted after a pause.
    Restarting {
        /// The pause.
        pause: Duration,
    },
    /// A run of the schedule took longer than its interval.
    Overran {
        /// How long it took.
        took: Duration,
        /// RUN_EVERY.
        every: Duration,
    },
    /// UPDATE_CHECK could not say whether there is an update.
    CheckFailed {
        /// How it ended.
        exit: Exit,
    },
    /// UPDATE_CHECK takes longer than UPDATE_TIMEOUT and is killed.
    CheckOverdue,
    /// There is an update.
    Updating,
    /// The proxy has not confirmed the maintenance page in time.
    MaintenanceUnconfirmed,
    /// A line of UPDATE_COMMAND has failed.
    UpdateFailed {
        /// Which.
        index: usize,
        /// How it ended.
        exit: Exit,
    },
    /// The update is done, and the application is ready again.
    Updated,
    /// The update has failed, and the application is ready again as it was before.
    Restored {
        /// The step that failed.
        index: usize,
        /// How that step ended.
        exit: Exit,
    },
    /// After an update the application is not ready within PORT_WAIT_TIMEOUT.
    NotReadyAfterUpdate,
    /// After an update the command has ended before it was ready.
    ExitedAfterUpdate {
        /// How.
        exit: Exit,
    },
    /// The command's process group is killed.
    Killing,
}

impl Notice {
    /// Whether an operator should look at it.
    pub(crate) fn is_warning(&self) -> bool {
        !matches!(
            self,
            Notice::Ended { exit: Exit::Code(0), .. }
                | Notice::Restarting { .. }
                | Notice::Updating
                | Notice::Updated
        )
    }

    /// Whether it reports the progress or the result of an update.
    pub(crate) fn is_about_update(&self) -> bool {
        use Notice::{ExitedAfterUpdate, NotReadyAfterUpdate, Restored, UpdateFailed, Updated, Updating};
        matches!(
            self,
            Updating
                | UpdateFailed { .. }
                | Updated
                | Restored { .. }
                | NotReadyAfterUpdate
                | ExitedAfterUpdate { .. }
        )
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::DependenciesMissing => {
                f.write_str("the dependencies of WAIT_FOR did not come within WAIT_FOR_TIMEOUT: giving up")
            }
            Notice::StepFailed { index, exit, fatal } => {
                let then = if *fatal { "the command is not started" } else { "going on" };
                write!(f, "step {} of PRE_START {exit}: {then}", index + 1)
            }
            Notice::StepOverdue { work, index } => {
                let (of, limit) = match work {
                    StepList::PreStart => ("PRE_START", "PRE_START_TIMEOUT"),
                    StepList::Update => ("UPDATE_COMMAND", "UPDATE_TIMEOUT"),
                };
                write!(f, "step {} of {of} takes longer than {limit}: ending it", index + 1)
            }
            Notice::Ended { exit, ran } => write!(f, "the command {exit} after {ran:.1?}"),
            Notice::Restarting { pause } => write!(f, "starting it again in {pause:?}"),
            Notice::Overran { took, every } => write!(
                f,
                "the run took {took:.0?}, longer than RUN_EVERY, {every:?}: runs do not overlap, so some are left \
                 out"
            ),
            Notice::CheckFailed { exit } => {
                write!(f, "UPDATE_CHECK {exit}, which says nothing about updates")
            }
            Notice::CheckOverdue => f.write_str("UPDATE_CHECK takes longer than UPDATE_TIMEOUT: killed"),
            Notice::Updating => f.write_str("UPDATE_CHECK says that there is an update"),
            Notice::MaintenanceUnconfirmed => {
                f.write_str("the proxy has not confirmed the maintenance: updating without that")
            }
            Notice::UpdateFailed { index, exit } => write!(
                f,
                "the update failed: step {} of UPDATE_COMMAND {exit}; starting what was there before",
                index + 1
            ),
            Notice::Updated => f.write_str("the update is done"),
            Notice::Restored { index, exit } => write!(
                f,
                "the update failed at step {} of UPDATE_COMMAND, which {exit}; what was there before runs again",
                index + 1
            ),
            Notice::NotReadyAfterUpdate => {
                f.write_str("the command does not answer after the update, for longer than PORT_WAIT_TIMEOUT")
            }
            Notice::ExitedAfterUpdate { exit } => {
                write!(f, "after the update the command {exit} before it answered")
            }
            Notice::Killing => f.write_str("killing what is left of the command"),
        }
    }
}
