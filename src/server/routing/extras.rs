//! What a member's own route says beyond its options. Most routes say nothing of it, which costs one look.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use http::HeaderMap;

use registry_client::protocol::{CircuitBreaker, HeaderName, HeaderValue};

use super::{Maintenance, RouteStats, Seen, SharedBreaker, Summary};

/// The seldom used settings of a member's own route (SEMANTICS section 1). `None`: nothing.
#[derive(Debug, Clone, Default)]
pub struct Extras(Option<Arc<Said>>);

/// What a route says beyond its options.
#[derive(Debug, Default)]
pub struct Said {
    /// HEADERS_SET: what is put into every response of the member.
    pub headers: Option<ResponseHeaders>,
    /// CIRCUIT_BREAKER_SET.
    pub breaker: Option<CircuitBreaker>,
    /// MAINT_ENTER: no requests go there.
    pub maintenance: Option<Arc<Maintenance>>,
}

/// What the data plane finds out about a route, shared by all cores, by its members on every domain, and by
/// every snapshot of the table.
#[derive(Debug, Default)]
pub struct RouteState(OnceLock<Box<Known>>);

/// Once there was a request.
#[derive(Debug, Default)]
struct Known {
    breaker: SharedBreaker,
    /// Each core counts for itself, because two that write to one place take turns, which costs more than the counting.
    stats: [OnceLock<Box<RouteStats>>; CORES],
}

/// So many cores count for themselves; further ones share their places.
const CORES: usize = 8;

impl RouteState {
    /// Counts a request that is over, on this core.
    pub fn record(&self, seen: &Seen, core: usize) {
        self.0.get_or_init(Box::default).stats[core % CORES].get_or_init(Box::default).record(seen);
    }

    /// Where its circuit breaker is at.
    pub fn breaker(&self) -> &SharedBreaker {
        &self.0.get_or_init(Box::default).breaker
    }

    /// Closes its circuit breaker, if it was ever asked.
    pub fn reset_breaker(&self) {
        if let Some(known) = self.0.get() {
            known.breaker.reset();
        }
    }

    /// What was counted so far, by all cores.
    pub fn summary(&self) -> Summary {
        let counted = self.0.get().into_iter().flat_map(|known| &known.stats);
        RouteStats::summary(counted.filter_map(|core| core.get()).map(|stats| &**stats))
    }
}

impl From<Said> for Extras {
    fn from(said: Said) -> Self {
        let is_nothing = said.headers.is_none() && said.breaker.is_none() && said.maintenance.is_none();
        Extras((!is_nothing).then(|| Arc::new(said)))
    }
}

impl Extras {
    /// What is put into every response of the member.
    pub fn headers(&self) -> Option<&ResponseHeaders> {
        self.0.as_ref()?.headers.as_ref()
    }

    /// The rule of its circuit breaker, if it has one.
    pub fn breaker(&self) -> Option<CircuitBreaker> {
        self.0.as_ref()?.breaker
    }

    /// Whether no requests go there, and what people see.
    pub fn maintenance(&self) -> Option<&Maintenance> {
        self.0.as_ref()?.maintenance.as_deref()
    }
}

impl PartialEq for Extras {
    /// A maintenance is the same only if it is that one.
    fn eq(&self, other: &Self) -> bool {
        let page = |extras: &Extras| extras.maintenance().map(std::ptr::from_ref);
        self.headers() == other.headers() && self.breaker() == other.breaker() && page(self) == page(other)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn cores_count_for_themselves_and_are_added_up() {
        let route = RouteState::default();
        assert_eq!(route.summary(), Summary::default());
        for core in 0..3 * CORES {
            let latency = Duration::from_millis(if core % CORES == 0 { 50 } else { 1 });
            route.record(
                &Seen { answer: Some((200, latency)), sent: 2, received: 1, broken: core == 9 },
                core,
            );
        }
        let sum = route.summary();
        assert_eq!((sum.requests, sum.errors, sum.sent, sum.received), (24, 1, 48, 24));
        assert_eq!(sum.statuses, BTreeMap::from([(200, 24)]));
        assert!(sum.p95 > Duration::from_millis(45), "three of 24 took 50 ms: {:?}", sum.p95);
        assert_eq!(sum.average, Duration::from_micros((3 * 50_000 + 21 * 1_000) / 24));
    }
}
