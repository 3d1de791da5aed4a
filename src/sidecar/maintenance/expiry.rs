//! Ends maintenance windows when their time has come.

use std::time::{Duration, SystemTime};

use tokio::time::sleep;
use tracing::{info, warn};

use super::handle::Maintenance;

/// The longest sleep before the clock is read again: somebody may set it while a window is open.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// Ends windows for as long as it runs. It wakes up only while a window has an end.
pub(crate) async fn end_expired_windows(maintenance: Maintenance) {
    let mut windows = maintenance.watch_windows();
    loop {
        let next = windows.borrow_and_update().next_end();
        let due = async {
            match next {
                Some(end) => {
                    sleep(end.duration_since(SystemTime::now()).unwrap_or_default().min(MAX_SLEEP)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = windows.changed() => if changed.is_err() { return },
            () = due => end_expired(&maintenance).await,
        }
    }
}

async fn end_expired(maintenance: &Maintenance) {
    let expired = maintenance.expire(SystemTime::now());
    if expired.is_empty() {
        return;
    }
    for window in expired {
        info!("maintenance of {} is over: its time has come", window.target);
    }
    if let Err(error) = maintenance.save().await {
        warn!("the end of the maintenance: {error}");
    }
}
