//! What the daemon counts for its metrics and health check.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use registry_client::Event;

/// Counters of the session with one registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RegistryCounters {
    /// How often a session was established after the first time.
    pub(crate) reconnects: u64,
    /// When a configuration was last applied.
    pub(crate) last_live: Option<SystemTime>,
}

#[derive(Default)]
pub(super) struct Counters {
    /// By the registry's name, for as long as there is a session with it.
    registries: Mutex<BTreeMap<String, RegistryCounters>>,
    /// Some registry has accepted a route.
    was_live: AtomicBool,
    /// How often the wrapped command was started.
    starts: AtomicU64,
    /// How often the node in etcd was lost.
    node_losses: AtomicU64,
}

impl Counters {
    /// Counts an event of the session with `registry`.
    pub(super) fn count(&self, registry: &str, event: &Event) {
        let change: fn(&mut RegistryCounters) = match event {
            Event::RouteAdded { .. } => return self.was_live.store(true, Ordering::Relaxed),
            Event::Reconnected { .. } => |counters| counters.reconnects += 1,
            Event::ConfigApplied { .. } => |counters| counters.last_live = Some(SystemTime::now()),
            _ => return,
        };
        change(self.registries().entry(registry.to_owned()).or_default());
    }

    /// Drops the counters of registries whose name is not wanted.
    pub(super) fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.registries().retain(|name, _| wanted(name));
    }

    pub(super) fn of_registry(&self, registry: &str) -> RegistryCounters {
        self.registries().get(registry).copied().unwrap_or_default()
    }

    pub(super) fn was_live(&self) -> bool {
        self.was_live.load(Ordering::Relaxed)
    }

    pub(super) fn count_start(&self) {
        self.starts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn restarts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed).saturating_sub(1)
    }

    #[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "only the node's task counts"))]
    pub(super) fn count_node_loss(&self) {
        self.node_losses.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn node_losses(&self) -> u64 {
        self.node_losses.load(Ordering::Relaxed)
    }

    fn registries(&self) -> MutexGuard<'_, BTreeMap<String, RegistryCounters>> {
        self.registries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
