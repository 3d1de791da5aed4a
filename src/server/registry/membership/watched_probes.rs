//! Which probes are asked, and on whose behalf.
//!
//! Members with the same probe share it, and so do maintenance requests that wait for a page or a backend to answer.

use std::collections::HashMap;
use std::sync::Arc;

use crate::server::registry::api::Effect;
use crate::server::registry::model::MemberSet;
use crate::server::routing::{MemberId, Probe};

/// Every probe that is being asked.
#[derive(Default)]
pub(super) struct Probes {
    /// The sets are ordered, so that a run can be repeated exactly.
    watched: HashMap<Arc<Probe>, Watched, foldhash::quality::RandomState>,
    /// The probes that maintenance requests wait for. Their ids come from the same counter as those of members.
    waiters: HashMap<MemberId, Arc<Probe>>,
}

struct Watched {
    /// The key once more, for further members to share.
    probe: Arc<Probe>,
    by: MemberSet,
}

impl Probes {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.watched.is_empty() && self.waiters.is_empty()
    }

    /// Asks a probe on behalf of `id`. Returns the probe, shared with all others that want it.
    pub(super) fn start(&mut self, id: MemberId, probe: Probe, effects: &mut Vec<Effect>) -> Arc<Probe> {
        if let Some(watched) = self.watched.get_mut(&probe) {
            watched.by.insert(id);
            return Arc::clone(&watched.probe);
        }
        effects.push(Effect::Watch(probe.clone()));
        let probe = Arc::new(probe);
        let watched = Watched { probe: Arc::clone(&probe), by: MemberSet::from_iter([id]) };
        self.watched.insert(Arc::clone(&probe), watched);
        probe
    }

    /// Stops asking a probe on behalf of `id`.
    pub(super) fn stop(&mut self, id: MemberId, probe: Option<Arc<Probe>>, effects: &mut Vec<Effect>) {
        let Some(probe) = probe else { return };
        let Some(watched) = self.watched.get_mut(&probe) else { return };
        watched.by.remove(id);
        if watched.by.is_empty() {
            self.watched.remove(&probe);
            effects.push(Effect::Forget(Arc::unwrap_or_clone(probe)));
        }
    }

    /// On whose behalf a probe is asked. `None`: it is not asked any more.
    pub(super) fn watchers(&self, probe: &Probe) -> Option<MemberSet> {
        self.watched.get(probe).map(|watched| watched.by.clone())
    }

    /// Asks a probe for a maintenance request, until [`Probes::stop_waiting`].
    pub(super) fn wait(&mut self, waiter: MemberId, probe: Probe, effects: &mut Vec<Effect>) {
        let shared = self.start(waiter, probe, effects);
        self.waiters.insert(waiter, shared);
    }

    pub(super) fn stop_waiting(&mut self, waiter: MemberId, effects: &mut Vec<Effect>) {
        let probe = self.waiters.remove(&waiter);
        self.stop(waiter, probe, effects);
    }

    /// The ids under which maintenance requests wait for this probe.
    pub(super) fn waiting_for(&self, probe: &Probe) -> Vec<MemberId> {
        let watchers = self.watched.get(probe).into_iter().flat_map(|watched| watched.by.iter());
        watchers.filter(|id| self.waiters.contains_key(id)).collect()
    }
}
