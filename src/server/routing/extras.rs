//! What a member's own route says beyond its options. Most routes say nothing of it, which costs one look.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::HeaderMap;

use crate::protocol::{CircuitBreaker, HeaderName, HeaderValue};

use super::{RouteStats, Seen, SharedBreaker, Summary};

/// The seldom used settings of a member's own route, and what is known of the route (SEMANTICS section 1).
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// HEADERS_SET: what is put into every response of the member.
    pub headers: Option<Arc<ResponseHeaders>>,
    /// CIRCUIT_BREAKER_SET.
    pub breaker: Option<CircuitBreaker>,
    /// What the data plane found out about the route.
    pub route: Arc<RouteState>,
}

/// What the data plane finds out about a route, shared by all cores, by its members on every domain, and by
/// every snapshot of the table.
#[derive(Debug, Default)]
pub struct RouteState {
    /// Where its circuit breaker is at.
    pub breaker: SharedBreaker,
    /// Once there was a request.
    stats: OnceLock<Box<RouteStats>>,
}

impl RouteState {
    /// Counts a request that is over.
    pub fn record(&self, seen: &Seen) {
        self.stats.get_or_init(Box::default).record(seen);
    }

    /// What was counted so far.
    pub fn summary(&self) -> Summary {
        self.stats.get().map(|stats| stats.summary()).unwrap_or_default()
    }
}

impl Extras {
    /// Whether a request may go there as far as the breaker is concerned.
    pub fn may_pass(&self, now: Instant) -> bool {
        self.breaker.is_none_or(|rule| self.route.breaker.may_pass(rule, now))
    }
}

impl PartialEq for Extras {
    /// The route is the same only if it is that one.
    fn eq(&self, other: &Self) -> bool {
        let settings = |extras: &Extras| (extras.headers.clone(), extras.breaker);
        settings(self) == settings(other) && Arc::ptr_eq(&self.route, &other.route)
    }
}

/// Response headers in the form in which they are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHeaders(Vec<(http::HeaderName, http::HeaderValue)>);

impl ResponseHeaders {
    /// Converts them once, so that a response costs only their copies.
    pub fn new(headers: &BTreeMap<HeaderName, HeaderValue>) -> Self {
        let convert = |(name, value): (&HeaderName, &HeaderValue)| {
            // Tokens and visible text: what the one type takes, the other does too.
            Some((name.as_str().parse().ok()?, http::HeaderValue::from_str(value.as_str()).ok()?))
        };
        ResponseHeaders(headers.iter().filter_map(convert).collect())
    }

    /// Puts them in the place of all that have their names.
    pub fn put_into(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.insert(name.clone(), value.clone());
        }
    }
}
