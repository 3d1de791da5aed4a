//! Leaves a registry so that no request meets a process that has ended (SEMANTICS section 6).

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::shutdown::Shutdown;
use registry_client::{CallError, Client, Phase, Registry, Status, Visibility};

use super::requests_in_flight::{Since, until_none};

/// The pause between two questions how far the drain is.
const POLL: Duration = Duration::from_millis(50);
/// How long an unanswered command may delay the stop (SEMANTICS section 8).
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// How long CLIENT_SHUTDOWN may take at a registry that has already been silent for [`ANSWER_LIMIT`].
const SILENT_SHUTDOWN_LIMIT: Duration = Duration::from_millis(20);

/// How a question to the registry ended.
#[derive(Debug, PartialEq, Eq)]
enum DrainEnd {
    /// It is as it was asked for: the drain has begun, or nothing is in flight.
    Over,
    /// The session is gone, so nobody can be asked.
    Gone,
    /// The registry does not answer.
    Silent,
}

/// What is known of the requests after the registry was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// No new ones come, and those in flight have ended, or had as long as they may take.
    Drained,
    /// The registry sends no new ones since then. It could not tell what is in flight.
    Acknowledged(Instant),
    /// The registry has not answered: its proxy may still send requests.
    Unacknowledged,
}

impl Left {
    /// From when on no new requests come through any of the registries; `None`: none are in flight.
    pub(super) fn least_certain(all: impl IntoIterator<Item = Left>) -> Option<Since> {
        let mut last = None;
        for left in all {
            match left {
                Left::Drained => {}
                Left::Acknowledged(at) => last = last.max(Some(at)),
                Left::Unacknowledged => return Some(Since::Unknown),
            }
        }
        last.map(Since::Known)
    }
}

/// Drains within `limit` where the registry announces `drain`: once it acknowledges, no new requests come, and those
/// in flight end. Then sends CLIENT_SHUTDOWN, which has 500 ms of its own. A reference server is not drained, because
/// a drain is an outage there. A forced shutdown ends the drain.
///
/// Dropping it stops at once, without CLIENT_SHUTDOWN if that was not sent yet.
pub(super) async fn leave(client: Client, limit: Duration, shutdown: Shutdown) -> Left {
    let Status { bound, shown, capabilities, registry, phase, .. } = client.status();
    // While the first apply is not answered, its routes may be in force.
    if shown == Visibility::Absent && phase != Phase::Syncing {
        client.shutdown().await;
        return Left::Drained;
    }
    if bound && capabilities.contains("drain") && !limit.is_zero() {
        let drained = tokio::select! {
            drained = drain(&client, &registry, limit) => drained,
            _ = shutdown.forced() => DrainEnd::Gone,
        };
        if drained == DrainEnd::Silent {
            warn!("{registry}: no answer within {ANSWER_LIMIT:?}; leaving without one");
            // Do not insist on an answer to the shutdown from a registry that does not answer.
            drop(timeout(SILENT_SHUTDOWN_LIMIT, client.shutdown()).await);
            return if client.status().left {
                Left::Acknowledged(Instant::now())
            } else {
                Left::Unacknowledged
            };
        }
        if drained == DrainEnd::Over {
            client.shutdown().await;
            return Left::Drained;
        }
    }
    client.shutdown().await;
    if client.status().left { Left::Acknowledged(Instant::now()) } else { Left::Unacknowledged }
}

/// `Over` once the registry has acknowledged the drain, and nothing is in flight or `limit` has passed.
async fn drain(client: &Client, registry: &Registry, limit: Duration) -> DrainEnd {
    let begun = Instant::now();
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
    match timeout(limit.saturating_sub(begun.elapsed()), nothing_in_flight(client)).await {
        Ok(DrainEnd::Over) => info!("{registry}: drained, nothing is in flight"),
        Ok(end) => return end,
        Err(_) => warn!("{registry}: requests are still in flight after {limit:?}; leaving"),
    }
    DrainEnd::Over
}

/// Whether requests may come through this registry's proxy that it cannot count.
fn cannot_count(status: &Status) -> bool {
    status.bound && !status.capabilities.contains("drain") && status.shown != Visibility::Absent
}

/// Waits within `limit` until nothing is in flight, as the registry counts it, or where it cannot, as the kernel's
/// state of the connections to `ports` shows it. The session goes on. Call it once new requests go elsewhere.
///
/// Dropping it ends the waiting; the drain that counts the requests is cancelled all the same.
pub(crate) async fn finish_in_flight(client: &Client, ports: &[u16], limit: Duration) {
    let status = client.status();
    if cannot_count(&status) {
        return until_none(ports, Since::Known(Instant::now()), limit).await;
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
