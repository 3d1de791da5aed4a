//! What the requests of a proxy and of one worker share: configuration, routing table, connection pool, counters. It
//! must not know the clients' connections.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use crate::server::live_table::LiveTable;

use crate::server::proxy::buffered::{Buffered, Reserved};
use crate::server::proxy::certificates::Certificates;
use crate::server::proxy::config::ProxyConfig;
use crate::server::proxy::passwords::PasswordChecks;
use crate::server::proxy::telemetry::request_metrics::WorkerMetrics;
use crate::server::proxy::telemetry::shared_address::SharedAddresses;
use crate::server::proxy::upstream::dial::Dialer;
use crate::server::proxy::upstream::pool::Pool;
use crate::server::proxy::upstream::recovery::Recoveries;

/// How many responses a worker compresses at once; further ones are sent uncompressed.
pub(crate) const MAX_ENCODERS: usize = 256;
/// About how much memory an encoder takes.
const ENCODER: usize = 1024 * 1024;

/// What all workers of a proxy share.
pub(crate) struct ProxyContext {
    pub(crate) config: ProxyConfig,
    pub(crate) table: Arc<LiveTable>,
    /// Where clients of hosts with a certificate are redirected to.
    pub(crate) https: Option<HttpsTarget>,
    /// Members that cannot be connected to.
    pub(crate) recoveries: Recoveries,
    /// The checks of passwords, for routes with the option `auth`.
    pub(crate) passwords: PasswordChecks,
    /// What clients of HTTP/2 leave unread.
    pub(crate) buffered: Arc<Buffered>,
    /// Requests that wait for a member, whichever.
    pub(crate) waiting: AtomicUsize,
    /// Whether [`SharedAddresses`] of any worker has warned.
    pub(crate) shared_address_warned: Arc<AtomicBool>,
}

impl ProxyContext {
    pub(crate) fn new(config: ProxyConfig, table: Arc<LiveTable>, https: Option<HttpsTarget>) -> Self {
        ProxyContext {
            buffered: Arc::new(Buffered::new(config.max_buffered)),
            config,
            table,
            https,
            recoveries: Recoveries::default(),
            passwords: PasswordChecks::default(),
            waiting: AtomicUsize::new(0),
            shared_address_warned: Arc::default(),
        }
    }

    /// Counts one more request that waits for a member; `None`: so many wait that they take half of MAX_CONNECTIONS.
    /// The other half is for hosts whose members answer.
    pub(crate) fn enter_waiting(&self) -> Option<WaitingSlot<'_>> {
        let limit = (self.config.max_connections / 2).max(1);
        let more = |count| (count < limit).then_some(count + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(WaitingSlot(&self.waiting))
    }
}

/// A request that waits for a member, counted until this is dropped.
pub(crate) struct WaitingSlot<'a>(&'a AtomicUsize);

impl Drop for WaitingSlot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The TLS listener, as redirects need to know it.
pub(crate) struct HttpsTarget {
    pub(crate) certificates: Certificates,
    pub(crate) port: u16,
}

/// What the requests on one worker's thread share.
pub(crate) struct WorkerContext {
    pub(crate) proxy: Arc<ProxyContext>,
    pub(crate) pool: Pool,
    pub(crate) dialer: Dialer,
    pub(crate) metrics: Option<WorkerMetrics>,
    pub(crate) shared_addresses: SharedAddresses,
    encoders: EncoderSlots,
    pub(crate) clock: WorkerClock,
    /// The worker's number, from 0.
    pub(crate) number: usize,
    stopping: Cell<Stopping>,
}

/// Which client connections close after their current request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopping {
    No,
    /// Those that have had a request. The first request of the others may be on its way.
    Used,
    All,
}

impl WorkerContext {
    pub(crate) fn new(proxy: Arc<ProxyContext>, number: usize) -> Self {
        let config = &proxy.config;
        WorkerContext {
            pool: Pool::default(),
            dialer: Dialer::new(Arc::new(config.policy.clone()), config.trust.clone()),
            metrics: config.metrics.as_ref().map(|metrics| metrics.add_worker()),
            shared_addresses: SharedAddresses::new(Arc::clone(&proxy.shared_address_warned)),
            encoders: EncoderSlots::default(),
            clock: WorkerClock::new(),
            number,
            stopping: Cell::new(Stopping::No),
            proxy,
        }
    }

    /// Takes the right to compress a response; `None`: too many are compressed, or memory is short.
    pub(crate) fn take_encoder(&self) -> Option<EncoderSlot> {
        self.encoders.take(&self.proxy.buffered)
    }

    pub(crate) fn stopping(&self) -> Stopping {
        self.stopping.get()
    }

    /// The caller must wake the connections, so that they see the change.
    pub(crate) fn set_stopping(&self, stopping: Stopping) {
        self.stopping.set(stopping);
    }
}

/// Milliseconds since the worker's start.
pub(crate) struct WorkerClock {
    started: Instant,
    last_tick: Cell<u64>,
}

impl WorkerClock {
    fn new() -> Self {
        WorkerClock { started: Instant::now(), last_tick: Cell::new(0) }
    }

    pub(crate) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    pub(crate) fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_millis() as u64
    }

    /// The time of the last [`WorkerClock::tick`], at most about a second ago, without a look at the system's clock.
    pub(crate) fn last_tick(&self) -> u64 {
        self.last_tick.get()
    }

    pub(crate) fn tick(&self) -> u64 {
        let now = self.now();
        self.last_tick.set(now);
        now
    }
}

/// Limits how many responses a worker compresses at once.
#[derive(Default)]
struct EncoderSlots {
    used: Rc<Cell<usize>>,
}

/// The right to compress one response; given back when dropped.
pub(crate) struct EncoderSlot {
    used: Rc<Cell<usize>>,
    _memory: Reserved,
}

impl EncoderSlots {
    /// Takes a slot; `None`: all are used.
    fn take(&self, buffered: &Arc<Buffered>) -> Option<EncoderSlot> {
        let used = self.used.get();
        let memory = (used < MAX_ENCODERS).then(|| buffered.reserve(ENCODER)).flatten()?;
        self.used.set(used + 1);
        Some(EncoderSlot { used: Rc::clone(&self.used), _memory: memory })
    }
}

impl Drop for EncoderSlot {
    fn drop(&mut self) {
        self.used.set(self.used.get() - 1);
    }
}
