//! Statistics of a route's requests, in bounded memory and without a lock (PROTOCOL section 3).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many buckets each doubling of the latency has. A bucket is at most a sixteenth of its latency wide, so its
/// middle is right to about 3 %.
const STEPS: usize = 16;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Latencies are capped at 2^32 microseconds, which are 71 minutes.
const DOUBLINGS: usize = 32 - STEP_BITS as usize;
const BUCKETS: usize = STEPS + DOUBLINGS * STEPS;
/// How many different statuses are counted. Further ones, which a backend must have invented, are not.
const STATUSES: usize = 32;
const COUNT_BITS: u32 = 48;

/// A request that is over.
#[derive(Debug, Clone, Copy, Default)]
pub struct FinishedRequest {
    /// The response's status and the time until it arrived; `None`: the client went away before that.
    pub answer: Option<(u16, Duration)>,
    /// Bytes of the response's body.
    pub sent: u64,
    /// Bytes of the request's body.
    pub received: u64,
    /// The response broke off.
    pub broken: bool,
}

/// One core's counters of one route. About 4 KiB.
#[derive(Debug)]
pub struct RouteStats {
    requests: AtomicU64,
    errors: AtomicU64,
    micros: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    latencies: [AtomicU64; BUCKETS],
    /// Each has a status in its upper 16 bits and the count below; zero: free.
    statuses: [AtomicU64; STATUSES],
}

/// The statistics of a route at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    /// Requests.
    pub requests: u64,
    /// Requests that were answered with 500 or above, or whose response broke off.
    pub errors: u64,
    /// The average time until the response's head.
    pub average: Duration,
    /// The 95th percentile of that time.
    pub p95: Duration,
    /// The 99th percentile of that time.
    pub p99: Duration,
    /// Bytes of response bodies.
    pub sent: u64,
    /// Bytes of request bodies.
    pub received: u64,
    /// The number of responses for each status.
    pub statuses: BTreeMap<u16, u64>,
}

impl Default for RouteStats {
    fn default() -> Self {
        RouteStats {
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            micros: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            latencies: [const { AtomicU64::new(0) }; BUCKETS],
            statuses: [const { AtomicU64::new(0) }; STATUSES],
        }
    }
}

impl RouteStats {
    /// Counts a request that is over.
    pub fn record(&self, seen: &FinishedRequest) {
        add(&self.requests, 1);
        add(&self.sent, seen.sent);
        add(&self.received, seen.received);
        add(&self.errors, u64::from(seen.broken || seen.answer.is_some_and(|(status, _)| status >= 500)));
        if let Some((status, latency)) = seen.answer {
            let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
            add(&self.micros, micros);
            add(&self.latencies[bucket(micros)], 1);
            self.count(status);
        }
    }

    fn count(&self, status: u16) {
        let code = u64::from(status) << COUNT_BITS;
        for slot in &self.statuses {
            let found = match slot.load(Ordering::Relaxed) {
                0 => {
                    slot.compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed).err().unwrap_or(code)
                }
                found => found,
            };
            if found >> COUNT_BITS == u64::from(status) {
                add(slot, 1);
                return;
            }
        }
    }

    /// Adds up the counters of all cores. Counters that change meanwhile may differ by one request.
    pub fn summary<'a>(all: impl Iterator<Item = &'a RouteStats>) -> Summary {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (mut sum, mut micros, mut counts) = (Summary::default(), 0, vec![0; BUCKETS]);
        for one in all {
            sum.requests += get(&one.requests);
            sum.errors += get(&one.errors);
            sum.sent += get(&one.sent);
            sum.received += get(&one.received);
            micros += get(&one.micros);
            counts.iter_mut().zip(&one.latencies).for_each(|(count, latency)| *count += get(latency));
            for slot in one.statuses.iter().map(get).filter(|slot| *slot != 0) {
                let count = sum.statuses.entry((slot >> COUNT_BITS) as u16).or_default();
                *count += slot & ((1 << COUNT_BITS) - 1);
            }
        }
        let answered: u64 = counts.iter().sum();
        let percentile = |percent: u64| {
            // The nearest-rank method: the smallest latency that so many requests did not exceed.
            let rank = (u128::from(answered) * u128::from(percent)).div_ceil(100) as u64;
            let mut below = 0;
            let reached = |count: &u64| {
                below += count;
                below >= rank
            };
            let at = counts.iter().position(reached).filter(|_| answered > 0);
            at.map_or(Duration::ZERO, |at| Duration::from_nanos(middle_nanos(at)))
        };
        sum.average = Duration::from_micros(micros.checked_div(answered).unwrap_or(0));
        (sum.p95, sum.p99) = (percentile(95), percentile(99));
        sum
    }
}

/// Skips zero, because most requests have no body and no error, and an atomic addition costs time.
fn add(counter: &AtomicU64, count: u64) {
    if count > 0 {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

fn bucket(micros: u64) -> usize {
    if micros < STEPS as u64 {
        return micros as usize;
    }
    let shift = u64::BITS - 1 - micros.leading_zeros() - STEP_BITS;
    let step = (micros >> shift) as usize - STEPS;
    STEPS + shift as usize * STEPS + step
}

fn middle_nanos(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64 * 1000;
    }
    let (shift, step) = ((bucket - STEPS) / STEPS, (bucket - STEPS) % STEPS);
    let (low, width) = (((STEPS + step) as u64) << shift, 1u64 << shift);
    low * 1000 + (width - 1) * 500
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(status: u16, latency: Duration) -> FinishedRequest {
        FinishedRequest { answer: Some((status, latency)), ..FinishedRequest::default() }
    }

    fn summary(stats: &RouteStats) -> Summary {
        RouteStats::summary(std::iter::once(stats))
    }

    /// The percentile by sorting all of them.
    fn exact(latencies: &mut [Duration], percent: usize) -> Duration {
        latencies.sort_unstable();
        latencies[(latencies.len() * percent).div_ceil(100) - 1]
    }

    #[test]
    fn percentiles_are_right_to_five_percent_whatever_the_latencies_are_like() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        // How many of 1000 are slow, and how slow: around both percentiles, and far from either.
        for (slow, fast_millis, slow_millis) in [
            (0, 5.0, 0.0),
            (9, 2.0, 900.0),
            (11, 2.0, 900.0),
            (49, 0.3, 30.0),
            (51, 0.3, 30.0),
            (500, 1.0, 7000.0),
        ] {
            let stats = RouteStats::default();
            let mut all = Vec::new();
            for number in 0..10_000 {
                let millis = if number % 1000 < slow { slow_millis } else { fast_millis };
                let latency = Duration::from_secs_f64(millis * (0.8 + 0.4 * random.f64()) / 1000.0);
                all.push(latency);
                stats.record(&seen(200, latency));
            }
            let summary = summary(&stats);
            for (percent, found) in [(95, summary.p95), (99, summary.p99)] {
                let expected = exact(&mut all, percent);
                let off = (found.as_secs_f64() / expected.as_secs_f64() - 1.0).abs();
                assert!(off < 0.05, "seed {seed}, {slow} slow: p{percent} is {expected:?}, found {found:?}");
            }
            let average = all.iter().sum::<Duration>() / 10_000;
            let off = (summary.average.as_secs_f64() / average.as_secs_f64() - 1.0).abs();
            assert!(off < 0.01, "seed {seed}: {average:?} {:?}", summary.average);
        }
    }

    #[test]
    fn every_latency_has_a_bucket_whose_middle_is_near() {
        for micros in (0..5_000).chain((0..32).map(|n| 1 << n)).chain([u64::from(u32::MAX)]) {
            let middle = middle_nanos(bucket(micros)) as f64 / 1000.0;
            assert!((middle - micros as f64).abs() <= micros as f64 * 0.032, "{micros}: {middle}");
        }
        assert_eq!(bucket(u64::from(u32::MAX)), BUCKETS - 1);
    }

    #[test]
    fn nothing_counted_is_zero_and_no_nonsense() {
        assert_eq!(summary(&RouteStats::default()), Summary::default());
        let stats = RouteStats::default();
        stats.record(&FinishedRequest { sent: 7, ..FinishedRequest::default() });
        let expected = Summary { requests: 1, sent: 7, ..Summary::default() };
        assert_eq!(summary(&stats), expected, "a client that went away before the answer");
        stats.record(&seen(200, Duration::MAX));
        assert!(summary(&stats).p99 > Duration::from_secs(4200));
    }

    #[test]
    fn errors_are_server_errors_and_broken_responses() {
        let stats = RouteStats::default();
        let quick = Duration::from_millis(1);
        stats.record(&seen(404, quick));
        stats.record(&seen(503, quick));
        stats.record(&FinishedRequest { broken: true, ..seen(200, quick) });
        stats.record(&FinishedRequest { broken: true, ..seen(500, quick) });
        let summary = summary(&stats);
        assert_eq!((summary.requests, summary.errors), (4, 3));
        assert_eq!(summary.statuses, BTreeMap::from([(200, 1), (404, 1), (500, 1), (503, 1)]));
    }

    #[test]
    fn invented_statuses_do_not_grow_it_and_cores_lose_nothing() {
        let stats = RouteStats::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (200..1000).for_each(|status| stats.record(&seen(status, Duration::ZERO))));
            }
        });
        let summary = summary(&stats);
        assert_eq!((summary.requests, summary.statuses.len()), (3200, STATUSES));
        assert_eq!(summary.statuses[&200], 4);
    }
}
