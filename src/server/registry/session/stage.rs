//! What a session has prepared and not applied (PROTOCOL section 4).

use crate::server::registry::model::{Applied, Cells, Delta, Route, Slot};
use registry_client::protocol::{
    CircuitBreaker, HeaderName, HeaderValue, HealthPath, OptionKey, RateLimit, RouteId, RouteOption,
    RouteSpec, Scope,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a staged change takes beyond its texts, roughly.
const OVERHEAD: usize = 64;

/// Changes that wait for CONFIG_APPLY. Applied on top of what is, they make a [`Delta`].
#[derive(Debug, Default)]
pub(crate) struct Stage {
    routes: BTreeMap<RouteId, Staged>,
    patches: BTreeMap<Slot, Patch>,
    /// How many of `routes` are not applied yet.
    new_routes: usize,
    bytes: usize,
}

/// What is to become of a route.
#[derive(Debug)]
pub(crate) enum Staged {
    Put(RouteSpec),
    Remove,
}

/// Settings to be written or, where there is no value, taken away.
#[derive(Debug, Default, PartialEq)]
struct Patch {
    options: BTreeMap<OptionKey, Option<RouteOption>>,
    health_path: Option<HealthPath>,
    headers: BTreeMap<HeaderName, Option<HeaderValue>>,
    limit: Option<RateLimit>,
    breaker: Option<CircuitBreaker>,
}

impl Patch {
    fn applied_to(&self, cells: &Cells) -> Cells {
        let mut cells = cells.clone();
        for (key, value) in &self.options {
            match value {
                Some(option) => cells.options.insert(*key, *option),
                None => cells.options.remove(key),
            };
        }
        if self.health_path.is_some() {
            cells.health_path.clone_from(&self.health_path);
        }
        for (name, value) in &self.headers {
            match value {
                Some(value) => cells.headers.insert(name.clone(), value.clone()),
                None => cells.headers.remove(name),
            };
        }
        cells.limit = self.limit.or(cells.limit);
        cells.breaker = self.breaker.or(cells.breaker);
        cells
    }

    /// What an apply of the scopes that `takes` knows takes, and what it leaves.
    fn split(&self, takes: impl Fn(Scope) -> bool) -> (Patch, Patch) {
        let scope = |key: &OptionKey| if is_health(*key) { Scope::Health } else { Scope::Options };
        let mut parts = [Patch::default(), Patch::default()];
        let part = |scope| usize::from(takes(scope));
        for (key, value) in &self.options {
            parts[part(scope(key))].options.insert(*key, *value);
        }
        parts[part(Scope::Health)].health_path.clone_from(&self.health_path);
        parts[part(Scope::Headers)].headers.clone_from(&self.headers);
        parts[part(Scope::RateLimit)].limit = self.limit;
        parts[part(Scope::Circuit)].breaker = self.breaker;
        let [later, now] = parts;
        (now, later)
    }

    fn cost(&self) -> usize {
        OVERHEAD + self.headers.iter().map(|(name, value)| header_cost(name, value.as_ref())).sum::<usize>()
    }
}

fn header_cost(name: &HeaderName, value: Option<&HeaderValue>) -> usize {
    OVERHEAD + name.as_str().len() + value.map_or(0, |value| value.as_str().len())
}

impl Stage {
    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.patches.is_empty()
    }

    /// How many routes would be added, changed or removed.
    pub(crate) fn routes(&self) -> &BTreeMap<RouteId, Staged> {
        &self.routes
    }

    /// About how much it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many routes an apply would add.
    pub(super) fn new_routes(&self) -> usize {
        self.new_routes
    }

    /// Stages a route, or its change.
    pub(crate) fn put(&mut self, id: RouteId, mut spec: RouteSpec, is_applied: bool) {
        self.bytes += cost(&spec);
        // Most routes of a session lead to one backend, whose URL they then share.
        if let Some((_, Staged::Put(other))) = self.routes.last_key_value()
            && other.backend == spec.backend
        {
            spec.backend.clone_from(&other.backend);
        }
        match self.routes.insert(id, Staged::Put(spec)) {
            Some(Staged::Put(before)) => self.bytes -= cost(&before),
            Some(Staged::Remove) => self.bytes -= OVERHEAD,
            None if is_applied => {}
            None => self.new_routes += 1,
        }
    }

    /// Stages the removal of a route; one that was never applied is simply gone.
    pub(crate) fn remove(&mut self, id: RouteId, is_applied: bool) {
        if let Some(patch) = self.patches.remove(&Slot::Route(id)) {
            self.bytes -= patch.cost();
        }
        if let Some(Staged::Put(before)) = self.routes.remove(&id) {
            self.bytes -= cost(&before);
            self.new_routes -= usize::from(!is_applied);
        }
        if is_applied {
            self.bytes += OVERHEAD;
            self.routes.insert(id, Staged::Remove);
        }
    }

    pub(crate) fn set_option(&mut self, slot: Slot, key: OptionKey, value: Option<RouteOption>) {
        self.patch(slot).options.insert(key, value);
    }

    pub(crate) fn set_health_path(&mut self, slot: Slot, path: HealthPath) {
        self.patch(slot).health_path = Some(path);
    }

    /// Stages a header, or its removal. The name is in lower case.
    pub(crate) fn set_header(&mut self, slot: Slot, name: &HeaderName, value: Option<&HeaderValue>) {
        self.bytes += header_cost(name, value);
        if let Some(before) = self.patch(slot).headers.insert(name.clone(), value.cloned()) {
            self.bytes -= header_cost(name, before.as_ref());
        }
    }

    pub(crate) fn set_limit(&mut self, slot: Slot, limit: RateLimit) {
        self.patch(slot).limit = Some(limit);
    }

    pub(crate) fn set_breaker(&mut self, slot: Slot, breaker: CircuitBreaker) {
        self.patch(slot).breaker = Some(breaker);
    }

    /// A slot's settings as an apply would leave them.
    pub(crate) fn cells(&self, slot: Slot, before: &Cells) -> Cells {
        self.patches.get(&slot).map_or_else(|| before.clone(), |patch| patch.applied_to(before))
    }

    fn patch(&mut self, slot: Slot) -> &mut Patch {
        self.patches.entry(slot).or_insert_with(|| {
            self.bytes += OVERHEAD;
            Patch::default()
        })
    }

    /// What CONFIG_APPLY_PARTIAL of `scopes` takes, and what it leaves. Settings of a route that is not active,
    /// and will not be with it, are left.
    pub(crate) fn split(&self, scopes: &[Scope], applied: &BTreeMap<RouteId, Applied>) -> (Stage, Stage) {
        let (mut now, mut later) = (Stage::default(), Stage::default());
        let part = if scopes.contains(&Scope::Routes) { &mut now } else { &mut later };
        for (id, staged) in &self.routes {
            match staged {
                Staged::Put(spec) => part.put(*id, spec.clone(), applied.contains_key(id)),
                Staged::Remove => part.remove(*id, true),
            }
        }
        for (slot, patch) in &self.patches {
            let is_active = match slot {
                Slot::All => true,
                Slot::Route(id) => applied.contains_key(id) || now.routes.contains_key(id),
            };
            let (taken, left) = patch.split(|scope| is_active && scopes.contains(&scope));
            now.add(*slot, taken);
            later.add(*slot, left);
        }
        (now, later)
    }

    fn add(&mut self, slot: Slot, patch: Patch) {
        if patch != Patch::default() {
            self.bytes += patch.cost();
            self.patches.insert(slot, patch);
        }
    }

    /// What an apply would change of `applied` and `defaults`; what is the same already is left out.
    pub(crate) fn delta(&self, applied: &BTreeMap<RouteId, Applied>, defaults: &Cells) -> Delta {
        let staged = self.routes.iter().map(|(id, staged)| (*id, Some(staged)));
        let settings = self.patches.keys().filter_map(|slot| match slot {
            Slot::Route(id) if !self.routes.contains_key(id) => Some((*id, None)),
            _ => None,
        });
        let mut touched: Vec<(RouteId, Option<&Staged>)> = staged.chain(settings).collect();
        touched.sort_unstable_by_key(|(id, _)| *id);
        let routes = touched.into_iter().filter_map(|(id, staged)| {
            let before = applied.get(&id).map(|applied| &*applied.route);
            let after = self.result(id, staged, before);
            (after.as_ref() != before).then(|| (id, after.map(Arc::new)))
        });
        let new_defaults = self.patches.get(&Slot::All).map(|patch| patch.applied_to(defaults));
        Delta { routes: routes.collect(), defaults: new_defaults.filter(|cells| cells != defaults) }
    }

    /// The route as an apply would leave it.
    fn result(&self, id: RouteId, staged: Option<&Staged>, before: Option<&Route>) -> Option<Route> {
        let spec = match staged {
            Some(Staged::Remove) => return None,
            Some(Staged::Put(spec)) => spec.clone(),
            None => before?.spec.clone(),
        };
        let cells = before.map(|route| route.cells.clone()).unwrap_or_default();
        let patch = self.patches.get(&Slot::Route(id));
        Some(Route { spec, cells: patch.map(|patch| patch.applied_to(&cells).into()).unwrap_or(cells) })
    }
}

pub(super) fn is_health(key: OptionKey) -> bool {
    matches!(key, OptionKey::HealthCheckInterval | OptionKey::HealthCheckTimeout)
}

/// About how much memory a staged route takes.
pub(crate) fn cost(spec: &RouteSpec) -> usize {
    let domains: usize =
        spec.domains.as_slice().iter().map(|domain| domain.as_str().len() + OVERHEAD / 2).sum();
    OVERHEAD + domains + spec.path.as_str().len() + spec.backend.base_path().len()
}
