//! What the data plane finds out about a route.

use std::sync::OnceLock;

use super::breaker::SharedBreaker;
use super::route_stats::{FinishedRequest, RouteStats, Summary};

/// A route's circuit breaker and statistics, shared by all cores, by the route's members on every domain, and by all
/// snapshots of the table. Allocated at the first request.
#[derive(Debug, Default)]
pub struct RouteState(OnceLock<Box<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    breaker: SharedBreaker,
    /// Each core has counters of its own, because sharing a cache line would cost more than the counting.
    stats: [OnceLock<Box<RouteStats>>; CORES],
}

/// How many cores have counters of their own. Further cores share them.
const CORES: usize = 8;

impl RouteState {
    /// Counts a request that is over, in the counters of `core`.
    pub fn record(&self, seen: &FinishedRequest, core: usize) {
        self.0.get_or_init(Box::default).stats[core % CORES].get_or_init(Box::default).record(seen);
    }

    /// The circuit breaker.
    pub fn breaker(&self) -> &SharedBreaker {
        &self.0.get_or_init(Box::default).breaker
    }

    /// Closes the circuit breaker.
    pub fn reset_breaker(&self) {
        if let Some(inner) = self.0.get() {
            inner.breaker.reset();
        }
    }

    /// The statistics of all cores together.
    pub fn summary(&self) -> Summary {
        let counted = self.0.get().into_iter().flat_map(|inner| &inner.stats);
        RouteStats::summary(counted.filter_map(|core| core.get()).map(|stats| &**stats))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_counters_of_all_cores_are_added_up() {
        let route = RouteState::default();
        assert_eq!(route.summary(), Summary::default());
        for core in 0..3 * CORES {
            let latency = Duration::from_millis(if core % CORES == 0 { 50 } else { 1 });
            route.record(
                &FinishedRequest { answer: Some((200, latency)), sent: 2, received: 1, broken: core == 9 },
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
