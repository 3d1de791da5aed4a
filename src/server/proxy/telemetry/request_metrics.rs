//! Counts requests for `/metrics`. Each worker has counters of its own; a reader adds them up.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use registry_client::protocol::ServiceName;

/// How many services have counters of their own. Further ones are counted together, so that memory stays bounded.
const MAX_SERVICES: usize = 500;
/// Upper bounds of the histogram's buckets, in microseconds. The last bucket has none.
const BUCKETS: [u64; 11] =
    [5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000];

/// The counters of a proxy, shared by its workers and the readers.
#[derive(Debug, Default)]
pub struct RequestMetrics {
    workers: Mutex<Vec<Arc<Shard>>>,
}

/// Which requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceLabel {
    /// Those of one service.
    Service(ServiceName),
    /// Those of all services beyond the first 500.
    Others,
    /// Those that match no claim: invalid requests, unknown hosts, redirects to HTTPS.
    Unclaimed,
}

/// The counters of one label at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Requests by class of status, in the order of [`RequestCounts::CLASSES`].
    pub classes: [u64; 6],
    /// Requests by duration, in the order of [`RequestCounts::bounds`], not cumulative. The last bucket is for longer
    /// ones.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// The sum of all durations.
    pub total: Duration,
}

impl RequestCounts {
    /// The classes of status. `none`: the client went away before there was a response.
    pub const CLASSES: [&'static str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

    /// Upper bounds of all buckets but the last, in seconds.
    pub fn bounds() -> impl Iterator<Item = f64> {
        BUCKETS.iter().map(|micros| *micros as f64 / 1e6)
    }

    /// The number of requests.
    pub fn count(&self) -> u64 {
        self.classes.iter().sum()
    }
}

impl RequestMetrics {
    /// The requests counted since the start, all workers together.
    pub fn read(&self) -> BTreeMap<ServiceLabel, RequestCounts> {
        let mut sums: BTreeMap<ServiceLabel, RequestCounts> = BTreeMap::new();
        for shard in locked(&self.workers).iter() {
            for (label, counters) in locked(&shard.counters).iter() {
                counters.add_to(sums.entry(label.clone()).or_default());
            }
        }
        sums
    }

    /// Creates the counters of one more worker.
    pub(crate) fn add_worker(&self) -> WorkerMetrics {
        let shard: Arc<Shard> = Arc::default();
        locked(&self.workers).push(Arc::clone(&shard));
        let unclaimed = shard.counters(ServiceLabel::Unclaimed);
        WorkerMetrics { services: RefCell::default(), unclaimed, shard }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One worker's counters, as readers see them. The worker takes the lock for a service's first request only.
#[derive(Debug, Default)]
struct Shard {
    counters: Mutex<HashMap<ServiceLabel, Arc<RequestCounters>>>,
}

impl Shard {
    fn counters(&self, label: ServiceLabel) -> Arc<RequestCounters> {
        Arc::clone(locked(&self.counters).entry(label).or_default())
    }
}

/// One worker's counters, as the worker sees them.
pub(crate) struct WorkerMetrics {
    services: RefCell<HashMap<ServiceName, Arc<RequestCounters>, foldhash::fast::RandomState>>,
    pub(crate) unclaimed: Arc<RequestCounters>,
    shard: Arc<Shard>,
}

impl WorkerMetrics {
    pub(crate) fn service(&self, service: &ServiceName) -> Arc<RequestCounters> {
        if let Some(counters) = self.services.borrow().get(service) {
            return Arc::clone(counters);
        }
        let mut services = self.services.borrow_mut();
        if services.len() >= MAX_SERVICES {
            return self.shard.counters(ServiceLabel::Others);
        }
        let counters = self.shard.counters(ServiceLabel::Service(service.clone()));
        services.insert(service.clone(), Arc::clone(&counters));
        counters
    }
}

/// One worker's counters for one label. Only that worker writes them, without atomic read-modify-write.
#[derive(Debug, Default)]
pub(crate) struct RequestCounters {
    classes: [AtomicU64; 6],
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl RequestCounters {
    /// Counts a request that is over.
    pub(crate) fn record(&self, status: Option<u16>, took: Duration) {
        let class = status.map_or(0, |status| usize::from(status / 100).min(5));
        let micros = took.as_micros() as u64;
        let bucket = BUCKETS.partition_point(|end| *end < micros);
        add(&self.classes[class], 1);
        add(&self.buckets[bucket], 1);
        add(&self.micros, micros);
    }

    fn add_to(&self, sum: &mut RequestCounts) {
        let add = |to: &mut [u64], from: &[AtomicU64]| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from.load(Ordering::Relaxed));
        };
        add(&mut sum.classes, &self.classes);
        add(&mut sum.buckets, &self.buckets);
        sum.total += Duration::from_micros(self.micros.load(Ordering::Relaxed));
    }
}

/// Adds to a counter that only this thread writes.
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_all_workers_are_added_up() {
        let metrics = RequestMetrics::default();
        let (a, b) = (metrics.add_worker(), metrics.add_worker());
        let web: ServiceName = "web".parse().unwrap();
        a.service(&web).record(Some(200), Duration::from_millis(5));
        a.service(&web).record(Some(503), Duration::from_millis(6));
        b.service(&web).record(None, Duration::from_secs(60));
        b.unclaimed.record(Some(404), Duration::ZERO);
        let read = metrics.read();
        let web = &read[&ServiceLabel::Service(web)];
        assert_eq!((web.count(), web.classes), (3, [1, 0, 1, 0, 0, 1]));
        assert_eq!(
            (web.buckets[0], web.buckets[1], web.buckets[11]),
            (1, 1, 1),
            "an upper bound belongs to its bucket"
        );
        assert_eq!(web.total, Duration::from_millis(60_011));
        assert_eq!(read[&ServiceLabel::Unclaimed].count(), 1);
    }

    #[test]
    fn services_beyond_the_limit_are_counted_together() {
        let metrics = RequestMetrics::default();
        let worker = metrics.add_worker();
        for number in 0..MAX_SERVICES + 10 {
            worker.service(&format!("s{number}").parse().unwrap()).record(Some(200), Duration::ZERO);
        }
        let read = metrics.read();
        assert_eq!(read.len(), MAX_SERVICES + 2);
        assert_eq!(read[&ServiceLabel::Others].count(), 10);
    }
}
