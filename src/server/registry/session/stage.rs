//! The changes that a session has staged and not applied (PROTOCOL section 4).

use std::collections::BTreeMap;
use std::sync::Arc;

use registry_client::protocol::RouteOrAll;
use registry_client::protocol::{
    CircuitBreaker, HeaderName, HeaderValue, HealthPath, OptionKey, RateLimit, RouteId, RouteOption,
    RouteSpec, Scope,
};

use crate::server::registry::model::{Applied, Delta, Route, RouteSettings};

/// About how many bytes a staged change takes beyond its texts.
const OVERHEAD: usize = 64;

/// Changes that wait for CONFIG_APPLY. Together with what is applied they make a [`Delta`].
#[derive(Debug, Default)]
pub(crate) struct Stage {
    routes: BTreeMap<RouteId, Staged>,
    patches: BTreeMap<RouteOrAll, Patch>,
    /// How many of `routes` are not applied yet.
    new_routes: usize,
    bytes: usize,
}

/// A staged change of a route.
#[derive(Debug)]
pub(crate) enum Staged {
    Put(RouteSpec),
    Remove,
}

/// Staged changes of settings. An option or header without a value is removed.
#[derive(Debug, Default, PartialEq)]
struct Patch {
    options: BTreeMap<OptionKey, Option<RouteOption>>,
    health_path: Option<HealthPath>,
    headers: BTreeMap<HeaderName, Option<HeaderValue>>,
    limit: Option<RateLimit>,
    breaker: Option<CircuitBreaker>,
}

impl Patch {
    fn applied_to(&self, settings: &RouteSettings) -> RouteSettings {
        let mut settings = settings.clone();
        for (key, value) in &self.options {
            match value {
                Some(option) => settings.options.insert(*key, option.clone()),
                None => settings.options.remove(key),
            };
        }
        if self.health_path.is_some() {
            settings.health_path.clone_from(&self.health_path);
        }
        for (name, value) in &self.headers {
            match value {
                Some(value) => settings.headers.insert(name.clone(), value.clone()),
                None => settings.headers.remove(name),
            };
        }
        settings.limit = self.limit.or(settings.limit);
        settings.breaker = self.breaker.or(settings.breaker);
        settings
    }

    /// Splits it into what an apply of some scopes takes, and what it leaves.
    fn split(&self, takes: impl Fn(Scope) -> bool) -> (Patch, Patch) {
        let scope = |key: &OptionKey| if key.is_health() { Scope::Health } else { Scope::Options };
        let mut parts = [Patch::default(), Patch::default()];
        let part = |scope| usize::from(takes(scope));
        for (key, value) in &self.options {
            parts[part(scope(key))].options.insert(*key, value.clone());
        }
        parts[part(Scope::Health)].health_path.clone_from(&self.health_path);
        parts[part(Scope::Headers)].headers.clone_from(&self.headers);
        parts[part(Scope::RateLimit)].limit = self.limit;
        parts[part(Scope::Circuit)].breaker = self.breaker;
        let [later, now] = parts;
        (now, later)
    }

    fn cost(&self) -> usize {
        let options: usize = self.options.values().map(|option| option_cost(option.as_ref())).sum();
        let headers = self.headers.iter().map(|(name, value)| header_cost(name, value.as_ref()));
        OVERHEAD + options + headers.sum::<usize>()
    }
}

/// About how many bytes an option takes beyond those that every stage of settings does.
fn option_cost(option: Option<&RouteOption>) -> usize {
    option.map_or(0, RouteOption::text_bytes)
}

fn header_cost(name: &HeaderName, value: Option<&HeaderValue>) -> usize {
    OVERHEAD + name.as_str().len() + value.map_or(0, |value| value.as_str().len())
}

impl Stage {
    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.patches.is_empty()
    }

    /// The routes that an apply would add, change or remove.
    pub(crate) fn routes(&self) -> &BTreeMap<RouteId, Staged> {
        &self.routes
    }

    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many routes an apply would add.
    pub(super) fn new_routes(&self) -> usize {
        self.new_routes
    }

    /// Stages a new route, or a change of one.
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

    /// Stages the removal of a route. One that was never applied is dropped from the stage.
    pub(crate) fn remove(&mut self, id: RouteId, is_applied: bool) {
        if let Some(patch) = self.patches.remove(&RouteOrAll::Route(id)) {
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

    pub(crate) fn set_option(&mut self, target: RouteOrAll, key: OptionKey, value: Option<RouteOption>) {
        self.bytes += option_cost(value.as_ref());
        if let Some(before) = self.patch(target).options.insert(key, value) {
            self.bytes -= option_cost(before.as_ref());
        }
    }

    pub(crate) fn set_health_path(&mut self, target: RouteOrAll, path: HealthPath) {
        self.patch(target).health_path = Some(path);
    }

    /// Stages a header, or its removal. The name is in lower case.
    pub(crate) fn set_header(&mut self, target: RouteOrAll, name: &HeaderName, value: Option<&HeaderValue>) {
        self.bytes += header_cost(name, value);
        if let Some(before) = self.patch(target).headers.insert(name.clone(), value.cloned()) {
            self.bytes -= header_cost(name, before.as_ref());
        }
    }

    pub(crate) fn set_limit(&mut self, target: RouteOrAll, limit: RateLimit) {
        self.patch(target).limit = Some(limit);
    }

    pub(crate) fn set_breaker(&mut self, target: RouteOrAll, breaker: CircuitBreaker) {
        self.patch(target).breaker = Some(breaker);
    }

    /// The settings of a route, or the defaults, as an apply would leave them.
    pub(crate) fn settings(&self, target: RouteOrAll, before: &RouteSettings) -> RouteSettings {
        self.patches.get(&target).map_or_else(|| before.clone(), |patch| patch.applied_to(before))
    }

    fn patch(&mut self, target: RouteOrAll) -> &mut Patch {
        self.patches.entry(target).or_insert_with(|| {
            self.bytes += OVERHEAD;
            Patch::default()
        })
    }

    /// Splits it into what CONFIG_APPLY_PARTIAL of `scopes` takes, and what it leaves. It leaves the settings of a route that
    /// is not active and would not be with the apply.
    pub(crate) fn split(&self, scopes: &[Scope], applied: &BTreeMap<RouteId, Applied>) -> (Stage, Stage) {
        let (mut now, mut later) = (Stage::default(), Stage::default());
        let part = if scopes.contains(&Scope::Routes) { &mut now } else { &mut later };
        for (id, staged) in &self.routes {
            match staged {
                Staged::Put(spec) => part.put(*id, spec.clone(), applied.contains_key(id)),
                Staged::Remove => part.remove(*id, true),
            }
        }
        for (target, patch) in &self.patches {
            let is_active = match target {
                RouteOrAll::All => true,
                RouteOrAll::Route(id) => applied.contains_key(id) || now.routes.contains_key(id),
            };
            let (taken, left) = patch.split(|scope| is_active && scopes.contains(&scope));
            now.add(*target, taken);
            later.add(*target, left);
        }
        (now, later)
    }

    fn add(&mut self, target: RouteOrAll, patch: Patch) {
        if patch != Patch::default() {
            self.bytes += patch.cost();
            self.patches.insert(target, patch);
        }
    }

    /// What an apply would change of `applied` and `defaults`. Changes that change nothing are left out.
    pub(crate) fn delta(&self, applied: &BTreeMap<RouteId, Applied>, defaults: &RouteSettings) -> Delta {
        let staged = self.routes.iter().map(|(id, staged)| (*id, Some(staged)));
        let settings = self.patches.keys().filter_map(|target| match target {
            RouteOrAll::Route(id) if !self.routes.contains_key(id) => Some((*id, None)),
            _ => None,
        });
        let mut touched: Vec<(RouteId, Option<&Staged>)> = staged.chain(settings).collect();
        touched.sort_unstable_by_key(|(id, _)| *id);
        let routes = touched.into_iter().filter_map(|(id, staged)| {
            let before = applied.get(&id).map(|applied| &*applied.route);
            let after = self.result(id, staged, before);
            (after.as_ref() != before).then(|| (id, after.map(Arc::new)))
        });
        let new_defaults = self.patches.get(&RouteOrAll::All).map(|patch| patch.applied_to(defaults));
        Delta { routes: routes.collect(), defaults: new_defaults.filter(|settings| settings != defaults) }
    }

    /// The route as an apply would leave it.
    fn result(&self, id: RouteId, staged: Option<&Staged>, before: Option<&Route>) -> Option<Route> {
        let spec = match staged {
            Some(Staged::Remove) => return None,
            Some(Staged::Put(spec)) => spec.clone(),
            None => before?.spec.clone(),
        };
        let settings = before.map(|route| route.settings.clone()).unwrap_or_default();
        let patch = self.patches.get(&RouteOrAll::Route(id));
        Some(Route {
            spec,
            settings: patch.map(|patch| patch.applied_to(&settings).into()).unwrap_or(settings),
        })
    }
}

/// About how many bytes a staged route takes.
pub(crate) fn cost(spec: &RouteSpec) -> usize {
    let domains: usize =
        spec.domains.as_slice().iter().map(|domain| domain.as_str().len() + OVERHEAD / 2).sum();
    OVERHEAD + domains + spec.path.as_str().len() + spec.backend.base_path().len()
}
