//! The commands that set how a route's requests are treated (PROTOCOL section 3): headers, limits, breakers.

use crate::protocol::{HeaderName, HeaderValue, RateLimit, Refusal, Reply, RouteOrAll, Target};
use crate::server::routing::MOST_REQUESTS;

use super::Registry;
use super::command::slots;
use super::io::{Now, SessionNo};
use super::route::Cells;
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
        check_count("number of requests", limit.requests, MOST_REQUESTS)?;
        self.staging(now, no, 0, |session| {
            session.stage.set_limit(slot(session, target)?, limit);
            Ok(Reply::RateLimitOk)
        })
    }
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
        Slot::All => &session.defaults,
        Slot::Route(id) => session.applied.get(&id).map_or(&none, |route| &route.cells),
    };
    session.stage.cells(slot, before)
}
