//! What is counted for `/metrics`. Each worker counts for itself; whoever asks adds up.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::protocol::ServiceName;

/// Services that are counted apart; the requests of further ones are counted together.
const MAX_SERVICES: usize = 500;
/// Upper ends of the histogram's buckets, in microseconds; the last bucket has none.
const BUCKETS: [u64; 11] =
    [5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000];

/// The counters of a proxy. Cheap to share; empty at first.
#[derive(Debug, Default)]
pub struct Meters {
    workers: Mutex<Vec<Arc<Shard>>>,
}

/// Whose requests they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counted {
    /// A service's.
    Service(ServiceName),
    /// Those of all services beyond the first 500.
    Others,
    /// Nobody's: bad requests, hosts that nobody claims, redirects.
    Nobody,
}

/// What was counted, in the order of [`Requests::CLASSES`] and [`Requests::bounds`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    /// By class of status.
    pub classes: [u64; 6],
    /// How many took at most so long, each without those of the buckets before; the last is for the rest.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// How long all of them took together.
    pub total: Duration,
}

impl Requests {
    /// `none` are those whose client went away before there was an answer.
    pub const CLASSES: [&'static str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

    /// Upper ends of the buckets but the last, in seconds.
    pub fn bounds() -> impl Iterator<Item = f64> {
        BUCKETS.iter().map(|micros| *micros as f64 / 1e6)
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.classes.iter().sum()
    }
}

impl Meters {
    /// What has been counted since the start.
    pub fn read(&self) -> BTreeMap<Counted, Requests> {
        let mut sums: BTreeMap<Counted, Requests> = BTreeMap::new();
        for shard in locked(&self.workers).iter() {
            for (whose, meter) in locked(&shard.meters).iter() {
                meter.add_to(sums.entry(whose.clone()).or_default());
            }
        }
        sums
    }

    /// One more worker counts.
    pub(super) fn join(&self) -> WorkerMeters {
        let shard: Arc<Shard> = Arc::default();
        locked(&self.workers).push(Arc::clone(&shard));
        WorkerMeters { services: RefCell::default(), nobody: shard.meter(Counted::Nobody), shard }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One worker's counters. The lock is only taken for a service's first request, and by who asks.
#[derive(Debug, Default)]
struct Shard {
    meters: Mutex<HashMap<Counted, Arc<Meter>>>,
}

impl Shard {
    fn meter(&self, whose: Counted) -> Arc<Meter> {
        Arc::clone(locked(&self.meters).entry(whose).or_default())
    }
}

/// What a worker knows of its own.
pub(super) struct WorkerMeters {
    services: RefCell<HashMap<ServiceName, Arc<Meter>, foldhash::fast::RandomState>>,
    pub(super) nobody: Arc<Meter>,
    shard: Arc<Shard>,
}

impl WorkerMeters {
    pub(super) fn of(&self, service: &ServiceName) -> Arc<Meter> {
        if let Some(meter) = self.services.borrow().get(service) {
            return Arc::clone(meter);
        }
        let mut services = self.services.borrow_mut();
        if services.len() >= MAX_SERVICES {
            return self.shard.meter(Counted::Others);
        }
        let meter = self.shard.meter(Counted::Service(service.clone()));
        services.insert(service.clone(), Arc::clone(&meter));
        meter
    }
}

/// One worker's counters of one service. Only that worker writes, so they are never waited for.
#[derive(Debug, Default)]
pub(super) struct Meter {
    classes: [AtomicU64; 6],
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Meter {
    /// Counts a request that is over.
    pub(super) fn record(&self, status: Option<u16>, took: Duration) {
        let class = status.map_or(0, |status| usize::from(status / 100).min(5));
        let micros = took.as_micros() as u64;
        let bucket = BUCKETS.partition_point(|end| *end < micros);
        add(&self.classes[class], 1);
        add(&self.buckets[bucket], 1);
        add(&self.micros, micros);
    }

    fn add_to(&self, sum: &mut Requests) {
        let add = |to: &mut [u64], from: &[AtomicU64]| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from.load(Ordering::Relaxed));
        };
        add(&mut sum.classes, &self.classes);
        add(&mut sum.buckets, &self.buckets);
        sum.total += Duration::from_micros(self.micros.load(Ordering::Relaxed));
    }
}

/// For the only one who writes.
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_count_apart_and_are_added_up() {
        let meters = Meters::default();
        let (a, b) = (meters.join(), meters.join());
        let web: ServiceName = "web".parse().unwrap();
        a.of(&web).record(Some(200), Duration::from_millis(5));
        a.of(&web).record(Some(503), Duration::from_millis(6));
        b.of(&web).record(None, Duration::from_secs(60));
        b.nobody.record(Some(404), Duration::ZERO);
        let read = meters.read();
        let web = &read[&Counted::Service(web)];
        assert_eq!((web.count(), web.classes), (3, [1, 0, 1, 0, 0, 1]));
        assert_eq!(
            (web.buckets[0], web.buckets[1], web.buckets[11]),
            (1, 1, 1),
            "an end belongs to its bucket"
        );
        assert_eq!(web.total, Duration::from_millis(60_011));
        assert_eq!(read[&Counted::Nobody].count(), 1);
    }

    #[test]
    fn there_are_only_so_many_services() {
        let meters = Meters::default();
        let worker = meters.join();
        for number in 0..MAX_SERVICES + 10 {
            worker.of(&format!("s{number}").parse().unwrap()).record(Some(200), Duration::ZERO);
        }
        let read = meters.read();
        assert_eq!(read.len(), MAX_SERVICES + 2);
        assert_eq!(read[&Counted::Others].count(), 10);
    }
}
