//! STATS_GET, CIRCUIT_BREAKER_STATUS and CIRCUIT_BREAKER_RESET: what the proxy has counted and learnt about routes
//! (PROTOCOL section 3).

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry_client::protocol::report::{CircuitStatus, Stats};
use registry_client::protocol::{Refusal, Reply, RouteId, RouteOrAll};

use crate::server::registry::engine::Engine;
use crate::server::registry::model::breaker as settings_breaker;
use crate::server::registry::model::{Now, SessionNo};
use crate::server::registry::session::Session;
use crate::server::routing::RouteState;

use super::limited_reply::{bounded, rfc3339, room, take};

/// STATS_GET of one route, or of all active ones.
pub(super) fn stats(engine: &Engine, no: SessionNo, which: RouteOrAll) -> Result<Reply, Refusal> {
    let session = engine.session(no)?;
    bounded(match which {
        RouteOrAll::All => {
            let all = session.applied.iter().map(|(id, applied)| entry(*id, Some(&applied.state)));
            Reply::StatsAll(all.collect())
        }
        RouteOrAll::Route(id) if session.applied.contains_key(&id) || session.spec(id).is_some() => {
            Reply::Stats(Box::new(entry(id, session.applied.get(&id).map(|applied| &applied.state))))
        }
        RouteOrAll::Route(_) => return Err(Refusal::RouteNotFound),
    })
}

/// STATS_GET of as many routes behind `after` as a line holds.
pub(super) fn stats_page(engine: &Engine, no: SessionNo, after: RouteId) -> Result<Reply, Refusal> {
    let session = engine.session(no)?;
    let behind = session.applied.range((Bound::Excluded(after), Bound::Unbounded));
    let entries = behind.map(|(id, applied)| entry(*id, Some(&applied.state)));
    take(entries, room(&Reply::StatsAll(Vec::new())), true).map(Reply::StatsAll)
}

/// CIRCUIT_BREAKER_STATUS. An active route without a breaker has a closed one, as at the reference server.
pub(super) fn breaker_status(
    engine: &Engine,
    now: Now,
    no: SessionNo,
    id: RouteId,
) -> Result<Reply, Refusal> {
    let session = engine.session(no)?;
    // A route without a breaker has one that never opens.
    let applied = session.applied.get(&id).ok_or_else(|| not_in_force(session, id))?;
    let status = applied.state.breaker().status(now.mono);
    let ago = |at: Instant| now.wall - now.mono.saturating_duration_since(at);
    let ahead = |at: Instant| now.wall + at.saturating_duration_since(now.mono);
    Ok(Reply::CircuitStatus(CircuitStatus {
        state: status.state,
        failures: status.failures.into(),
        successes: status.successes.into(),
        last_failure: status.last_failure.map(ago).map(rfc3339).unwrap_or_default(),
        next_attempt: status.next_attempt.map(ahead).map(rfc3339).unwrap_or_default(),
        healthy: engine.membership().is_healthy(&session.members, id),
        in_maintenance: session.maintenance.of(id).is_some(),
        draining: session.drain.is_some(),
    }))
}

/// CIRCUIT_BREAKER_RESET. It is in force at once, because it is no setting.
pub(super) fn breaker_reset(engine: &Engine, no: SessionNo, id: RouteId) -> Result<Reply, Refusal> {
    let session = engine.session(no)?;
    breaker(session, id)?.reset_breaker();
    Ok(Reply::CircuitOk)
}

/// STATS_GET's body for a route.
fn entry(route_id: RouteId, state: Option<&Arc<RouteState>>) -> Stats {
    let counted = state.map(|state| state.summary()).unwrap_or_default();
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    Stats {
        route_id,
        requests: counted.requests,
        errors: counted.errors,
        avg_latency_ms: millis(counted.average),
        p95_latency_ms: millis(counted.p95),
        p99_latency_ms: millis(counted.p99),
        bytes_sent: counted.sent,
        bytes_received: counted.received,
        status_codes: counted
            .statuses
            .iter()
            .map(|(code, count)| (code.to_string(), (*count).into()))
            .collect(),
    }
}

/// A route that is only staged has no breaker yet.
fn not_in_force(session: &Session, id: RouteId) -> Refusal {
    session.spec(id).map_or(Refusal::RouteNotFound, |_| Refusal::CircuitBreakerNotFound)
}

/// The state of a route that has a breaker in force.
fn breaker(session: &Session, id: RouteId) -> Result<&RouteState, Refusal> {
    let applied = session.applied.get(&id).ok_or_else(|| not_in_force(session, id))?;
    settings_breaker(&applied.route.settings, &session.defaults).ok_or(Refusal::CircuitBreakerNotFound)?;
    Ok(&applied.state)
}
