//! From a stage to what is in force: whether it may be, the store's consent, and the change itself
//! (PROTOCOL section 4, SEMANTICS section 1).

mod claimed;
mod hiding;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use crate::protocol::{BackendUrl, Domain, Host, PathPrefix, Refusal, Reply, RouteId, Scope, ServiceName};
use crate::server::routing::{Claim, MemberId};

use super::io::{Change, ConnId, Effect, Happening, Now, SessionNo, Tx};
use super::lifecycle::{SessionEvent, SessionState};
use super::maintenance::{Entering, Kept};
use super::persist::{MaintenanceRecord, SessionRecord};
use super::pools::{Detached, Joined};
use super::route::{self, Cells, Plan, Route};
use super::session::{Applied, Session};
use super::stage::Stage;
use super::timers::Timer;
use super::{Outcome, Registry, Wait};

pub(super) use claimed::Claimed;

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
    /// More route ids; the command that wants them waits.
    Reserving {
        session: SessionNo,
        conn: ConnId,
        /// How many were given out.
        last: u32,
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

/// A route that is to lead to members.
struct Wanted {
    id: RouteId,
    applied: Applied,
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
        self.claimed.note(Tx(applied));
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
        | Pending::Reserving { session: no, .. }
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
            Pending::Reserving { conn, last, .. } => {
                self.reserved(now, no, conn, committed.then_some(last));
            }
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
        let claim = self.pools.claim(domain, path).filter(|claim| claim.terms.service != *service);
        if let Some(claim) = claim.filter(|claim| self.owner_lives(claim)) {
            return Some(&claim.terms.service);
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
        session.kept_route = session.last_route;
        session.last_apply = Some(now.wall);
        session.stage = match scopes {
            None => Stage::default(),
            Some(scopes) => session.stage.split(scopes, &session.applied).1,
        };
        if session.stage.is_empty() {
            self.timers.cancel(Timer::Stage(no));
        }
        let (before, wanted) = take_over(session, applied, delta);
        if delta.defaults.is_some() {
            reset_breakers(session, session.applied.values());
        } else {
            let changed = before.iter().filter_map(|(id, _)| session.applied.get(id));
            reset_breakers(session, changed);
        }
        let changed =
            before.iter().map(|(_, route)| route).chain(wanted.iter().map(|wanted| &wanted.applied.route));
        let news = self.config_news(changed);
        let robbed = self.evict_owners(&wanted, no);
        self.let_robbed_go(now, &robbed);
        self.drop_members(now, robbed);

        // First what stays, so that a member lives on whose route has a new id; then what goes, so that a
        // backend that takes the place of the only one serves at once; then what is new.
        let (new, mut crowded) = self.attach(no, applied, &wanted);
        self.detach(now, no, delta, before);
        let joined = self.join(no, applied, new, &mut crowded);
        if let Some(session) = self.sessions.get(no) {
            for ip in joined.into_iter().filter(|ip| self.sessions.is_one_container(*ip)) {
                self.pools.address_taken(ip, &session.who(), &session.kin());
            }
            let (who, revision) = (session.who(), session.revision);
            let (changed, routes) = (delta.routes.len(), session.applied.len());
            self.push(Effect::Happened(Happening::Applied { who, revision, changed, routes }));
        }
        self.tell_of_hidden(no, &wanted, &crowded);
        self.tell_config(no, &news);
    }

    /// The members of other services that stand where `wanted` is to stand. Their owners do not live, or the
    /// apply would have been refused.
    fn evict_owners(&mut self, wanted: &[Wanted], no: SessionNo) -> Vec<(MemberId, SessionNo)> {
        let Some(by) = self.sessions.get(no).map(Session::who) else { return Vec::new() };
        let mut evicted = Vec::new();
        let changed = wanted.iter().filter(|wanted| wanted.is_changed);
        for (domain, path) in changed.flat_map(|wanted| places(&wanted.applied.route)) {
            let Some(claim) =
                self.pools.claim(domain, path).filter(|claim| claim.terms.service != by.service)
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

    /// Gives the members that are there what their routes say now. Returns the claims without a member, and the hosts
    /// of the others.
    fn attach<'a>(
        &mut self,
        no: SessionNo,
        applied: u64,
        wanted: &'a [Wanted],
    ) -> (Vec<(&'a Wanted, &'a Domain)>, Crowded<'a>) {
        let (mut new, mut crowded) = (Vec::new(), Crowded::new());
        let Some(session) = self.sessions.get(no) else { return (new, crowded) };
        let owner = session.owner();
        for wanted in wanted {
            // A session without a member has nothing to find again.
            let plan = (!session.members.is_empty()).then(|| session.plan(wanted.id, &wanted.applied));
            for domain in wanted.applied.route.spec.domains.as_slice() {
                let place = (domain, &wanted.applied.route.spec.path);
                let attach = |plan| self.pools.attach(&owner, wanted.id, place, plan, applied);
                if plan.as_ref().is_some_and(attach) {
                    crowded.insert(domain);
                } else if wanted.is_changed {
                    new.push((wanted, domain));
                }
            }
        }
        (new, crowded)
    }

    /// Takes away what the routes before the apply led to and those after it do not. All in one step: nobody takes
    /// the place of a member that goes as well.
    fn detach(&mut self, now: Now, no: SessionNo, delta: &Delta, before: Vec<(RouteId, Arc<Route>)>) {
        let mut left = Vec::new();
        for (id, old) in &before {
            let after = delta.route(*id);
            for (domain, path) in places(old) {
                let stays = after.is_some_and(|after| {
                    after.spec.backend == old.spec.backend
                        && places(after).any(|place| place == (domain, path))
                });
                if !stays && self.detach_one(no, *id, (domain, path), old) {
                    left.push((domain, path));
                }
            }
        }
        for (domain, path) in left {
            self.pools.hope(domain, path);
            self.drop_predecessors(now, no, (domain, path));
        }
    }

    /// True: it was the last route of a member, which is gone.
    fn detach_one(&mut self, no: SessionNo, id: RouteId, place: (&Domain, &PathPrefix), old: &Route) -> bool {
        let detached = self.pools.detach(no, id, place, &old.spec.backend);
        let Some(session) = self.sessions.get_mut(no) else { return false };
        match detached {
            Detached::Nothing => false,
            Detached::Shows(member, next) => {
                if let Some(applied) = session.applied.get(&next) {
                    self.pools.set_plan(member, &session.plan(next, applied));
                }
                false
            }
            Detached::Gone(member) => session.members.remove(member),
        }
    }

    /// Whom a session replaced only served where it left until it answered, which it never will.
    fn drop_predecessors(&mut self, now: Now, no: SessionNo, (domain, path): (&Domain, &PathPrefix)) {
        let Some(session) = self.sessions.get(no).filter(|session| session.answered) else { return };
        if let Some(claim) = self.pools.claim(domain, path) {
            let older = self.pools.members_of(&session.predecessors, claim);
            self.drop_members(now, older);
        }
    }

    /// Makes the members that are new. Returns the addresses of their backends.
    fn join<'a>(
        &mut self,
        no: SessionNo,
        applied: u64,
        new: Vec<(&'a Wanted, &'a Domain)>,
        crowded: &mut Crowded<'a>,
    ) -> Vec<IpAddr> {
        let Some(session) = self.sessions.get_mut(no) else { return Vec::new() };
        let (mut members, mut addresses) = (Vec::new(), Vec::new());
        let mut joined = None;
        let in_force = routes_in_force(&new);
        self.pools.expect(new.len());
        // The domains of a route share its plan.
        let mut made: Option<(&Wanted, Plan)> = None;
        for (index, (wanted, domain)) in new.into_iter().enumerate() {
            let path = &wanted.applied.route.spec.path;
            let shown = in_force.get(&index).copied().unwrap_or(wanted);
            let (_, plan) = match made.take().filter(|(of, _)| std::ptr::eq(*of, shown)) {
                Some(same) => made.insert(same),
                None => made.insert((shown, session.plan(shown.id, &shown.applied))),
            };
            let joins = self.pools.join(&session.owner(), wanted.id, (domain, path), plan, applied);
            let Joined::Now { member, is_new_here, is_alone } = joins else { continue };
            members.push(member);
            if !is_alone {
                crowded.insert(domain);
            }
            if is_new_here && joined.is_none() {
                joined = Some((domain.clone(), path.clone()));
            }
            if let Host::Ip(ip) = plan.backend.host()
                && addresses.last() != Some(&ip.to_canonical())
            {
                addresses.push(ip.to_canonical());
            }
        }
        session.members.extend(members);
        if let Some((domain, path)) = joined {
            let (who, peer) = (session.who(), session.peer);
            self.push(Effect::Happened(Happening::Joined { who, peer, domain, path }));
        }
        addresses
    }
}

/// Hosts where a changed claim may hide another, or be hidden: those that have several, and perhaps some more.
type Crowded<'a> = HashSet<&'a Domain>;

/// Of the routes that lead to the member of a later one, by their indices, the last: the member is what that says from
/// its first moment (SEMANTICS section 1), and not for a moment what an earlier one does.
fn routes_in_force<'a>(new: &[(&'a Wanted, &'a Domain)]) -> HashMap<usize, &'a Wanted> {
    fn key<'k>((wanted, domain): &(&'k Wanted, &'k Domain)) -> (&'k Domain, &'k PathPrefix, &'k BackendUrl) {
        (domain, &wanted.applied.route.spec.path, &wanted.applied.route.spec.backend)
    }
    let mut earlier = HashMap::new();
    // Nearly always each has a claim of its own, and that is found out with less memory than who has which.
    let hasher = foldhash::quality::RandomState::default();
    let place =
        |(wanted, domain): &(&Wanted, &Domain)| hasher.hash_one((*domain, &wanted.applied.route.spec.path));
    let mut seen = HashSet::with_capacity_and_hasher(new.len(), hasher.clone());
    if new.iter().all(|one| seen.insert(place(one))) {
        return earlier;
    }
    let mut last = HashMap::with_capacity_and_hasher(new.len(), hasher);
    for (index, one) in new.iter().enumerate().rev() {
        match last.entry(key(one)) {
            Entry::Vacant(place) => drop(place.insert(one.0)),
            Entry::Occupied(place) => drop(earlier.insert(index, *place.get())),
        }
    }
    earlier
}

/// Puts the change into the session. Returns the changed routes as they were, and those whose members may have to
/// change.
fn take_over(
    session: &mut Session,
    applied: u64,
    delta: &Delta,
) -> (Vec<(RouteId, Arc<Route>)>, Vec<Wanted>) {
    let (mut before, mut wanted) = (Vec::new(), Vec::with_capacity(delta.routes.len()));
    for (id, after) in &delta.routes {
        let old = session.applied.remove(id);
        if let Some(route) = after {
            let state = old.as_ref().map(|old| old.state.clone()).unwrap_or_default();
            if old.as_ref().is_some_and(|old| old.route.spec.backend != route.spec.backend) {
                state.reset_breaker();
            }
            let applied = Applied { route: route.clone(), state };
            wanted.push(Wanted { id: *id, applied, is_changed: true });
        }
        before.extend(old.map(|old| (*id, old.route)));
    }
    let changed = wanted.iter().map(|wanted| (wanted.id, wanted.applied.clone()));
    if session.applied.is_empty() {
        // Made as a whole it takes half of the memory, and less time.
        session.applied = changed.collect();
    } else {
        session.applied.extend(changed);
    }
    if let Some(defaults) = &delta.defaults {
        session.defaults = defaults.clone().into();
        session.defaults_applied = applied;
        let all = session.applied.iter().map(|(id, applied)| {
            let is_changed = delta.route(*id).is_some();
            Wanted { id: *id, applied: applied.clone(), is_changed }
        });
        wanted = all.collect();
    }
    (before, wanted)
}

/// A breaker that is set again later begins anew.
fn reset_breakers<'a>(session: &Session, routes: impl Iterator<Item = &'a Applied>) {
    for Applied { route, state } in routes {
        if route::breaker(&route.cells, &session.defaults).is_none() {
            state.reset_breaker();
        }
    }
}

/// The claims of a route.
fn places(route: &Route) -> impl Iterator<Item = (&Domain, &PathPrefix)> {
    route.spec.domains.as_slice().iter().map(|domain| (domain, &route.spec.path))
}
