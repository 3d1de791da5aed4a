//! Rate limits: how many requests a client address may send to a claim (SEMANTICS section 1).
//!
//! A bucket fills by one with each request and leaks evenly, a window's worth in a window. So a client may use a
//! window's requests at once, and gets them back one by one. What is kept is how full it is, in requests, and not
//! how full in parts of the limit: it means the same when the figure changes.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use registry_client::protocol::{Domain, PathPrefix, RateLimit, ServiceName};

/// The most requests that a window may allow; a bucket cannot count further.
pub const MOST_REQUESTS: u32 = 1_000_000;
/// How many pairs of claim and client address are remembered, in 1 MiB. Beyond that those forget who was there
/// whose bucket has rested for longest.
pub const MOST_BUCKETS: usize = 65_536;
/// A pair may be in so many places, so that few have to give way before all places are taken.
const WAYS: usize = 8;
/// The unit of time in buckets. 44 bits of it are more than four years.
const TICK: Duration = Duration::from_micros(8);
const TIME_BITS: u32 = 44;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// A claim's limit and its buckets, which it shares with all others.
#[derive(Debug, Clone)]
pub struct AddressLimit(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    limit: RateLimit,
    claim: u64,
    buckets: Arc<Buckets>,
}

/// The buckets of all claims and addresses: one table, of one size, without a lock.
#[derive(Debug)]
pub struct Buckets {
    /// The moment that times count from: the first that was asked about.
    epoch: OnceLock<Instant>,
    /// Its key is random, so that nobody can choose addresses that push others out.
    hasher: RandomState,
    entries: Box<[Entry]>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Whose bucket it is; zero: nobody's.
    key: AtomicU64,
    /// A [`Bucket`], packed.
    bucket: AtomicU64,
}

/// How full a bucket was, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Bucket {
    level: u32,
    /// Until when its leaking is counted, in ticks.
    since: u64,
}

impl AddressLimit {
    /// The limit of a claim. A claim finds its buckets again by what it is.
    pub fn new(
        limit: RateLimit,
        (domain, path, service): (&Domain, &PathPrefix, &ServiceName),
        buckets: Arc<Buckets>,
    ) -> Self {
        let claim = buckets.hasher.hash_one((domain, path, service));
        AddressLimit(Arc::new(Parts { limit, claim, buckets }))
    }

    /// The figure.
    pub fn figure(&self) -> RateLimit {
        self.0.limit
    }

    /// Counts a request.
    ///
    /// # Errors
    /// There were too many; after this time there may be one more. It does not count.
    pub fn take(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let Parts { limit, claim, buckets } = &*self.0;
        let key = buckets.hasher.hash_one((claim, network(address)));
        buckets.take(key | 1, *limit, now)
    }
}

impl Default for Buckets {
    fn default() -> Self {
        Buckets::with_room_for(MOST_BUCKETS)
    }
}

impl Buckets {
    fn with_room_for(count: usize) -> Self {
        let entries = (0..count.next_multiple_of(WAYS)).map(|_| Entry::default()).collect();
        Buckets { epoch: OnceLock::new(), hasher: RandomState::new(), entries }
    }

    fn take(&self, key: u64, limit: RateLimit, now: Instant) -> Result<(), Duration> {
        let now = ticks(now.saturating_duration_since(*self.epoch.get_or_init(|| now))) & TIME_MASK;
        // Only where several cores are at the same few places in the same moment is there none: let it pass.
        let Some(entry) = self.entry(key) else { return Ok(()) };
        let next = |bits| Bucket::unpack(bits).next(limit, now).ok().map(Bucket::pack);
        match entry.bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Ok(()),
            Err(bits) => match Bucket::unpack(bits).next(limit, now) {
                Ok(_) => Ok(()),
                Err(wait) => Err(TICK.saturating_mul(u32::try_from(wait).unwrap_or(u32::MAX))),
            },
        }
    }

    /// The entry of `key`. Where it has none it gets a free one, or the one that has rested for longest. A request
    /// that another core counts there just then counts for the wrong address, once.
    fn entry(&self, key: u64) -> Option<&Entry> {
        let sets = self.entries.len() / WAYS;
        let set = ((key >> 32) as usize % sets) * WAYS;
        let places = &self.entries[set..set + WAYS];
        for _ in 0..WAYS {
            if let Some(entry) = places.iter().find(|entry| entry.key.load(Ordering::Relaxed) == key) {
                return Some(entry);
            }
            let rested = |entry: &&Entry| {
                let used = entry.key.load(Ordering::Relaxed) != 0;
                (used, Bucket::unpack(entry.bucket.load(Ordering::Relaxed)).since)
            };
            let place = places.iter().min_by_key(rested)?;
            let before = place.key.load(Ordering::Relaxed);
            if place.key.compare_exchange(before, key, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                place.bucket.store(0, Ordering::Relaxed);
                return Some(place);
            }
        }
        None
    }
}

impl Bucket {
    /// The bucket after one more request at `now`, or in how many ticks there may be one.
    fn next(self, limit: RateLimit, now: u64) -> Result<Self, u64> {
        let (requests, window) = (limit.requests, ticks(limit.window.get()).max(1));
        // Times are compared within half the range; a core whose clock is a little behind is not ahead by years.
        let elapsed = now.wrapping_sub(self.since) & TIME_MASK;
        let elapsed = if elapsed > TIME_MASK / 2 { 0 } else { elapsed };
        let leaked = u128::from(elapsed) * u128::from(requests) / u128::from(window);
        if leaked >= u128::from(self.level) {
            return Ok(Bucket { level: 1, since: now });
        }
        let level = self.level - leaked as u32;
        let since = (self.since + time_to_leak(leaked as u32, requests, window)) & TIME_MASK;
        if level < requests {
            return Ok(Bucket { level: level + 1, since });
        }
        Err(time_to_leak(self.level - requests + 1, requests, window).saturating_sub(elapsed))
    }

    fn pack(self) -> u64 {
        (u64::from(self.level) << TIME_BITS) | self.since
    }

    fn unpack(bits: u64) -> Self {
        Bucket { level: (bits >> TIME_BITS) as u32, since: bits & TIME_MASK }
    }
}

/// Rounded up, so that nobody gets more than the figure says.
fn time_to_leak(count: u32, requests: u32, window: u64) -> u64 {
    let time = (u128::from(count) * u128::from(window)).div_ceil(u128::from(requests.max(1)));
    u64::try_from(time).unwrap_or(u64::MAX >> 1).min(TIME_MASK)
}

fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos() / TICK.as_nanos()).unwrap_or(TIME_MASK)
}

/// Who counts as one client: an IPv4 address, or the 64 bits of an IPv6 network, which every customer has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use registry_client::protocol::GoDuration;

    fn limit(requests: u32, seconds: u32) -> RateLimit {
        RateLimit { requests, window: GoDuration::from_secs(seconds) }
    }

    fn of(buckets: &Arc<Buckets>, limit: RateLimit, domain: &str) -> AddressLimit {
        let (domain, path, service) = (domain.parse().unwrap(), "/".parse().unwrap(), "web".parse().unwrap());
        AddressLimit::new(limit, (&domain, &path, &service), Arc::clone(buckets))
    }

    /// How many of `tries` requests pass.
    fn passed(limit: &AddressLimit, address: &str, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| limit.take(address.parse().unwrap(), now).is_ok()).count()
    }

    #[test]
    fn a_windows_requests_may_come_at_once_and_return_one_by_one() {
        let now = Instant::now();
        let limit = of(&Arc::default(), limit(10, 60), "a.de");
        assert_eq!(passed(&limit, "10.0.0.1", now, 20), 10);
        let wait = limit.take("10.0.0.1".parse().unwrap(), now).unwrap_err();
        assert!((wait.as_secs_f64() - 6.0).abs() < 0.001, "{wait:?}");
        assert_eq!(passed(&limit, "10.0.0.1", now + Duration::from_millis(5_990), 5), 0);
        assert_eq!(passed(&limit, "10.0.0.1", now + wait, 5), 1);
        assert_eq!(passed(&limit, "10.0.0.1", now + Duration::from_secs(30), 20), 4);
        assert_eq!(passed(&limit, "10.0.0.1", now + Duration::from_secs(600), 20), 10);
    }

    #[test]
    fn each_address_and_each_claim_has_a_bucket_of_its_own() {
        let now = Instant::now();
        let buckets = Arc::default();
        let (one, other) = (of(&buckets, limit(3, 60), "a.de"), of(&buckets, limit(3, 60), "b.de"));
        for address in ["10.0.0.1", "10.0.0.2", "2001:db8:0:1::1"] {
            assert_eq!(passed(&one, address, now, 5), 3, "{address}");
        }
        assert_eq!(passed(&one, "2001:db8:0:1:ffff::7", now, 5), 0, "of the same network");
        assert_eq!(passed(&one, "::ffff:10.0.0.2", now, 5), 0, "the same address");
        assert_eq!(passed(&other, "10.0.0.1", now, 5), 3);
    }

    #[test]
    fn a_bucket_outlives_a_change_of_the_figure() {
        let now = Instant::now();
        let buckets = Arc::default();
        assert_eq!(passed(&of(&buckets, limit(5, 3600), "a.de"), "10.0.0.1", now, 9), 5);
        assert_eq!(passed(&of(&buckets, limit(7, 3600), "a.de"), "10.0.0.1", now, 9), 2);
        let lower = of(&buckets, limit(2, 60), "a.de");
        assert_eq!(passed(&lower, "10.0.0.1", now, 9), 0);
        let wait = lower.take("10.0.0.1".parse().unwrap(), now).unwrap_err();
        assert_eq!(wait.as_secs(), 180, "seven are in it, of which six have to leak at one in 30 s");
    }

    #[test]
    fn over_a_long_time_a_client_that_never_stops_gets_the_figure() {
        for (requests, millis) in [(1000, 1), (7, 3), (100, 33)] {
            let now = Instant::now();
            let limit = of(&Arc::default(), limit(requests, 1), "a.de");
            assert_eq!(passed(&limit, "10.0.0.1", now, 5000), requests as usize);
            let steps = 10_000 / millis;
            let more: usize = (1..=steps)
                .map(|n| passed(&limit, "10.0.0.1", now + Duration::from_millis(n * millis), 50))
                .sum();
            let wanted = requests as usize * 10;
            assert!((wanted * 98 / 100..=wanted).contains(&more), "{requests}/s: {more} in 10 s");
        }
    }

    #[test]
    fn the_table_is_bounded_and_forgets_whoever_has_rested_for_longest() {
        let now = Instant::now();
        let buckets = Arc::new(Buckets::with_room_for(WAYS));
        let limit = of(&buckets, limit(1, 3600), "a.de");
        for host in 1..=100u64 {
            assert_eq!(passed(&limit, &format!("10.0.0.{host}"), now + Duration::from_secs(host), 2), 1);
        }
        let after = now + Duration::from_secs(200);
        assert_eq!(passed(&limit, "10.0.0.100", after, 1), 0, "is remembered");
        assert_eq!(passed(&limit, "10.0.0.1", after, 1), 1, "is forgotten");
        assert_eq!(buckets.entries.len(), WAYS);
    }

    #[test]
    fn cores_that_count_at_once_let_no_request_too_many_through() {
        let now = Instant::now();
        let limit = of(&Arc::default(), limit(1000, 3600), "a.de");
        assert_eq!(passed(&limit, "10.0.0.1", now, 1), 1);
        let count = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| passed(&limit, "10.0.0.1", now, 1000))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(count, 999);
    }

    #[test]
    fn the_packed_form_keeps_everything() {
        let bucket = Bucket { level: MOST_REQUESTS, since: TIME_MASK };
        assert_eq!(Bucket::unpack(bucket.pack()), bucket);
        assert_eq!(Bucket::default().pack(), 0);
    }
}
