//! From a stage to what is in force: whether it may be, the store's consent, and the change itself
//! (PROTOCOL section 4, SEMANTICS section 1).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::protocol::{Domain, Host, PathPrefix, Refusal, Reply, RouteId, Scope, ServiceName};
use crate::server::routing::{Claim, MemberId};

use super::io::{Change, ConnId, Effect, Happening, Now, SessionNo, Tx};
use super::lifecycle::{SessionEvent, SessionState};
use super::maintenance::{Entering, Kept};
use super::persist::{MaintenanceRecord, SessionRecord};
use super::pools::{Detached, Joined};
use super::route::{Cells, Plan, Route};
use super::session::Session;
use super::stage::Stage;
use super::timers::Timer;
use super::{Outcome, Registry, Wait};

/// What an apply changes of a session, and nothing else.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// Each route as it is from now on, by id; `None` where it goes.
    pub routes: Vec<(RouteId, Option<Arc<Route>>)>,
    /// The session's defaults, if they change.
    pub defaults: Option<Cells>,
}

impl Delta {
    fn route(&self, id: RouteId) -> Option<&Arc<Route>> {
        let at = self.routes.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.routes[at].1.as_ref()
    }
}

/// A change on its way to the store, and what to do when that has decided.
pub(super) enum Pending {
    Apply {
        session: SessionNo,
        conn: ConnId,
        service: ServiceName,
        delta: Arc<Delta>,
        /// What of the stage it takes; `None`: all.
        scopes: Option<Vec<Scope>>,
        /// What the store hears of the session's maintenance with its first apply.
        kept: Kept,
    },
    ShutDown {
        session: SessionNo,
        conn: ConnId,
    },
    /// MAINT_ENTER.
    Entering {
        session: SessionNo,
        conn: ConnId,
        entering: Box<Entering>,
        kept: Kept,
    },
    /// A MAINT_EXIT whose verdict waits to be given.
    Leaving {
        session: SessionNo,
        kept: Kept,
    },
    /// The store is behind with maintenance.
    Remember(Kept),
    Expiry(SessionNo),
    /// The session is over already.
    Forget(SessionNo),
}

/// What applies that the store has not decided on are about to claim. Many may be on their way at once, and
/// with a store that answers at once none is: so they are only looked into when another one comes.
#[derive(Default)]
pub(super) struct Claimed {
    /// Not looked into yet; some are decided meanwhile.
    new: Vec<Tx>,
    /// Who is about to claim what, and by how many applies.
    by: HashMap<(Domain, PathPrefix), (ServiceName, usize)>,
    known: HashSet<Tx>,
}

/// A route that is to lead to members, and what they get from it.
struct Wanted {
    id: RouteId,
    route: Arc<Route>,
    plan: Plan,
    /// Whether the apply changes the route itself. One that only gets other defaults claims nothing anew: where
    /// another service has taken its place, it stays without.
    is_changed: bool,
}

impl Registry {
    /// CONFIG_VALIDATE.
    pub(super) fn validate(&mut self, no: SessionNo) -> Result<Reply, Refusal> {
        let Some(session) = self.sessions.get(no) else { return Err(Refusal::SessionNotFound) };
        let delta = session.stage.delta(&session.applied, &session.defaults);
        self.objection(no, &delta).map_or(Ok(Reply::Ok), Err)
    }

    /// CONFIG_APPLY, or CONFIG_APPLY_PARTIAL of some scopes, up to the store. The stage stays as it is until that
    /// has decided.
    pub(super) fn apply(
        &mut self,
        now: Now,
        no: SessionNo,
        conn: ConnId,
        scopes: Option<Vec<Scope>>,
    ) -> Outcome {
        let Some(session) = self.sessions.get(no) else {
            return Outcome::Reply(Reply::Error(Refusal::SessionNotFound));
        };
        let delta = match &scopes {
            None => session.stage.delta(&session.applied, &session.defaults),
            Some(scopes) => {
                let (now, _) = session.stage.split(scopes, &session.applied);
                now.delta(&session.applied, &session.defaults)
            }
        };
        let delta = Arc::new(delta);
        if let Some(refusal) = self.objection(no, &delta) {
            return Outcome::Reply(Reply::Error(refusal));
        }
        let applied = self.last_tx + 1;
        let Some((session, service)) = self.record_after(now, no, applied, &delta) else {
            return Outcome::Reply(Reply::Error(Refusal::SessionNotFound));
        };
        let maintenance = self.first_maintenance(no);
        let kept = maintenance.iter().map(|record| (no, MaintenanceRecord::clone(record))).collect();
        let change =
            Change::Applied { session: Box::new(session), applied, delta: delta.clone(), maintenance };
        let pending = Pending::Apply { session: no, conn, service, delta, scopes, kept };
        self.claimed.new.push(Tx(applied));
        Outcome::Wait(Wait::Store(self.commit(no, change, pending)))
    }

    /// What the store is to hold of a session once the apply of this number has changed it.
    fn record_after(
        &self,
        now: Now,
        no: SessionNo,
        applied: u64,
        delta: &Delta,
    ) -> Option<(SessionRecord, ServiceName)> {
        let session = self.sessions.get(no)?;
        let mut record = session.record(now);
        record.shared_address = !self.sessions.is_one_container(session.peer);
        record.replaced = self.sessions.replaced_by(session);
        if let Some(defaults) = &delta.defaults {
            record.defaults = defaults.clone();
            record.defaults_applied = applied;
        }
        Some((record, session.registration.service.clone()))
    }

    /// Asks the store. Until it has decided, further commands for the session wait.
    pub(super) fn commit(&mut self, no: SessionNo, change: Change, pending: Pending) -> Tx {
        self.last_tx += 1;
        let tx = Tx(self.last_tx);
        if !matches!(pending, Pending::Forget(_) | Pending::Remember(_))
            && let Some(session) = self.sessions.get_mut(no)
        {
            session.pending = Some(tx);
        }
        self.pending.insert(tx, pending);
        self.push(Effect::Commit(tx, change));
        tx
    }

    /// The store has decided.
    pub(super) fn decided(&mut self, now: Now, tx: Tx, committed: bool) {
        let Some(pending) = self.pending.remove(&tx) else { return };
        let (Pending::Apply { session: no, .. }
        | Pending::ShutDown { session: no, .. }
        | Pending::Entering { session: no, .. }
        | Pending::Leaving { session: no, .. }) = pending
        else {
            return self.end_decided(now, pending, committed);
        };
        if let Pending::Apply { delta, .. } = &pending {
            self.claimed.decided(tx, delta);
        }
        let waiting = self.settle(no);
        if !committed {
            self.push(Effect::Happened(Happening::StoreRefused(no)));
        }
        let refused = || Reply::Error(Refusal::StoreUnavailable);
        match pending {
            Pending::Apply { conn, delta, scopes, kept, .. } => {
                if committed {
                    self.install(now, no, tx.0, &delta, scopes.as_deref());
                    self.is_kept(&kept);
                    self.keep_up(no);
                }
                self.answer_commit(now, conn, tx, if committed { Reply::Ok } else { refused() });
            }
            Pending::Entering { conn, entering, kept, .. } if committed => {
                self.is_kept(&kept);
                self.entered(now, no, (conn, tx), *entering);
            }
            Pending::Entering { conn, .. } => self.answer_commit(now, conn, tx, refused()),
            Pending::Leaving { kept, .. } => {
                if committed {
                    self.is_kept(&kept);
                }
                self.left(now, no);
            }
            Pending::ShutDown { conn, .. } if committed => {
                let waits = self.stop_waiting(conn, |wait| matches!(wait, Wait::Store(of) if *of == tx));
                self.shut_down(now, no, waits.map(|_| conn));
                self.resume(now, conn);
            }
            Pending::ShutDown { conn, .. } => self.answer_commit(now, conn, tx, refused()),
            Pending::Expiry(_) | Pending::Forget(_) | Pending::Remember(_) => {}
        }
        if self.sessions.get(no).is_some_and(|session| session.state == SessionState::Replaced) {
            self.retire_if_idle(now, no);
        }
        self.go_on_leaving(now, no);
        self.release(now, no, waiting);
    }

    /// The store has decided on the end of a session that nobody asked for.
    fn end_decided(&mut self, now: Now, pending: Pending, committed: bool) {
        let retry = now.mono + super::binding::STORE_RETRY;
        match pending {
            Pending::Expiry(no) => {
                let waiting = self.settle(no);
                if committed {
                    self.advance(now, no, SessionEvent::GraceOver);
                } else {
                    self.push(Effect::Happened(Happening::StoreRefused(no)));
                    self.timers.set(Timer::Grace(no), retry);
                }
                self.release(now, no, waiting);
            }
            Pending::Forget(no) if !committed => self.timers.set(Timer::Forget(no), retry),
            Pending::Remember(kept) if committed => self.is_kept(&kept),
            Pending::Remember(kept) => {
                for (no, _) in kept {
                    self.timers.set(Timer::Remember(no), retry);
                }
            }
            _ => {}
        }
    }

    /// The session's change is decided. Returns who waited for it.
    fn settle(&mut self, no: SessionNo) -> Vec<ConnId> {
        let Some(session) = self.sessions.get_mut(no) else { return Vec::new() };
        session.pending = None;
        std::mem::take(&mut session.waiting)
    }

    /// Why a change may not be made: the policy forbids a claim of it, which may be newer than the stage, or one
    /// belongs to another service whose owner lives.
    fn objection(&mut self, no: SessionNo, delta: &Delta) -> Option<Refusal> {
        let session = self.sessions.get(no)?;
        let mut routes = delta.routes.iter().filter_map(|(id, route)| Some((id, route.as_ref()?)));
        let forbidden = routes.find_map(|(id, route)| Some((*id, self.forbidden(session, &route.spec)?)));
        if let Some((id, (domain, refusal))) = forbidden {
            let (who, domain) = (session.who(), domain.clone());
            self.push(Effect::Happened(Happening::NotPermitted { who, domain }));
            return Some(Refusal::Other(format!("route {id}: {refusal}")));
        }
        self.conflict(no, delta)
    }

    /// The first claim of `delta` that belongs to another service whose owner lives.
    fn conflict(&mut self, no: SessionNo, delta: &Delta) -> Option<Refusal> {
        self.claimed.look_into(&self.pending);
        let session = self.sessions.get(no)?;
        let service = &session.registration.service;
        let claims = delta.routes.iter().filter_map(|(id, route)| Some((*id, route.as_ref()?)));
        let claims = claims.flat_map(|(id, route)| {
            route.spec.domains.as_slice().iter().map(move |domain| (id, domain, &route.spec.path))
        });
        let taken = |(id, domain, path)| Some((id, domain, path, self.owner_besides(service, domain, path)?));
        let (route, domain, path, owner) = claims.into_iter().find_map(taken)?;
        let refusal = Refusal::Other(format!("route {route}: {domain}{path} belongs to service {owner}"));
        let (who, domain, path, owner) = (session.who(), domain.clone(), path.clone(), owner.clone());
        self.push(Effect::Happened(Happening::Conflict { who, route, domain, path, owner }));
        Some(refusal)
    }

    /// The other service that has a claim, or is about to.
    fn owner_besides(
        &self,
        service: &ServiceName,
        domain: &Domain,
        path: &PathPrefix,
    ) -> Option<&ServiceName> {
        let claim = self.pools.claim(domain, path).filter(|claim| claim.service != *service);
        if let Some(claim) = claim.filter(|claim| self.owner_lives(claim)) {
            return Some(&claim.service);
        }
        self.claimed.owner(domain, path).filter(|other| *other != service)
    }

    /// Whether a claim's owner lives: connected, or in grace with a member that passes its probe.
    fn owner_lives(&self, claim: &Claim) -> bool {
        self.pools.members(claim).any(|(_, no, serves)| {
            serves || self.sessions.get(no).is_some_and(|session| session.state == SessionState::Connected)
        })
    }

    /// Makes a change that the store holds. It costs what changes: nothing here looks at all routes, unless the
    /// session's defaults changed, which are every route's.
    fn install(&mut self, now: Now, no: SessionNo, applied: u64, delta: &Delta, scopes: Option<&[Scope]>) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        session.revision += 1;
        session.last_apply = Some(now.wall);
        session.stage = match scopes {
            None => Stage::default(),
            Some(scopes) => session.stage.split(scopes, &session.applied).1,
        };
        if session.stage.is_empty() {
            self.timers.cancel(Timer::Stage(no));
        }
        let before = take_over(session, applied, delta);
        let wanted = wanted(session, delta);
        let changed = before.iter().map(|(_, route)| route).chain(wanted.iter().map(|wanted| &wanted.route));
        let news = self.config_news(changed);
        let robbed = self.evict_owners(&wanted, no);
        self.let_robbed_go(now, &robbed);
        self.drop_members(now, robbed);

        // First what stays, so that a member lives on whose route has a new id; then what goes, so that a
        // backend that takes the place of the only one serves at once; then what is new.
        let new = self.attach(no, applied, &wanted);
        self.detach(now, no, delta, before);
        let joined = self.join(no, applied, new);
        if let Some(session) = self.sessions.get(no) {
            for ip in joined.into_iter().filter(|ip| self.sessions.is_one_container(*ip)) {
                self.pools.address_taken(ip, &session.who(), &session.kin());
            }
            let (who, revision) = (session.who(), session.revision);
            let (changed, routes) = (delta.routes.len(), session.applied.len());
            self.push(Effect::Happened(Happening::Applied { who, revision, changed, routes }));
        }
        self.tell_config(no, &news);
    }

    /// The members of other services that stand where `wanted` is to stand. Their owners do not live, or the
    /// apply would have been refused.
    fn evict_owners(&mut self, wanted: &[Wanted], no: SessionNo) -> Vec<(MemberId, SessionNo)> {
        let Some(by) = self.sessions.get(no).map(Session::who) else { return Vec::new() };
        let mut evicted = Vec::new();
        let changed = wanted.iter().filter(|wanted| wanted.is_changed);
        for (domain, path) in changed.flat_map(|wanted| places(&wanted.route)) {
            let Some(claim) = self.pools.claim(domain, path).filter(|claim| claim.service != by.service)
            else {
                continue;
            };
            for (member, from, _) in self.pools.members(claim) {
                evicted.push((member.id, from));
                let (domain, path) = (domain.clone(), path.clone());
                let taken = Happening::TakenOver { from, by: by.clone(), domain, path };
                self.effects.push(Effect::Happened(taken));
            }
        }
        for (_, from) in &evicted {
            if let Some(session) = self.sessions.get_mut(*from) {
                session.robbed = true;
            }
        }
        evicted
    }

    /// An owner that came back while the store was deciding finds out as one does that comes back later: it is
    /// told to register afresh.
    fn let_robbed_go(&mut self, now: Now, robbed: &[(MemberId, SessionNo)]) {
        for (_, no) in robbed {
            if let Some(conn) = self.sessions.get(*no).and_then(|session| session.conn) {
                self.close(now, conn);
            }
        }
    }

    /// Gives the members that are there what their routes say now. Returns the claims without a member.
    fn attach<'a>(
        &mut self,
        no: SessionNo,
        applied: u64,
        wanted: &'a [Wanted],
    ) -> Vec<(&'a Wanted, &'a Domain)> {
        let Some(session) = self.sessions.get(no) else { return Vec::new() };
        let owner = session.owner();
        // A session without a member has nothing to find again.
        let has_none = session.members.is_empty();
        let pools = &mut self.pools;
        let all = wanted.iter().flat_map(|wanted| {
            wanted.route.spec.domains.as_slice().iter().map(move |domain| (wanted, domain))
        });
        all.filter(|(wanted, domain)| {
            let place = (*domain, &wanted.route.spec.path);
            (has_none || !pools.attach(&owner, wanted.id, place, &wanted.plan, applied)) && wanted.is_changed
        })
        .collect()
    }

    /// Takes away what the routes before the apply led to and those after it do not.
    fn detach(&mut self, now: Now, no: SessionNo, delta: &Delta, before: Vec<(RouteId, Arc<Route>)>) {
        for (id, old) in before {
            let after = delta.route(id);
            for (domain, path) in places(&old) {
                let stays = after.is_some_and(|after| {
                    after.spec.backend == old.spec.backend
                        && places(after).any(|place| place == (domain, path))
                });
                if !stays {
                    self.detach_one(now, no, id, (domain, path), &old);
                }
            }
        }
    }

    fn detach_one(
        &mut self,
        now: Now,
        no: SessionNo,
        id: RouteId,
        place: (&Domain, &PathPrefix),
        old: &Route,
    ) {
        let detached = self.pools.detach(no, id, place, &old.spec.backend);
        let Some(session) = self.sessions.get_mut(no) else { return };
        match detached {
            Detached::Nothing => {}
            Detached::Shows(member, next) => {
                if let Some(route) = session.applied.get(&next) {
                    self.pools.set_plan(member, &session.plan(next, route));
                }
            }
            Detached::Gone(member) => {
                session.members.remove(&member);
                // Whom it replaced only served here until it answered, which it never will.
                if session.answered
                    && let Some(claim) = self.pools.claim(place.0, place.1)
                {
                    let older = self.pools.members_of(&session.predecessors, claim);
                    self.drop_members(now, older);
                }
            }
        }
    }

    /// Makes the members that are new. Returns the addresses of their backends.
    fn join(&mut self, no: SessionNo, applied: u64, new: Vec<(&Wanted, &Domain)>) -> Vec<IpAddr> {
        let Some(session) = self.sessions.get_mut(no) else { return Vec::new() };
        let mut addresses: Vec<IpAddr> = Vec::new();
        let mut joined = None;
        let plans = plans_in_force(&new);
        for (index, (wanted, domain)) in new.into_iter().enumerate() {
            let path = &wanted.route.spec.path;
            let place = (domain, path);
            let plan = plans.get(&index).copied().unwrap_or(&wanted.plan);
            let Joined::Now { member, is_new_here } =
                self.pools.join(&session.owner(), wanted.id, place, plan, applied)
            else {
                continue;
            };
            session.members.insert(member);
            if is_new_here && joined.is_none() {
                joined = Some((domain.clone(), path.clone()));
            }
            if let Host::Ip(ip) = wanted.plan.backend.host()
                && addresses.last() != Some(&ip.to_canonical())
            {
                addresses.push(ip.to_canonical());
            }
        }
        if let Some((domain, path)) = joined {
            let (who, peer) = (session.who(), session.peer);
            self.push(Effect::Happened(Happening::Joined { who, peer, domain, path }));
        }
        addresses
    }
}

/// Of the routes that lead to the member of a later one, by their indices, the plan of the last: the member is what
/// that says from its first moment (SEMANTICS section 1), and not for a moment what an earlier one does.
fn plans_in_force<'a>(new: &[(&'a Wanted, &Domain)]) -> HashMap<usize, &'a Plan> {
    let hasher = foldhash::quality::RandomState::default();
    let mut last: HashMap<_, &Plan, _> = HashMap::with_capacity_and_hasher(new.len(), hasher);
    let mut earlier = HashMap::new();
    for (index, (wanted, domain)) in new.iter().enumerate().rev() {
        let spec = &wanted.route.spec;
        match last.entry((*domain, &spec.path, &spec.backend)) {
            Entry::Vacant(place) => drop(place.insert(&wanted.plan)),
            Entry::Occupied(place) => drop(earlier.insert(index, *place.get())),
        }
    }
    earlier
}

/// Puts the change into the session. Returns the changed routes as they were.
fn take_over(session: &mut Session, applied: u64, delta: &Delta) -> Vec<(RouteId, Arc<Route>)> {
    if let Some(defaults) = &delta.defaults {
        session.defaults = defaults.clone();
        session.defaults_applied = applied;
    }
    let change = |(id, after): &(RouteId, Option<Arc<Route>>)| {
        let before = match after {
            Some(route) => {
                let state = session.states.entry(*id).or_default();
                let before = session.applied.insert(*id, route.clone());
                if before.as_ref().is_some_and(|before| before.spec.backend != route.spec.backend) {
                    state.breaker.reset();
                }
                before
            }
            None => {
                session.states.remove(id);
                session.applied.remove(id)
            }
        };
        before.map(|before| (*id, before))
    };
    delta.routes.iter().filter_map(change).collect()
}

/// The routes whose members may have to change.
fn wanted(session: &Session, delta: &Delta) -> Vec<Wanted> {
    let wanted = |id: RouteId, route: &Arc<Route>| {
        let plan = session.plan(id, route);
        if plan.extras.breaker.is_none() {
            // One that is set again later begins anew.
            plan.extras.route.breaker.reset();
        }
        Wanted { id, route: route.clone(), plan, is_changed: delta.route(id).is_some() }
    };
    if delta.defaults.is_some() {
        return session.applied.iter().map(|(id, route)| wanted(*id, route)).collect();
    }
    delta.routes.iter().filter_map(|(id, route)| Some(wanted(*id, route.as_ref()?))).collect()
}

/// The claims of a route.
fn places(route: &Route) -> impl Iterator<Item = (&Domain, &PathPrefix)> {
    route.spec.domains.as_slice().iter().map(|domain| (domain, &route.spec.path))
}

impl Claimed {
    fn look_into(&mut self, pending: &HashMap<Tx, Pending>) {
        for tx in self.new.drain(..) {
            let Some(Pending::Apply { service, delta, .. }) = pending.get(&tx) else { continue };
            for claim in all_claims(delta) {
                self.by.entry(claim).or_insert_with(|| (service.clone(), 0)).1 += 1;
            }
            self.known.insert(tx);
        }
    }

    /// Two services never have one at once: the second one's apply was refused.
    fn owner(&self, domain: &Domain, path: &PathPrefix) -> Option<&ServiceName> {
        if self.by.is_empty() {
            return None;
        }
        self.by.get(&(domain.clone(), path.clone())).map(|(service, _)| service)
    }

    fn decided(&mut self, tx: Tx, delta: &Delta) {
        if !self.known.remove(&tx) {
            return;
        }
        for claim in all_claims(delta) {
            if let Some((_, count)) = self.by.get_mut(&claim) {
                *count -= 1;
                if *count == 0 {
                    self.by.remove(&claim);
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by.is_empty() && self.known.is_empty()
    }
}

/// Every place that a change claims, once.
fn all_claims(delta: &Delta) -> HashSet<(Domain, PathPrefix)> {
    let routes = delta.routes.iter().filter_map(|(_, route)| route.as_ref());
    routes.flat_map(|route| places(route)).map(|(domain, path)| (domain.clone(), path.clone())).collect()
}
