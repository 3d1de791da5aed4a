//! Leaving a registry without a request that meets a dying process (SEMANTICS section 6).

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::client::{CallError, Client, Status, Wanted};
use crate::shutdown::Shutdown;

use super::tcp_table::no_connections;

/// Between two questions how far the drain is.
const POLL: Duration = Duration::from_millis(50);
/// How long an unanswered command may delay the stop (SEMANTICS section 8).
const SILENCE: Duration = Duration::from_millis(500);
/// A registry that was silent for that long is told of the end and not waited for any more.
const FAREWELL: Duration = Duration::from_millis(20);

/// How a drain ended.
enum Drained {
    /// Nothing is in flight.
    Over,
    /// There is nobody to ask any more.
    Gone,
    /// The registry does not answer.
    Silent,
}

/// Drains where the registry announces `drain`: no new requests once that is acknowledged, then the end of
/// those in flight, both together within `limit`. Then CLIENT_SHUTDOWN, which has its own 500 ms. At a
/// reference server a drain is an outage, so that there is none. Whoever is in a hurry ends the drain.
///
/// Dropping it leaves out what is left to do.
pub(super) async fn leave(client: Client, limit: Duration, shutdown: Shutdown) {
    let status = client.status();
    let can_drain = status.bound && status.capabilities.contains("drain") && status.shown != Wanted::Absent;
    if can_drain && !limit.is_zero() {
        let registry = status.registry;
        let drained = tokio::select! {
            drained = timeout(limit, drained(&client)) => drained,
            _ = shutdown.forced() => Ok(Drained::Gone),
        };
        match drained {
            Ok(Drained::Over) => info!("{registry}: drained, nothing is in flight"),
            Ok(Drained::Gone) => {}
            Ok(Drained::Silent) => {
                warn!("{registry}: no answer within {SILENCE:?}; leaving without one");
                // Whether the end was noticed makes no difference any more.
                return drop(timeout(FAREWELL, client.shutdown()).await);
            }
            Err(_) => warn!("{registry}: requests are still in flight after {limit:?}; leaving"),
        }
    }
    client.shutdown().await;
}

async fn drained(client: &Client) -> Drained {
    if client.set_visibility(Wanted::Draining).is_err() {
        return Drained::Gone;
    }
    let mut status = client.watch();
    let settled = status.wait_for(|status| !status.bound || status.shown == Wanted::Draining);
    match timeout(SILENCE, settled).await {
        Err(_) => return Drained::Silent,
        Ok(Ok(status)) if status.bound => {}
        Ok(_) => return Drained::Gone,
    }
    nothing_in_flight(client).await
}

/// Whether requests go through this registry's proxy of which it cannot say when they are over.
pub(super) fn cannot_count(status: &Status) -> bool {
    status.bound && !status.capabilities.contains("drain") && status.shown != Wanted::Absent
}

/// Waits until nothing is in flight, within `limit`: as the registry tells it, or as the connections to `ports` do.
/// The session goes on. People are to see something else already.
///
/// Dropping it ends the waiting, and leaves no drain behind.
pub(crate) async fn finish_in_flight(client: &Client, ports: &[u16], limit: Duration) {
    let status = client.status();
    if cannot_count(&status) {
        return no_connections(ports, limit).await;
    }
    if limit.is_zero() || !status.bound {
        return;
    }
    let client = client.clone();
    // A task of its own: a drain that was begun must be cancelled, whoever waits for it.
    let counted = tokio::spawn(async move {
        // The registry counts what is in flight only for who is drained.
        if let Ok(Ok(())) = timeout(SILENCE, client.drain_start(Duration::ZERO)).await
            && timeout(limit, nothing_in_flight(&client)).await.is_err()
        {
            warn!("{}: requests are still in flight after {limit:?}; going on", status.registry);
        }
        while let Err(CallError::NoSession | CallError::TooMany) = client.drain_cancel().await {
            sleep(SILENCE).await;
        }
    });
    // It neither panics nor is it cancelled.
    drop(counted.await);
}

/// Asks until nothing is in flight.
async fn nothing_in_flight(client: &Client) -> Drained {
    loop {
        match timeout(SILENCE, client.drain_status()).await {
            Err(_) => return Drained::Silent,
            Ok(Err(_)) => return Drained::Gone,
            Ok(Ok(drain)) if drain.in_flight.is_some_and(|count| count > 0) => {}
            Ok(Ok(drain)) if drain.in_flight.is_none() && drain.remaining_seconds > 0.0 => {}
            Ok(Ok(_)) => return Drained::Over,
        }
        sleep(POLL).await;
    }
}
