//! How long to wait before etcd is asked again. Pure.

use std::time::Duration;

/// The first pause.
const FIRST: Duration = Duration::from_millis(50);
/// The longest pause. A cluster has few replicas, so that they do not overload an etcd that is coming back.
const LONGEST: Duration = Duration::from_secs(1);

/// The pause after so many failures in a row before this one.
pub(super) fn pause(failures: u32) -> Duration {
    FIRST.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(LONGEST)
}
