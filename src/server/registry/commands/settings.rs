//! The commands that stage settings: options, headers, checks, limits and breakers (PROTOCOL section 3).

use registry_client::protocol::{
    CircuitBreaker, HeaderName, HeaderValue, HealthCheck, OptionKey, RateLimit, Refusal, Reply, RouteId,
    RouteOption, RouteOrAll, Target,
};

use crate::server::registry::engine::Engine;
use crate::server::registry::model::{Now, RouteSettings, SessionNo};
use crate::server::registry::session::{Session, targets};
use crate::server::routing::{MAX_FAILURES, MAX_REQUESTS, MAX_TRIALS};

/// Headers that belong to a connection or frame a message. A response with false ones breaks the connection, or smuggles
/// a second response into it.
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
    let targets = targets(engine.session(no)?, target)?;
    let bytes = value.as_ref().map_or(0, RouteOption::text_bytes);
    engine.staging(now, no, bytes * targets.len(), |session| {
        for known_target in targets {
            session.stage.set_option(known_target, key, value.clone());
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
        let known_target = RouteOrAll::Route(id);
        let options = [
            RouteOption::HealthCheckInterval(check.interval),
            RouteOption::HealthCheckTimeout(check.timeout),
        ];
        for option in options {
            session.stage.set_option(known_target, option.key(), Some(option));
        }
        session.stage.set_health_path(known_target, check.path);
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
    let targets = targets(session, target)?;
    let bytes = name.as_str().len() + value.map_or(0, |value| value.as_str().len());
    if value.is_some() {
        for known_target in &targets {
            let mut headers = settings(session, *known_target).headers;
            headers.remove(&name);
            let held: usize = headers.iter().map(|(n, v)| n.as_str().len() + v.as_str().len()).sum();
            if headers.len() >= limits.headers || held + bytes > limits.header_bytes {
                return Err(Refusal::Other("too many headers".to_owned()));
            }
        }
    }
    engine.staging(now, no, bytes * targets.len(), |session| {
        for known_target in targets {
            session.stage.set_header(known_target, &name, value);
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
        session.stage.set_limit(known_target(session, target)?, limit);
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
        session.stage.set_breaker(known_target(session, target)?, breaker);
        Ok(Reply::CircuitOk)
    })
}

fn check_count(what: &str, count: u32, most: u32) -> Result<(), Refusal> {
    if count > most {
        return Err(Refusal::Other(format!("{what} {count} is too large: at most {most}")));
    }
    Ok(())
}

/// The target of RATELIMIT_SET and CIRCUIT_BREAKER_SET, if there is such a route.
fn known_target(session: &Session, target: RouteOrAll) -> Result<RouteOrAll, Refusal> {
    match target {
        RouteOrAll::All => Ok(RouteOrAll::All),
        RouteOrAll::Route(id) => {
            session.spec(id).map(|_| RouteOrAll::Route(id)).ok_or(Refusal::RouteNotFound)
        }
    }
}

/// The settings of a route, or the defaults, as an apply would leave them.
fn settings(session: &Session, known_target: RouteOrAll) -> RouteSettings {
    let none = RouteSettings::default();
    let before = match known_target {
        RouteOrAll::All => &*session.defaults,
        RouteOrAll::Route(id) => session.applied.get(&id).map_or(&none, |applied| &*applied.route.settings),
    };
    session.stage.settings(known_target, before)
}
