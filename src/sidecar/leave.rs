//! Leaving a registry without a request that meets a dying process (SEMANTICS section 6).

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::client::{Client, Wanted};

/// Between two questions how far the drain is.
const POLL: Duration = Duration::from_millis(50);

/// Drains where the registry announces `drain`: no new requests once that is acknowledged, then the end of
/// those in flight, both together within `limit`. Then CLIENT_SHUTDOWN, which has its own 500 ms. At a
/// reference server a drain is an outage, so that there is none.
///
/// Dropping it leaves out what is left to do.
pub(super) async fn leave(client: Client, limit: Duration) {
    let status = client.status();
    let can_drain = status.bound && status.capabilities.contains("drain") && status.shown != Wanted::Absent;
    if can_drain && !limit.is_zero() {
        let registry = status.registry;
        match timeout(limit, drained(&client)).await {
            Ok(true) => info!("{registry}: drained, nothing is in flight"),
            // There is nobody to ask any more.
            Ok(false) => {}
            Err(_) => warn!("{registry}: requests are still in flight after {limit:?}; leaving"),
        }
    }
    client.shutdown().await;
}

/// Whether the drain was acknowledged and is over; not, if the session ended before.
async fn drained(client: &Client) -> bool {
    if client.set_visibility(Wanted::Draining).is_err() {
        return false;
    }
    let mut status = client.watch();
    let settled = status.wait_for(|status| !status.bound || status.shown == Wanted::Draining).await;
    if !settled.is_ok_and(|status| status.bound) {
        return false;
    }
    loop {
        match client.drain_status().await {
            Ok(drain) if drain.in_flight.is_some_and(|count| count > 0) => {}
            Ok(drain) if drain.in_flight.is_none() && drain.remaining_seconds > 0.0 => {}
            Ok(_) => return true,
            Err(_) => return false,
        }
        sleep(POLL).await;
    }
}
