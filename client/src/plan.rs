//! `(wanted, applied, dialect) -> batches`: which commands make the one into the other. Pure, and the only
//! place that knows how the reference server differs (PROTOCOL section 8).

mod dialect;
mod reference;

use std::collections::{BTreeMap, BTreeSet};

use super::intent::{Intent, Route, RouteKey, Routes};
use crate::protocol::report::{RouteEntry, RouteStatus};
use crate::protocol::{
    BackendUrl, CircuitBreaker, Command, Domain, GoDuration, HeaderName, HeaderValue, HealthCheck, OptionKey,
    PathPrefix, RateLimit, Request, RouteChange, RouteId, RouteOption, RouteOrAll, RouteSpec, SessionRef,
    Target, TargetItem,
};

/// How many routes one MAINT_ENTER or MAINT_EXIT names, so that the line stays short enough.
pub(super) const MAX_TARGETS: usize = 1_000;
/// How many batches a dry run shows.
const MAX_DRY_BATCHES: usize = 64;

/// Which server is at the other end: SESSION_INFO tells ([PROTOCOL section 7](crate::spec::protocol#7-extensions-of-ours)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialect {
    /// This project's server.
    Ours {
        /// What it understands beyond the reference.
        capabilities: BTreeSet<String>,
        /// The commands that it has answered with `unknown command`, because it is older than we are.
        lacks: BTreeSet<&'static str>,
    },
    /// The Go `go-proxy`, or anything else that does not say that it is ours.
    Reference,
}

/// The way from what is applied to what is wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The first is to be staged and applied, and then it is planned anew; empty where nothing differs. So
    /// whoever carries it out needs to remember only the one in progress.
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
    /// HEADERS_SET; `None` is `ALL`.
    SetHeader { route: Option<RouteRef>, name: HeaderName, value: HeaderValue },
    /// HEADERS_REMOVE
    RemoveHeader { id: RouteId, name: HeaderName },
    /// RATELIMIT_SET
    SetRateLimit { route: RouteRef, limit: RateLimit },
    /// CIRCUIT_BREAKER_SET
    SetCircuitBreaker { route: RouteRef, breaker: CircuitBreaker },
    /// MAINT_ENTER of routes that are to start their life in maintenance (ours).
    Maintain { keys: Vec<RouteKey>, page: Option<BackendUrl> },
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
    Present { at: RouteRef, key: RouteKey, route: Route, provisional: bool },
    Absent(RouteId),
}

/// What is in force at the server, as far as the client knows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applied {
    routes: BTreeMap<RouteId, AppliedRoute>,
    /// The same, by key: more than one id while an old route waits for its removal.
    ids: BTreeMap<RouteKey, BTreeSet<RouteId>>,
    /// The claims of which a removal has taken every entry that a reference server may have had
    /// ([PROTOCOL section 8](crate::spec::protocol#8-what-our-client-bears-from-the-reference-server), 6).
    clean: BTreeSet<(Domain, PathPrefix)>,
}

#[derive(Debug, Clone, PartialEq)]
struct AppliedRoute {
    /// `None`: it was found at the server, and is nobody's.
    key: Option<RouteKey>,
    /// `None`: its settings are not known.
    route: Option<Route>,
    /// It was only added so that its removal takes along what former sessions have left.
    provisional: bool,
}

/// What would be done to `wanted` and `applied` to make them one. The routes of `held` keys are left as they
/// are, because the server refused them just now.
pub fn plan(wanted: &Routes, applied: &Applied, held: &BTreeSet<RouteKey>, dialect: &Dialect) -> Plan {
    let understood: Routes =
        wanted.iter().map(|(key, route)| (key.clone(), dialect.understood(route).into_owned())).collect();
    let batches = match dialect {
        Dialect::Ours { .. } => plan_for_ours(&understood, applied, held),
        Dialect::Reference => reference::plan(&understood, applied, held),
    };
    let unsupported = dialect.unsupported(wanted);
    Plan { batches: batches.into_iter().filter(|batch| !batch.steps.is_empty()).collect(), unsupported }
}

/// The lines that a client sends on its first connection, one string each, as they may be shown: no token;
/// `S` for the session's id and `r1`, `r2`, … for the ids that the server would give.
pub fn dry_run(intent: &Intent, dialect: &Dialect) -> Vec<String> {
    let mut lines = vec![Command::Register(intent.registration()).redacted()];
    let mut show = |request: Request| {
        let line = Command::Request(SessionRef::Own, request).redacted();
        lines.push(line.replacen('|', "|S", 1));
    };
    show(Request::SessionInfo);
    let (mut applied, mut next_id) = (Applied::default(), 0);
    for _ in 0..MAX_DRY_BATCHES {
        let batches = plan(&intent.routes, &applied, &BTreeSet::new(), dialect).batches;
        let Some(batch) = batches.into_iter().next() else { break };
        let mut ids = BTreeMap::new();
        for step in &batch.steps {
            if let Step::Add { key, .. } = step {
                next_id += 1;
                ids.insert(key.clone(), RouteId(next_id));
            }
            if let Some(request) = step.request(&ids) {
                show(request);
            }
        }
        show(Request::ConfigApply);
        applied.commit(&batch, &ids);
    }
    lines
}

/// New before old: a route to another backend is added and applied before the former is removed, so that
/// there is no moment without one ([SEMANTICS section 8](crate::spec::semantics#8-bounds)). Everything else changes in place.
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
                first.steps.extend(options.map(|option| set_option(Some(at.clone()), option)));
                // After the options: a check's interval is one cell with an option, and the last one counts.
                first.set_health(&at, route);
                let headers = route.headers.iter();
                first.steps.extend(headers.map(|(name, value)| set_header(Some(at.clone()), name, value)));
                first.set_limits(&at, route);
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

fn set_option(route: Option<RouteRef>, option: &RouteOption) -> Step {
    Step::SetOption { route, option: option.clone() }
}

fn set_header(route: Option<RouteRef>, name: &HeaderName, value: &HeaderValue) -> Step {
    Step::SetHeader { route, name: name.clone(), value: value.clone() }
}

impl Batch {
    fn add(&mut self, key: &RouteKey, route: &Route) -> RouteRef {
        self.put(key, route, false)
    }

    fn put(&mut self, key: &RouteKey, route: &Route, provisional: bool) -> RouteRef {
        self.steps.push(Step::Add { key: key.clone(), spec: route.spec() });
        let at = RouteRef::New(key.clone());
        let (key, route) = (key.clone(), route.clone());
        self.after.push(After::Present { at: at.clone(), key, route, provisional });
        at
    }

    /// Lets the routes that are added start their life in maintenance, where that is wanted of them, with
    /// the page of the first. The others follow after the apply.
    pub(super) fn maintain(&mut self, page_of: impl Fn(&RouteKey, &Route) -> Option<Option<BackendUrl>>) {
        let mut page = None;
        let mut keys = Vec::new();
        for after in &self.after {
            let After::Present { at: RouteRef::New(_), key, route, .. } = after else { continue };
            let Some(wanted) = page_of(key, route) else { continue };
            if *page.get_or_insert_with(|| wanted.clone()) == wanted && keys.len() < MAX_TARGETS {
                keys.push(key.clone());
            }
        }
        self.steps.extend(page.map(|page| Step::Maintain { keys, page }));
    }

    fn set_limits(&mut self, at: &RouteRef, route: &Route) {
        let limit = route.rate_limit.map(|limit| Step::SetRateLimit { route: at.clone(), limit });
        let breaker = route.circuit_breaker;
        let breaker = breaker.map(|breaker| Step::SetCircuitBreaker { route: at.clone(), breaker });
        self.steps.extend(limit.into_iter().chain(breaker));
    }

    /// The headers and limits that differ; a zero removes a limit ([PROTOCOL section 3](crate::spec::protocol#3-commands)).
    fn change_limits(&mut self, id: RouteId, old: &Route, new: &Route) {
        let at = RouteRef::Id(id);
        let gone = old.headers.iter().filter(|(name, _)| new.headers.get(name).is_none());
        self.steps.extend(gone.map(|(name, _)| Step::RemoveHeader { id, name: name.clone() }));
        let set = new.headers.iter().filter(|(name, value)| old.headers.get(name) != Some(*value));
        self.steps.extend(set.map(|(name, value)| set_header(Some(at.clone()), name, value)));
        if old.rate_limit != new.rate_limit {
            let none = old.rate_limit.map(|old| RateLimit { requests: 0, ..old });
            let limit = new.rate_limit.or(none);
            self.steps.extend(limit.map(|limit| Step::SetRateLimit { route: at.clone(), limit }));
        }
        if old.circuit_breaker != new.circuit_breaker {
            let none = old.circuit_breaker.map(|old| CircuitBreaker { threshold: 0, ..old });
            let breaker = new.circuit_breaker.or(none);
            self.steps.extend(breaker.map(|breaker| Step::SetCircuitBreaker { route: at, breaker }));
        }
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
        for option in new.options.iter().filter(|option| old.options.get(option.key()) != Some(option)) {
            self.steps.push(set_option(Some(at.clone()), option));
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
        self.change_limits(id, old, new);
        if self.steps.len() > before {
            let (key, route) = (key.clone(), new.clone());
            self.after.push(After::Present { at, key, route, provisional: false });
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
                Request::OptionsSet { target: Target::All, option: option.clone() }
            }
            Step::SetOption { route: Some(route), option } => {
                Request::OptionsSet { target: Target::route(route.resolve(ids)?), option: option.clone() }
            }
            Step::RemoveOption { id, option } => {
                Request::OptionsRemove { target: Target::route(*id), key: *option }
            }
            Step::SetHealth { route, check } => {
                Request::HealthSet { route: route.resolve(ids)?, check: check.clone() }
            }
            Step::SetHeader { route, name, value } => {
                let target = match route {
                    None => Target::All,
                    Some(route) => Target::route(route.resolve(ids)?),
                };
                Request::HeadersSet { target, name: name.clone(), value: value.clone() }
            }
            Step::RemoveHeader { id, name } => {
                Request::HeadersRemove { target: Target::route(*id), name: name.clone() }
            }
            Step::SetRateLimit { route, limit } => {
                let target = RouteOrAll::Route(route.resolve(ids)?);
                Request::RateLimitSet { target, limit: *limit }
            }
            Step::SetCircuitBreaker { route, breaker } => {
                let target = RouteOrAll::Route(route.resolve(ids)?);
                Request::CircuitBreakerSet { target, breaker: *breaker }
            }
            Step::Maintain { keys, page } => {
                let ids: Option<Vec<_>> =
                    keys.iter().map(|key| ids.get(key).copied().map(TargetItem::Route)).collect();
                Request::MaintEnter { target: Target::Some(ids?), page: page.clone() }
            }
        })
    }

    /// The command, where a server of ours may be too old for it, and the route can do without.
    pub(super) fn may_be_lacking(&self) -> Option<&'static str> {
        match self {
            Step::SetHeader { .. } | Step::RemoveHeader { .. } => Some("HEADERS_SET"),
            Step::SetRateLimit { .. } => Some("RATELIMIT_SET"),
            Step::SetCircuitBreaker { .. } => Some("CIRCUIT_BREAKER_SET"),
            Step::Maintain { .. } => Some("MAINT_ENTER"),
            _ => None,
        }
    }

    /// The route it is about; `None` is all of them.
    pub(super) fn route(&self) -> Option<RouteRef> {
        match self {
            Step::Add { key, .. } => Some(RouteRef::New(key.clone())),
            Step::Update { id, .. }
            | Step::Remove { id }
            | Step::RemoveOption { id, .. }
            | Step::RemoveHeader { id, .. } => Some(RouteRef::Id(*id)),
            Step::SetOption { route, .. } | Step::SetHeader { route, .. } => route.clone(),
            Step::SetHealth { route, .. }
            | Step::SetRateLimit { route, .. }
            | Step::SetCircuitBreaker { route, .. } => Some(route.clone()),
            Step::Maintain { .. } => None,
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
        let unknown = AppliedRoute { key: None, route: None, provisional: false };
        let active = entries.iter().filter(|entry| entry.status != RouteStatus::Staged);
        let routes = active.map(|entry| (entry.route_id, unknown.clone())).collect();
        Applied { routes, ..Applied::default() }
    }

    /// What holds when `batch` was applied, with the ids that its routes were given.
    pub(super) fn commit(&mut self, batch: &Batch, given: &BTreeMap<RouteKey, RouteId>) {
        for after in &batch.after {
            match after {
                After::Absent(id) => {
                    let gone = self.routes.get(id).and_then(|applied| applied.route.as_ref());
                    self.clean.extend(gone.map(claims).into_iter().flatten());
                    self.forget(*id);
                }
                After::Present { at, key, route, provisional } => {
                    let Some(id) = at.resolve(given) else { continue };
                    let (key, route) = (key.clone(), Some(route.clone()));
                    let applied = AppliedRoute { key: Some(key.clone()), route, provisional: *provisional };
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
        let route = &*dialect.understood(route);
        let (id, old) = self.best_match(key, route)?;
        let same = match dialect {
            Dialect::Ours { .. } => old == route,
            Dialect::Reference => reference::same(old, route) && !self.is_provisional(id),
        };
        same.then_some(id)
    }

    /// Every route that is somebody's, with its id; several of one key while an old one waits for its
    /// removal.
    pub(super) fn known(&self) -> impl Iterator<Item = (RouteId, &RouteKey, &Route)> {
        self.routes
            .iter()
            .filter_map(|(id, applied)| Some((*id, applied.key.as_ref()?, applied.route.as_ref()?)))
    }

    /// Whether it is only there to be removed.
    pub(super) fn is_provisional(&self, id: RouteId) -> bool {
        self.routes.get(&id).is_some_and(|applied| applied.provisional)
    }

    /// Whether a removal has taken everything that was ever there for this route.
    fn is_clean(&self, route: &Route) -> bool {
        claims(route).all(|claim| self.clean.contains(&claim))
    }

    /// Whether there is a route of this id.
    pub(super) fn has(&self, id: RouteId) -> bool {
        self.routes.contains_key(&id)
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

fn claims(route: &Route) -> impl Iterator<Item = (Domain, PathPrefix)> + '_ {
    route.domains.as_slice().iter().map(|domain| (domain.clone(), route.path.clone()))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
