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
    /// Ordered sets, so that a run can be repeated exactly.
    watched: HashMap<Arc<Probe>, Watched, foldhash::quality::RandomState>,
    /// What maintenance requests wait for. Their ids come from the same counter as members'.
    waiters: HashMap<MemberId, Arc<Probe>>,
}

struct Watched {
    /// The key once more, to be shared by further members.
    probe: Arc<Probe>,
    by: MemberSet,
}

impl Probes {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.watched.is_empty() && self.waiters.is_empty()
    }

    /// Asks on behalf of `id`. Returns the probe as everybody shares it who asks the same.
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

    /// Stops asking on behalf of `id`.
    pub(super) fn stop(&mut self, id: MemberId, probe: Option<Arc<Probe>>, effects: &mut Vec<Effect>) {
        let Some(probe) = probe else { return };
        let Some(watched) = self.watched.get_mut(&probe) else { return };
        watched.by.remove(id);
        if watched.by.is_empty() {
            self.watched.remove(&probe);
            effects.push(Effect::Forget(Arc::unwrap_or_clone(probe)));
        }
    }

    /// On whose behalf a probe is asked. `None`: nobody wants its result any more.
    pub(super) fn watchers(&self, probe: &Probe) -> Option<MemberSet> {
        self.watched.get(probe).map(|watched| watched.by.clone())
    }

    /// Asks until [`Probes::stop_waiting`], for somebody who waits for the answer.
    pub(super) fn wait(&mut self, waiter: MemberId, probe: Probe, effects: &mut Vec<Effect>) {
        let shared = self.start(waiter, probe, effects);
        self.waiters.insert(waiter, shared);
    }

    pub(super) fn stop_waiting(&mut self, waiter: MemberId, effects: &mut Vec<Effect>) {
        let probe = self.waiters.remove(&waiter);
        self.stop(waiter, probe, effects);
    }

    /// Who waits for this probe to pass.
    pub(super) fn waiting_for(&self, probe: &Probe) -> Vec<MemberId> {
        let watchers = self.watched.get(probe).into_iter().flat_map(|watched| watched.by.iter());
        watchers.filter(|id| self.waiters.contains_key(id)).collect()
    }
}
