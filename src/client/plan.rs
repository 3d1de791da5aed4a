//! `(wanted, applied, dialect) -> batches`: which commands make the one into the other. Pure, and the only
//! place that knows how the reference server differs (PROTOCOL section 8).

use std::collections::{BTreeMap, BTreeSet};

use super::intent::{Intent, Options, Route, RouteKey, Routes};
use crate::protocol::report::{RouteEntry, RouteStatus, SessionInfo};
use crate::protocol::{
    Command, GoDuration, HealthCheck, OptionKey, Request, RouteChange, RouteId, RouteOption, RouteSpec,
    Scheme, SessionRef, Target,
};

/// Which server is at the other end: SESSION_INFO tells (PROTOCOL section 7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialect {
    /// This project's server.
    Ours {
        /// What it understands beyond the reference.
        capabilities: BTreeSet<String>,
    },
    /// The Go `go-proxy`, or anything else that does not say that it is ours.
    Reference,
}

/// The way from what is applied to what is wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// To be staged and applied one after the other; empty where nothing differs. Planning anew after each
    /// gives the same rest, so whoever carries it out needs to remember only the one in progress.
    pub batches: Vec<Batch>,
    /// What this server cannot do, left out.
    pub unsupported: Vec<Unsupported>,
}

/// What is staged before one CONFIG_APPLY.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// In this order.
    pub steps: Vec<Step>,
    /// What holds when the apply has succeeded.
    pub(super) after: Vec<After>,
}

/// One command that stages something.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the command")]
pub enum Step {
    /// ROUTE_ADD
    Add { key: RouteKey, spec: RouteSpec },
    /// ROUTE_UPDATE
    Update { id: RouteId, change: RouteChange },
    /// ROUTE_REMOVE
    Remove { id: RouteId },
    /// OPTIONS_SET; `None` is `ALL`.
    SetOption { route: Option<RouteRef>, option: RouteOption },
    /// OPTIONS_REMOVE
    RemoveOption { id: RouteId, option: OptionKey },
    /// HEALTH_SET
    SetHealth { route: RouteRef, check: HealthCheck },
}

/// A route that has an id, or one that gets its id from a ROUTE_ADD of the same batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "said above")]
pub enum RouteRef {
    Id(RouteId),
    New(RouteKey),
}

/// Something wanted that the server does not have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unsupported {
    /// The route.
    pub key: RouteKey,
    /// What is left out of it, and what that means.
    pub what: String,
}

/// What an apply leaves behind.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "most of them are the large one")]
pub(super) enum After {
    Present { at: RouteRef, key: RouteKey, route: Route },
    Absent(RouteId),
}

/// What is in force at the server, as far as the client knows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applied {
    routes: BTreeMap<RouteId, AppliedRoute>,
    /// The same, by key: more than one id while an old route waits for its removal.
    ids: BTreeMap<RouteKey, BTreeSet<RouteId>>,
}

#[derive(Debug, Clone, PartialEq)]
struct AppliedRoute {
    /// `None`: it was found at the server, and is nobody's.
    key: Option<RouteKey>,
    /// `None`: its settings are not known.
    route: Option<Route>,
}

/// What would be done to `wanted` and `applied` to make them one. The routes of `held` keys are left as they
/// are, because the server refused them just now.
pub fn plan(wanted: &Routes, applied: &Applied, held: &BTreeSet<RouteKey>, dialect: &Dialect) -> Plan {
    let batches = match dialect {
        Dialect::Ours { .. } => plan_for_ours(wanted, applied, held),
        Dialect::Reference => plan_for_reference(wanted, applied, held),
    };
    let unsupported = match dialect {
        Dialect::Ours { .. } => Vec::new(),
        Dialect::Reference => unsupported_by_reference(wanted),
    };
    Plan { batches: batches.into_iter().filter(|batch| !batch.steps.is_empty()).collect(), unsupported }
}

/// The lines that a client sends on its first connection, one string each, as they may be shown: no token;
/// `S` for the session's id and `r1`, `r2`, … for the ids that the server would give.
pub fn dry_run(intent: &Intent, dialect: &Dialect) -> Vec<String> {
    let mut lines = vec![Command::Register(intent.registration()).redacted()];
    let mut show = |request: Request| {
        let line = Command::Request(SessionRef::Own, request).encode();
        lines.push(line.replacen('|', "|S", 1));
    };
    show(Request::SessionInfo);
    let mut ids = BTreeMap::new();
    for batch in plan(&intent.routes, &Applied::default(), &BTreeSet::new(), dialect).batches {
        for step in &batch.steps {
            if let Some(request) = step.request(&ids) {
                show(request);
            }
            if let Step::Add { key, .. } = step {
                ids.insert(key.clone(), RouteId(ids.len() as u32 + 1));
            }
        }
        show(Request::ConfigApply);
    }
    lines
}

/// New before old: a route to another backend is added and applied before the former is removed, so that
/// there is no moment without one (SEMANTICS section 8). Everything else changes in place.
fn plan_for_ours(wanted: &Routes, applied: &Applied, held: &BTreeSet<RouteKey>) -> Vec<Batch> {
    let (mut first, mut second) = (Batch::default(), Batch::default());
    let mut kept = BTreeSet::new();
    let mut added = Vec::new();
    for (key, route) in wanted.iter().filter(|(key, _)| !held.contains(*key)) {
        match applied.best_match(key, route) {
            Some((id, old)) => {
                kept.insert(id);
                first.change(id, key, old, route);
            }
            None => {
                let at = first.add(key, route);
                let options = route.options.iter();
                first.steps.extend(options.map(|option| Step::SetOption { route: Some(at.clone()), option }));
                // After the options: a check's interval is one cell with an option, and the last one counts.
                first.set_health(&at, route);
                added.push(route);
            }
        }
    }
    for (id, old) in applied.others(&kept, held) {
        let replaced = match &old.route {
            None => !added.is_empty(),
            Some(old) => added.iter().any(|new| new.shares_claim_with(old)),
        };
        if replaced { second.remove(id) } else { first.remove(id) }
    }
    vec![first, second]
}

/// Old before new: removal is by domain and path and takes every entry, and removing and adding one of them
/// in a single apply leaves nothing. Options only work for all routes of an apply (PROTOCOL section 8).
fn plan_for_reference(wanted: &Routes, applied: &Applied, held: &BTreeSet<RouteKey>) -> Vec<Batch> {
    let candidates = || wanted.iter().filter(|(key, route)| !held.contains(*key) && !needs_h2c(route));
    let mut kept: BTreeSet<RouteId> = candidates()
        .filter_map(|(key, route)| {
            applied.best_match(key, route).filter(|(_, old)| same_for_reference(old, route))
        })
        .map(|(id, _)| id)
        .collect();
    let mut removals = Batch::default();
    loop {
        let gone: Vec<_> = applied.others(&kept, held).collect();
        let torn = kept.iter().copied().find(|id| gone.iter().any(|(_, old)| applied.share_claim(*id, old)));
        let Some(torn) = torn else {
            gone.iter().for_each(|(id, _)| removals.remove(*id));
            break;
        };
        kept.remove(&torn);
    }
    let mut groups: Vec<(Options, Batch)> = Vec::new();
    for (key, route) in candidates().filter(|(key, _)| !applied.holds(key, &kept)) {
        let options = options_for_reference(route);
        let index = groups.iter().position(|(same, _)| *same == options).unwrap_or_else(|| {
            groups.push((options, Batch::default()));
            groups.len() - 1
        });
        let batch = &mut groups[index].1;
        let at = batch.add(key, route);
        batch.set_health(&at, route);
    }
    let with_options = |(options, mut batch): (Options, Batch)| {
        batch.steps.extend(options.iter().map(|option| Step::SetOption { route: None, option }));
        batch
    };
    std::iter::once(removals).chain(groups.into_iter().map(with_options)).collect()
}

/// It ignores priorities, and the options of a backend that it knows never change.
fn same_for_reference(old: &Route, new: &Route) -> bool {
    (&old.domains, &old.path, &old.backend, &old.health)
        == (&new.domains, &new.path, &new.backend, &new.health)
}

fn options_for_reference(route: &Route) -> Options {
    route.options.iter().filter(|option| option.key() != OptionKey::Hold).collect()
}

fn needs_h2c(route: &Route) -> bool {
    route.backend.scheme() == Scheme::H2c
}

fn unsupported_by_reference(wanted: &Routes) -> Vec<Unsupported> {
    let note = |key: &RouteKey, what: &str| Unsupported { key: key.clone(), what: what.to_owned() };
    let h2c = wanted.iter().filter(|(_, route)| needs_h2c(route));
    let h2c = h2c.map(|(key, _)| note(key, "h2c backends are not understood: the route is left out"));
    let hold = wanted.iter().filter(|(_, route)| route.options.get(OptionKey::Hold).is_some());
    let hold = hold.map(|(key, _)| note(key, "the option hold is not understood: the route has none"));
    h2c.chain(hold).collect()
}

impl Dialect {
    /// Ours, as far as this version knows without having asked.
    pub fn ours() -> Self {
        Dialect::Ours { capabilities: BTreeSet::new() }
    }

    /// Whom SESSION_INFO shows.
    pub(super) fn of(info: &SessionInfo) -> Self {
        match info.server {
            Some(_) => Dialect::Ours { capabilities: info.capabilities.iter().cloned().collect() },
            None => Dialect::Reference,
        }
    }

    /// How many commands may wait for their replies at once.
    pub(super) fn window(&self) -> usize {
        match self {
            Dialect::Ours { .. } => 32,
            Dialect::Reference => 1,
        }
    }
}

impl Batch {
    fn add(&mut self, key: &RouteKey, route: &Route) -> RouteRef {
        self.steps.push(Step::Add { key: key.clone(), spec: route.spec() });
        let at = RouteRef::New(key.clone());
        self.after.push(After::Present { at: at.clone(), key: key.clone(), route: route.clone() });
        at
    }

    fn remove(&mut self, id: RouteId) {
        self.steps.push(Step::Remove { id });
        self.after.push(After::Absent(id));
    }

    fn set_health(&mut self, at: &RouteRef, route: &Route) {
        let check = route.health.clone();
        self.steps.extend(check.map(|check| Step::SetHealth { route: at.clone(), check }));
    }

    /// What differs between `old` and `new`, which have the same backend.
    fn change(&mut self, id: RouteId, key: &RouteKey, old: &Route, new: &Route) {
        let before = self.steps.len();
        let mut update = |change| self.steps.push(Step::Update { id, change });
        if old.domains != new.domains {
            update(RouteChange::Domains(new.domains.clone()));
        }
        if old.path != new.path {
            update(RouteChange::Path(new.path.clone()));
        }
        if old.priority != new.priority {
            update(RouteChange::Priority(new.priority));
        }
        for option in old.options.iter().map(RouteOption::key).filter(|key| new.options.get(*key).is_none()) {
            self.steps.push(Step::RemoveOption { id, option });
        }
        let at = RouteRef::Id(id);
        for option in new.options.iter().filter(|option| old.options.get(option.key()) != Some(*option)) {
            self.steps.push(Step::SetOption { route: Some(at.clone()), option });
        }
        match (&old.health, &new.health) {
            (old, new) if old == new => {}
            (_, Some(_)) => self.set_health(&at, new),
            (Some(old), None) => {
                let check = HealthCheck { interval: GoDuration::ZERO, ..old.clone() };
                self.steps.push(Step::SetHealth { route: at.clone(), check });
            }
            (None, None) => {}
        }
        if self.steps.len() > before {
            self.after.push(After::Present { at, key: key.clone(), route: new.clone() });
        }
    }
}

impl Step {
    /// The command, where the ids it needs are known.
    pub(super) fn request(&self, ids: &BTreeMap<RouteKey, RouteId>) -> Option<Request> {
        Some(match self {
            Step::Add { spec, .. } => Request::RouteAdd(spec.clone()),
            Step::Update { id, change } => Request::RouteUpdate { route: *id, change: change.clone() },
            Step::Remove { id } => Request::RouteRemove(*id),
            Step::SetOption { route: None, option } => {
                Request::OptionsSet { target: Target::All, option: *option }
            }
            Step::SetOption { route: Some(route), option } => {
                Request::OptionsSet { target: Target::route(route.resolve(ids)?), option: *option }
            }
            Step::RemoveOption { id, option } => {
                Request::OptionsRemove { target: Target::route(*id), key: *option }
            }
            Step::SetHealth { route, check } => {
                Request::HealthSet { route: route.resolve(ids)?, check: check.clone() }
            }
        })
    }

    /// The route it is about; `None` is all of them.
    pub(super) fn route(&self) -> Option<RouteRef> {
        match self {
            Step::Add { key, .. } => Some(RouteRef::New(key.clone())),
            Step::Update { id, .. } | Step::Remove { id } | Step::RemoveOption { id, .. } => {
                Some(RouteRef::Id(*id))
            }
            Step::SetOption { route, .. } => route.clone(),
            Step::SetHealth { route, .. } => Some(route.clone()),
        }
    }
}

impl RouteRef {
    pub(super) fn resolve(&self, ids: &BTreeMap<RouteKey, RouteId>) -> Option<RouteId> {
        match self {
            RouteRef::Id(id) => Some(*id),
            RouteRef::New(key) => ids.get(key).copied(),
        }
    }
}

impl Applied {
    /// What ROUTE_LIST shows, where it is not what was expected: nothing of it can be built upon, because
    /// the list does not show settings.
    pub(super) fn from_list(entries: &[RouteEntry]) -> Self {
        let unknown = AppliedRoute { key: None, route: None };
        let active = entries.iter().filter(|entry| entry.status != RouteStatus::Staged);
        let routes = active.map(|entry| (entry.route_id, unknown.clone())).collect();
        Applied { routes, ids: BTreeMap::new() }
    }

    /// What holds when `batch` was applied, with the ids that its routes were given.
    pub(super) fn commit(&mut self, batch: &Batch, given: &BTreeMap<RouteKey, RouteId>) {
        for after in &batch.after {
            match after {
                After::Absent(id) => self.forget(*id),
                After::Present { at, key, route } => {
                    let Some(id) = at.resolve(given) else { continue };
                    let applied = AppliedRoute { key: Some(key.clone()), route: Some(route.clone()) };
                    self.routes.insert(id, applied);
                    self.ids.entry(key.clone()).or_default().insert(id);
                }
            }
        }
    }

    /// The server does not have this one, or not any longer.
    pub(super) fn forget(&mut self, id: RouteId) {
        let Some(key) = self.routes.remove(&id).and_then(|applied| applied.key) else { return };
        if let Some(ids) = self.ids.get_mut(&key) {
            ids.remove(&id);
            if ids.is_empty() {
                self.ids.remove(&key);
            }
        }
    }

    /// Whose route this is.
    pub(super) fn key_of(&self, id: RouteId) -> Option<&RouteKey> {
        self.routes.get(&id)?.key.as_ref()
    }

    /// The id under which exactly this is in force, as far as the server can tell the difference.
    pub(super) fn id_of(&self, key: &RouteKey, route: &Route, dialect: &Dialect) -> Option<RouteId> {
        let (id, old) = self.best_match(key, route)?;
        let same = match dialect {
            Dialect::Ours { .. } => old == route,
            Dialect::Reference => same_for_reference(old, route),
        };
        same.then_some(id)
    }

    /// How many routes are in force.
    pub(super) fn len(&self) -> usize {
        self.routes.len()
    }

    /// The key's route that needs the least to become `wanted`: an equal one, else one to the same backend.
    fn best_match(&self, key: &RouteKey, wanted: &Route) -> Option<(RouteId, &Route)> {
        let known = self.ids.get(key)?.iter();
        let same_backend = known
            .filter_map(|id| Some((*id, self.routes.get(id)?.route.as_ref()?)))
            .filter(|(_, route)| route.backend == wanted.backend);
        same_backend.max_by_key(|(id, route)| (*route == wanted, *id))
    }

    /// Everything that is not kept and not of a held key.
    fn others(
        &self,
        kept: &BTreeSet<RouteId>,
        held: &BTreeSet<RouteKey>,
    ) -> impl Iterator<Item = (RouteId, &AppliedRoute)> {
        let is_held = |applied: &AppliedRoute| applied.key.as_ref().is_some_and(|key| held.contains(key));
        self.routes
            .iter()
            .filter(move |(id, applied)| !kept.contains(id) && !is_held(applied))
            .map(|(id, applied)| (*id, applied))
    }

    /// Whether the removal of `other` takes entries of `id` along.
    fn share_claim(&self, id: RouteId, other: &AppliedRoute) -> bool {
        match (self.routes.get(&id).and_then(|applied| applied.route.as_ref()), &other.route) {
            (Some(route), Some(other)) => route.shares_claim_with(other),
            _ => true,
        }
    }

    /// Whether one of the kept routes is the key's.
    fn holds(&self, key: &RouteKey, kept: &BTreeSet<RouteId>) -> bool {
        kept.iter().any(|id| self.key_of(*id) == Some(key))
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
