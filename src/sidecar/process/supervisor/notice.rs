//! What people are told about the command.

use std::fmt;
use std::time::Duration;

use crate::sidecar::process::reaper::Exit;

use super::Work;

/// One line for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// WAIT_FOR_TIMEOUT is over.
    DependenciesMissing,
    /// A step has failed, which is the end or is not.
    StepFailed {
        /// Which.
        index: usize,
        /// How it ended.
        exit: Exit,
        /// Whether that is the end.
        fatal: bool,
    },
    /// A step takes longer than PRE_START_TIMEOUT and is asked to end.
    StepOverdue {
        /// Of what.
        work: Work,
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
    /// It is started again after a pause.
    Restarting {
        /// How long that is.
        pause: Duration,
    },
    /// A run of the schedule took longer than the schedule.
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
    /// It takes longer than UPDATE_TIMEOUT and is killed.
    CheckOverdue,
    /// There is an update.
    Updating,
    /// The proxy has not confirmed in time that people get the page.
    NotCovered,
    /// A line of UPDATE_COMMAND has failed.
    UpdateFailed {
        /// Which.
        index: usize,
        /// How it ended.
        exit: Exit,
    },
    /// The update is over, and the command answers.
    Updated,
    /// The update has failed, and what was there before answers again.
    Restored {
        /// At which step.
        index: usize,
        /// How that ended.
        exit: Exit,
    },
    /// After an update the command does not answer within PORT_WAIT_TIMEOUT.
    NotReady,
    /// After an update the command has ended before it answered.
    NotBack {
        /// How.
        exit: Exit,
    },
    /// What is left is killed.
    Killing,
}

impl Notice {
    /// Whether somebody should look at it.
    pub(crate) fn is_trouble(&self) -> bool {
        !matches!(
            self,
            Notice::Ended { exit: Exit::Code(0), .. }
                | Notice::Restarting { .. }
                | Notice::Updating
                | Notice::Updated
        )
    }

    /// Whether it says how an update goes.
    pub(crate) fn is_about_update(&self) -> bool {
        use Notice::{NotBack, NotReady, Restored, UpdateFailed, Updated, Updating};
        matches!(self, Updating | UpdateFailed { .. } | Updated | Restored { .. } | NotReady | NotBack { .. })
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
                    Work::PreStart => ("PRE_START", "PRE_START_TIMEOUT"),
                    Work::Update => ("UPDATE_COMMAND", "UPDATE_TIMEOUT"),
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
            Notice::NotCovered => {
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
            Notice::NotReady => {
                f.write_str("the command does not answer after the update, for longer than PORT_WAIT_TIMEOUT")
            }
            Notice::NotBack { exit } => write!(f, "after the update the command {exit} before it answered"),
            Notice::Killing => f.write_str("killing what is left of the command"),
        }
    }
}
