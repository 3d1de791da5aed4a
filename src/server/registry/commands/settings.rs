//! The commands that stage settings: options, headers, checks, limits and breakers (PROTOCOL section 3).

use crate::server::registry::engine::Engine;
use crate::server::registry::model::{Cells, Now, SessionNo, Slot};
use crate::server::registry::session::{Session, slots};
use crate::server::routing::{MAX_FAILURES, MAX_REQUESTS, MAX_TRIALS};
use registry_client::protocol::{
    CircuitBreaker, HeaderName, HeaderValue, HealthCheck, OptionKey, RateLimit, Refusal, Reply, RouteId,
    RouteOption, RouteOrAll, Target,
};

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

/// OPTIONS_SET, and OPTIONS_REMOVE with no value.
pub(super) fn options(
    engine: &mut Engine,
    now: Now,
    no: SessionNo,
    target: &Target,
    key: OptionKey,
    value: Option<RouteOption>,
) -> Result<Reply, Refusal> {
    engine.staging(now, no, 0, |session| {
        for slot in slots(session, target)? {
            session.stage.set_option(slot, key, value);
        }
        Ok(Reply::OptionsOk)
    })
}

pub(super) fn health_set(
    engine: &mut Engine,
    now: Now,
    no: SessionNo,
    id: RouteId,
    check: HealthCheck,
) -> Result<Reply, Refusal> {
    engine.staging(now, no, 0, |session| {
        session.spec(id).ok_or(Refusal::RouteNotFound)?;
        let slot = Slot::Route(id);
        let options = [
            RouteOption::HealthCheckInterval(check.interval),
            RouteOption::HealthCheckTimeout(check.timeout),
        ];
        for option in options {
            session.stage.set_option(slot, option.key(), Some(option));
        }
        session.stage.set_health_path(slot, check.path);
        Ok(Reply::HealthOk)
    })
}

/// HEADERS_SET, and HEADERS_REMOVE with no value.
pub(crate) fn headers(
    engine: &mut Engine,
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
    let limits = engine.config().limits;
    let session = engine.session(no)?;
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
    engine.staging(now, no, bytes * slots.len(), |session| {
        for slot in slots {
            session.stage.set_header(slot, &name, value);
        }
        Ok(Reply::HeadersOk)
    })
}

/// RATELIMIT_SET.
pub(super) fn limit_set(
    engine: &mut Engine,
    now: Now,
    no: SessionNo,
    target: RouteOrAll,
    limit: RateLimit,
) -> Result<Reply, Refusal> {
    check_count("number of requests", limit.requests, MAX_REQUESTS)?;
    engine.staging(now, no, 0, |session| {
        session.stage.set_limit(slot(session, target)?, limit);
        Ok(Reply::RateLimitOk)
    })
}

/// CIRCUIT_BREAKER_SET.
pub(super) fn breaker_set(
    engine: &mut Engine,
    now: Now,
    no: SessionNo,
    target: RouteOrAll,
    breaker: CircuitBreaker,
) -> Result<Reply, Refusal> {
    check_count("threshold", breaker.threshold, MAX_FAILURES)?;
    check_count("number of half-open requests", breaker.half_open_requests, MAX_TRIALS)?;
    engine.staging(now, no, 0, |session| {
        session.stage.set_breaker(slot(session, target)?, breaker);
        Ok(Reply::CircuitOk)
    })
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
