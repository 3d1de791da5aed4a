//! The state of a session's drain (SEMANTICS section 6).

use std::time::{Duration, SystemTime};

use crate::server::registry::model::Now;
use crate::server::registry::persist::DrainRecord;
use crate::server::routing::Drain;

/// A session's drain, until it is cancelled or the session ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draining {
    pub(crate) drain: Drain,
    /// The duration that was asked for. The drain may be over earlier.
    pub(crate) asked: Duration,
    pub(crate) started_at: SystemTime,
}

impl Draining {
    /// Its record.
    pub(crate) fn record(&self) -> DrainRecord {
        DrainRecord { at: self.started_at, asked: self.asked, time: self.drain.time }
    }

    /// The drain of a record.
    pub(crate) fn restore(now: Now, record: DrainRecord) -> Self {
        let ago = now.wall.duration_since(record.at).unwrap_or_default();
        let since = now.mono.checked_sub(ago).unwrap_or(now.mono);
        Draining { drain: Drain { since, time: record.time }, asked: record.asked, started_at: record.at }
    }
}
