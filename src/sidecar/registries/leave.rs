//! Leaves a registry so that no request meets a process that has ended (SEMANTICS section 6).

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::shutdown::Shutdown;
use registry_client::{CallError, Client, Status, Visibility};

use super::tcp_table::no_connections;

/// The pause between two questions how far the drain is.
const POLL: Duration = Duration::from_millis(50);
/// How long an unanswered command may delay the stop (SEMANTICS section 8).
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// How long CLIENT_SHUTDOWN may take at a registry that has already been silent for [`ANSWER_LIMIT`].
const SILENT_SHUTDOWN_LIMIT: Duration = Duration::from_millis(20);

/// How a drain ended.
enum DrainEnd {
    /// Nothing is in flight.
    Over,
    /// The session is gone, so nobody can be asked.
    Gone,
    /// The registry does not answer.
    Silent,
}

/// Drains within `limit` where the registry announces `drain`: once it acknowledges, no new requests come, and those
/// in flight end. Then sends CLIENT_SHUTDOWN, which has 500 ms of its own. A reference server is not drained, because
/// a drain is an outage there. A forced shutdown ends the drain.
///
/// Dropping it stops at once, without CLIENT_SHUTDOWN if that was not sent yet.
pub(super) async fn leave(client: Client, limit: Duration, shutdown: Shutdown) {
    let status = client.status();
    let can_drain =
        status.bound && status.capabilities.contains("drain") && status.shown != Visibility::Absent;
    if can_drain && !limit.is_zero() {
        let registry = status.registry;
        let drained = tokio::select! {
            drained = timeout(limit, drain(&client)) => drained,
            _ = shutdown.forced() => Ok(DrainEnd::Gone),
        };
        match drained {
            Ok(DrainEnd::Over) => info!("{registry}: drained, nothing is in flight"),
            Ok(DrainEnd::Gone) => {}
            Ok(DrainEnd::Silent) => {
                warn!("{registry}: no answer within {ANSWER_LIMIT:?}; leaving without one");
                // Do not insist on an answer to the shutdown from a registry that does not answer.
                return drop(timeout(SILENT_SHUTDOWN_LIMIT, client.shutdown()).await);
            }
            Err(_) => warn!("{registry}: requests are still in flight after {limit:?}; leaving"),
        }
    }
    client.shutdown().await;
}

async fn drain(client: &Client) -> DrainEnd {
    if client.set_visibility(Visibility::Draining).is_err() {
        return DrainEnd::Gone;
    }
    let mut status = client.watch();
    let settled = status.wait_for(|status| !status.bound || status.shown == Visibility::Draining);
    match timeout(ANSWER_LIMIT, settled).await {
        Err(_) => return DrainEnd::Silent,
        Ok(Ok(status)) if status.bound => {}
        Ok(_) => return DrainEnd::Gone,
    }
    nothing_in_flight(client).await
}

/// Whether requests may come through this registry's proxy that it cannot count.
pub(super) fn cannot_count(status: &Status) -> bool {
    status.bound && !status.capabilities.contains("drain") && status.shown != Visibility::Absent
}

/// Waits within `limit` until nothing is in flight, as the registry counts it, or where it cannot, until nobody is
/// connected to `ports`. The session goes on. Call it once new requests go elsewhere.
///
/// Dropping it ends the waiting; the drain that counts the requests is cancelled all the same.
pub(crate) async fn finish_in_flight(client: &Client, ports: &[u16], limit: Duration) {
    let status = client.status();
    if cannot_count(&status) {
        return no_connections(ports, limit).await;
    }
    if limit.is_zero() || !status.bound {
        return;
    }
    let client = client.clone();
    // This task outlives the caller, because a drain that was begun must be cancelled.
    let counted = tokio::spawn(async move {
        // The registry counts what is in flight only during a drain.
        if let Ok(Ok(())) = timeout(ANSWER_LIMIT, client.drain_start(Duration::ZERO)).await
            && timeout(limit, nothing_in_flight(&client)).await.is_err()
        {
            warn!("{}: requests are still in flight after {limit:?}; going on", status.registry);
        }
        while let Err(CallError::NoSession | CallError::TooMany) = client.drain_cancel().await {
            sleep(ANSWER_LIMIT).await;
        }
    });
    // The task neither panics nor is it cancelled.
    drop(counted.await);
}

/// Asks until nothing is in flight.
async fn nothing_in_flight(client: &Client) -> DrainEnd {
    loop {
        match timeout(ANSWER_LIMIT, client.drain_status()).await {
            Err(_) => return DrainEnd::Silent,
            Ok(Err(_)) => return DrainEnd::Gone,
            Ok(Ok(drain)) if drain.in_flight.is_some_and(|count| count > 0) => {}
            Ok(Ok(drain)) if drain.in_flight.is_none() && drain.remaining_seconds > 0.0 => {}
            Ok(Ok(_)) => return DrainEnd::Over,
        }
        sleep(POLL).await;
    }
}
