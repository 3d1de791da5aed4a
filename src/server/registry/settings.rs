//! The commands that set how a route's requests are treated (PROTOCOL section 3): headers, limits, breakers.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::protocol::report::{CircuitStatus, Stats};
use crate::protocol::{
    CircuitBreaker, HeaderName, HeaderValue, RateLimit, Refusal, Reply, RouteId, RouteOrAll, Target,
};
use crate::server::routing::{MAX_FAILURES, MAX_REQUESTS, MAX_TRIALS, RouteState};

use super::Registry;
use super::command::slots;
use super::io::{Now, SessionNo};
use super::report::{bounded, rfc3339, room, take};
use super::route::{self, Cells};
use super::session::Session;
use super::stage::Slot;

/// Headers that belong to a connection or frame a message: a response that lies about them breaks the
/// connection, or smuggles a second response into it.
const NOT_ALLOWED: [&str; 11] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

impl Registry {
    /// HEADERS_SET, and HEADERS_REMOVE with no value.
    pub(super) fn headers(
        &mut self,
        now: Now,
        no: SessionNo,
        target: &Target,
        name: &HeaderName,
        value: Option<&HeaderValue>,
    ) -> Result<Reply, Refusal> {
        let Ok(name) = name.as_str().to_ascii_lowercase().parse::<HeaderName>() else {
            return Err(Refusal::InvalidFormat);
        };
        if value.is_some() && NOT_ALLOWED.contains(&name.as_str()) {
            return Err(Refusal::Other(format!("header not allowed: {name}")));
        }
        let limits = self.config.limits;
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        let slots = slots(session, target)?;
        let bytes = name.as_str().len() + value.map_or(0, |value| value.as_str().len());
        if value.is_some() {
            for slot in &slots {
                let mut headers = cells(session, *slot).headers;
                headers.remove(&name);
                let held: usize = headers.iter().map(|(n, v)| n.as_str().len() + v.as_str().len()).sum();
                if headers.len() >= limits.headers || held + bytes > limits.header_bytes {
                    return Err(Refusal::Other("too many headers".to_owned()));
                }
            }
        }
        self.staging(now, no, bytes * slots.len(), |session| {
            for slot in slots {
                session.stage.set_header(slot, &name, value);
            }
            Ok(Reply::HeadersOk)
        })
    }

    /// RATELIMIT_SET.
    pub(super) fn limit_set(
        &mut self,
        now: Now,
        no: SessionNo,
        target: RouteOrAll,
        limit: RateLimit,
    ) -> Result<Reply, Refusal> {
        check_count("number of requests", limit.requests, MAX_REQUESTS)?;
        self.staging(now, no, 0, |session| {
            session.stage.set_limit(slot(session, target)?, limit);
            Ok(Reply::RateLimitOk)
        })
    }

    /// CIRCUIT_BREAKER_SET.
    pub(super) fn breaker_set(
        &mut self,
        now: Now,
        no: SessionNo,
        target: RouteOrAll,
        breaker: CircuitBreaker,
    ) -> Result<Reply, Refusal> {
        check_count("threshold", breaker.threshold, MAX_FAILURES)?;
        check_count("number of half-open requests", breaker.half_open_requests, MAX_TRIALS)?;
        self.staging(now, no, 0, |session| {
            session.stage.set_breaker(slot(session, target)?, breaker);
            Ok(Reply::CircuitOk)
        })
    }

    /// STATS_GET: of one route, or of all that are active.
    pub(super) fn stats(&self, no: SessionNo, which: RouteOrAll) -> Result<Reply, Refusal> {
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        bounded(match which {
            RouteOrAll::All => {
                let all = session.applied.iter().map(|(id, applied)| stats(*id, Some(&applied.state)));
                Reply::StatsAll(all.collect())
            }
            RouteOrAll::Route(id) if session.applied.contains_key(&id) || session.spec(id).is_some() => {
                Reply::Stats(Box::new(stats(id, session.applied.get(&id).map(|applied| &applied.state))))
            }
            RouteOrAll::Route(_) => return Err(Refusal::RouteNotFound),
        })
    }

    /// STATS_GET: of the routes behind this one, as many as a line holds.
    pub(super) fn stats_page(&self, no: SessionNo, after: RouteId) -> Result<Reply, Refusal> {
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        let behind = session.applied.range((Bound::Excluded(after), Bound::Unbounded));
        let entries = behind.map(|(id, applied)| stats(*id, Some(&applied.state)));
        take(entries, room(&Reply::StatsAll(Vec::new())), true).map(Reply::StatsAll)
    }

    /// CIRCUIT_BREAKER_STATUS.
    pub(super) fn breaker_status(&self, now: Now, no: SessionNo, id: RouteId) -> Result<Reply, Refusal> {
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        let status = breaker(session, id)?.breaker().status(now.mono);
        let ago = |at: Instant| now.wall - now.mono.saturating_duration_since(at);
        let ahead = |at: Instant| now.wall + at.saturating_duration_since(now.mono);
        Ok(Reply::CircuitStatus(CircuitStatus {
            state: status.state,
            failures: status.failures.into(),
            successes: status.successes.into(),
            last_failure: status.last_failure.map(ago).map(rfc3339).unwrap_or_default(),
            next_attempt: status.next_attempt.map(ahead).map(rfc3339).unwrap_or_default(),
            healthy: self.pools.is_served(&session.members, id),
            in_maintenance: session.maintained.of(id).is_some(),
            draining: session.drain.is_some(),
        }))
    }

    /// CIRCUIT_BREAKER_RESET: at once, because it is no setting.
    pub(super) fn breaker_reset(&self, no: SessionNo, id: RouteId) -> Result<Reply, Refusal> {
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        breaker(session, id)?.reset_breaker();
        Ok(Reply::CircuitOk)
    }
}

/// STATS_GET's body for a route.
fn stats(route_id: RouteId, state: Option<&Arc<RouteState>>) -> Stats {
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

/// What is known of a route that has a breaker in force.
fn breaker(session: &Session, id: RouteId) -> Result<&RouteState, Refusal> {
    let Some(applied) = session.applied.get(&id) else {
        return Err(session.spec(id).map_or(Refusal::RouteNotFound, |_| Refusal::CircuitBreakerNotFound));
    };
    route::breaker(&applied.route.cells, &session.defaults).ok_or(Refusal::CircuitBreakerNotFound)?;
    Ok(&applied.state)
}

fn check_count(what: &str, count: u32, most: u32) -> Result<(), Refusal> {
    if count > most {
        return Err(Refusal::Other(format!("{what} {count} is too large: at most {most}")));
    }
    Ok(())
}

/// Where RATELIMIT_SET and CIRCUIT_BREAKER_SET write.
fn slot(session: &Session, target: RouteOrAll) -> Result<Slot, Refusal> {
    match target {
        RouteOrAll::All => Ok(Slot::All),
        RouteOrAll::Route(id) => session.spec(id).map(|_| Slot::Route(id)).ok_or(Refusal::RouteNotFound),
    }
}

/// A slot's settings as an apply would leave them.
fn cells(session: &Session, slot: Slot) -> Cells {
    let none = Cells::default();
    let before = match slot {
        Slot::All => &*session.defaults,
        Slot::Route(id) => session.applied.get(&id).map_or(&none, |applied| &*applied.route.cells),
    };
    session.stage.cells(slot, before)
}
