//! The clock of proofs and leases. It goes on while the machine is suspended, which `Instant` does not.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::leadership::Time;

/// The time since the machine started, suspended or not.
pub(super) fn now() -> Time {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
