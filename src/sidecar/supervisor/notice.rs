//! What people are told about the command.

use std::fmt;
use std::time::Duration;

use crate::sidecar::reaper::Exit;

/// One line for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
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
    /// What is left is killed.
    Killing,
}

impl Notice {
    /// Whether somebody should look at it.
    pub fn is_trouble(&self) -> bool {
        !matches!(self, Notice::Ended { exit: Exit::Code(0), .. } | Notice::Restarting { .. })
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
            Notice::StepOverdue { index } => {
                write!(f, "step {} of PRE_START takes longer than PRE_START_TIMEOUT: ending it", index + 1)
            }
            Notice::Ended { exit, ran } => write!(f, "the command {exit} after {ran:.1?}"),
            Notice::Restarting { pause } => write!(f, "starting it again in {pause:?}"),
            Notice::Overran { took, every } => write!(
                f,
                "the run took {took:.0?}, longer than RUN_EVERY, {every:?}: runs do not overlap, so some are left \
                 out"
            ),
            Notice::Killing => f.write_str("killing what is left of the command"),
        }
    }
}
