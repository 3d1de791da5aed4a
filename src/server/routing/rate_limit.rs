//! Rate limits: how many requests a client address may send to a claim (SEMANTICS section 1).
//!
//! Each pair of claim and address has a leaky bucket. A request fills it by one, and it leaks evenly, a window's
//! requests in a window. So a client may send a window's requests at once and gets them back one by one. The level is
//! stored as a number of requests, so that it stays right when the limit changes.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use registry_client::protocol::{Domain, PathPrefix, RateLimit, ServiceName};

/// The largest number of requests for each window: a bucket cannot count further.
pub const MAX_REQUESTS: u32 = 1_000_000;
/// How many pairs of claim and client address have a bucket, in 1 MiB. A further pair takes a bucket of those that have
/// been unused for longest.
pub const MAX_BUCKETS: usize = 65_536;
/// How many entries a pair may use, so that few pairs are evicted before the table is full.
const WAYS: usize = 8;
/// The unit of time in buckets. 44 bits of it last more than four years.
const TICK: Duration = Duration::from_micros(8);
const TIME_BITS: u32 = 44;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// A claim's rate limit for each client address. All claims share one table of buckets.
#[derive(Debug, Clone)]
pub struct AddressLimit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: RateLimit,
    claim: u64,
    buckets: Arc<RateBuckets>,
}

/// The buckets of all claims and addresses, in one lock-free table of fixed size.
#[derive(Debug)]
pub struct RateBuckets {
    /// The moment that times count from: that of the first request.
    epoch: OnceLock<Instant>,
    /// Its key is random, so that nobody can choose addresses that evict others.
    hasher: RandomState,
    entries: Box<[Entry]>,
}

#[derive(Debug, Default)]
struct Entry {
    /// The hash of claim and address; zero: the entry is free.
    key: AtomicU64,
    /// A [`Bucket`], packed.
    bucket: AtomicU64,
}

/// The level of a bucket at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Bucket {
    /// How many requests are in it.
    level: u32,
    /// The moment, in ticks.
    since: u64,
}

impl AddressLimit {
    /// The limit of the claim of `service` on `domain` and `path`. A later limit of the same claim has the same
    /// buckets.
    pub fn new(
        limit: RateLimit,
        (domain, path, service): (&Domain, &PathPrefix, &ServiceName),
        buckets: Arc<RateBuckets>,
    ) -> Self {
        let claim = buckets.hasher.hash_one((domain, path, service));
        AddressLimit(Arc::new(Inner { limit, claim, buckets }))
    }

    /// The limit that was set.
    pub fn figure(&self) -> RateLimit {
        self.0.limit
    }

    /// Counts a request.
    ///
    /// # Errors
    /// If the limit is reached: how long until the next request may pass. The refused one does not count.
    pub fn take(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let Inner { limit, claim, buckets } = &*self.0;
        let key = buckets.hasher.hash_one((claim, network(address)));
        buckets.take(key | 1, *limit, now)
    }
}

impl Default for RateBuckets {
    fn default() -> Self {
        RateBuckets::with_room_for(MAX_BUCKETS)
    }
}

impl RateBuckets {
    fn with_room_for(count: usize) -> Self {
        let entries = (0..count.next_multiple_of(WAYS)).map(|_| Entry::default()).collect();
        RateBuckets { epoch: OnceLock::new(), hasher: RandomState::new(), entries }
    }

    fn take(&self, key: u64, limit: RateLimit, now: Instant) -> Result<(), Duration> {
        let now = ticks(now.saturating_duration_since(*self.epoch.get_or_init(|| now))) & TIME_MASK;
        // `None` only if several cores contend for the same few entries: let the request pass.
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

    /// The entry of `key`. A new key gets a free entry, or the one that has been unused for longest. A request that
    /// another core counts at the same time in an entry that is taken over counts for the wrong address, once.
    fn entry(&self, key: u64) -> Option<&Entry> {
        let sets = self.entries.len() / WAYS;
        let set = ((key >> 32) as usize % sets) * WAYS;
        let entries = &self.entries[set..set + WAYS];
        for _ in 0..WAYS {
            if let Some(entry) = entries.iter().find(|entry| entry.key.load(Ordering::Relaxed) == key) {
                return Some(entry);
            }
            let last_used = |entry: &&Entry| {
                let used = entry.key.load(Ordering::Relaxed) != 0;
                (used, Bucket::unpack(entry.bucket.load(Ordering::Relaxed)).since)
            };
            let oldest = entries.iter().min_by_key(last_used)?;
            let before = oldest.key.load(Ordering::Relaxed);
            if oldest.key.compare_exchange(before, key, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                oldest.bucket.store(0, Ordering::Relaxed);
                return Some(oldest);
            }
        }
        None
    }
}

impl Bucket {
    /// The bucket after one more request at `now`. The error is the time in ticks until one may pass.
    fn next(self, limit: RateLimit, now: u64) -> Result<Self, u64> {
        let (requests, window) = (limit.requests, ticks(limit.window.get()).max(1));
        // A difference of more than half the range is a core whose clock is a little behind, not one years ahead.
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

/// The time in which `count` requests leak, in ticks. Rounded up, so that nobody gets more than the limit.
fn time_to_leak(count: u32, requests: u32, window: u64) -> u64 {
    let time = (u128::from(count) * u128::from(window)).div_ceil(u128::from(requests.max(1)));
    u64::try_from(time).unwrap_or(u64::MAX >> 1).min(TIME_MASK)
}

fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos() / TICK.as_nanos()).unwrap_or(TIME_MASK)
}

/// What counts as one client: an IPv4 address, or an IPv6 network of 64 bits, because a customer has all of its
/// addresses.
pub(crate) fn network(address: IpAddr) -> IpAddr {
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

    fn of(buckets: &Arc<RateBuckets>, limit: RateLimit, domain: &str) -> AddressLimit {
        let (domain, path, service) = (domain.parse().unwrap(), "/".parse().unwrap(), "web".parse().unwrap());
        AddressLimit::new(limit, (&domain, &path, &service), Arc::clone(buckets))
    }

    /// How many of `tries` requests pass.
    fn passed(limit: &AddressLimit, address: &str, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| limit.take(address.parse().unwrap(), now).is_ok()).count()
    }

    #[test]
    fn a_windows_requests_may_come_at_once_and_are_given_back_one_by_one() {
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
    fn a_bucket_keeps_its_level_when_the_limit_changes() {
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
    fn a_client_that_never_stops_gets_the_limit_on_average() {
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
    fn the_table_is_bounded_and_evicts_what_was_unused_for_longest() {
        let now = Instant::now();
        let buckets = Arc::new(RateBuckets::with_room_for(WAYS));
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
    fn concurrent_cores_do_not_exceed_the_limit() {
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
        let bucket = Bucket { level: MAX_REQUESTS, since: TIME_MASK };
        assert_eq!(Bucket::unpack(bucket.pack()), bucket);
        assert_eq!(Bucket::default().pack(), 0);
    }
}
