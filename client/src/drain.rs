//! Leaving without a request that meets a dying process (SEMANTICS section 6).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::error::{CallError, DrainError};
use super::handle::Client;
use super::intent::Visibility;
use super::status::Phase;

/// Between two questions how far the drain is.
const POLL: Duration = Duration::from_millis(50);
/// More than any number of requests: it is not known yet.
const UNKNOWN: u64 = u64::MAX;

impl Client {
    /// Lets the registry send no new requests here, and waits until those in flight are over: what a process does
    /// before it stops, with [`Client::shutdown`] after it.
    ///
    /// [`Visibility::Draining`] stays wanted, in later sessions too, also when the call fails or is dropped;
    /// [`Client::set_visibility`] ends it. Upgraded connections are not waited for.
    ///
    /// # Errors
    /// [`DrainError::Unsupported`] at a registry that cannot drain without an outage, where nothing was changed; and
    /// else what kept the drain from its end within `limit`.
    pub async fn drain(&self, limit: Duration) -> Result<(), DrainError> {
        let status = self.status();
        if status.bound && status.session_known && !status.can_drain && !status.routes.is_empty() {
            return Err(DrainError::Unsupported);
        }
        self.set_visibility(Visibility::Draining)?;
        let in_flight = AtomicU64::new(UNKNOWN);
        match timeout(limit, self.drained(limit, &in_flight)).await {
            Ok(result) => result,
            Err(_) => {
                let in_flight = in_flight.into_inner();
                Err(DrainError::TimedOut { in_flight: (in_flight != UNKNOWN).then_some(in_flight) })
            }
        }
    }

    async fn drained(&self, limit: Duration, in_flight: &AtomicU64) -> Result<(), DrainError> {
        let shown = self.wait(limit, |status| match status.shown {
            _ if status.phase == Phase::Stopped => Some(Err(DrainError::Stopped)),
            _ if !status.bound => Some(Err(DrainError::NoSession)),
            shown @ (Visibility::Draining | Visibility::Absent) => Some(Ok(shown)),
            // The registry has refused.
            _ if !status.can_drain => Some(Err(DrainError::Unsupported)),
            _ => None,
        });
        if shown.await? == Visibility::Absent {
            return Ok(());
        }
        loop {
            let drain = match self.drain_status().await {
                Ok(drain) => drain,
                Err(CallError::TooMany) => {
                    sleep(POLL).await;
                    continue;
                }
                Err(CallError::Stopped) => return Err(DrainError::Stopped),
                Err(_) => return Err(DrainError::NoSession),
            };
            match drain.in_flight {
                Some(0) => return Ok(()),
                None if drain.remaining_seconds <= 0.0 => return Ok(()),
                Some(count) => in_flight.store(count, Ordering::Relaxed),
                None => {}
            }
            sleep(POLL).await;
        }
    }
}
