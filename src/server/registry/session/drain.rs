//! The state of a session's drain (SEMANTICS section 6).

use std::time::{Duration, SystemTime};

use crate::server::routing::Drain;

/// A session's drain, until it is cancelled or the session ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draining {
    pub(crate) drain: Drain,
    /// The duration that was asked for. The drain may be over earlier.
    pub(crate) asked: Duration,
    pub(crate) started_at: SystemTime,
}
