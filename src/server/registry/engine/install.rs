//! The third step of an apply: the change that the store holds is put in force (SEMANTICS section 1).

use super::Engine;
use super::timers::Timer;
use crate::server::registry::api::{Effect, Happening};
use crate::server::registry::membership::{Detached, Joined};
use crate::server::registry::model::breaker;
use crate::server::registry::model::{Applied, Delta, Now, Plan, Route, SessionNo};
use crate::server::registry::session::{Session, Stage};
use crate::server::routing::MemberId;
use registry_client::protocol::{BackendUrl, Domain, Host, PathPrefix, RouteId, Scope};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

/// A route that is to lead to members.
struct Wanted {
    id: RouteId,
    applied: Applied,
    /// Whether the apply changes the route itself. One that only gets other defaults claims nothing anew: where
    /// another service has taken its place, it stays without.
    is_changed: bool,
}

impl Engine {
    /// Makes a change that the store holds. It costs what changes: nothing here looks at all routes, unless the
    /// session's defaults changed, which are every route's.
    pub(super) fn install(
        &mut self,
        now: Now,
        no: SessionNo,
        applied: u64,
        delta: &Delta,
        scopes: Option<&[Scope]>,
    ) {
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
            self.log(Happening::Applied { who, revision, changed, routes });
        }
        let changed = wanted.iter().filter(|wanted| wanted.is_changed).map(|wanted| &*wanted.applied.route);
        self.tell_of_hidden(no, changed, &crowded);
        self.tell_config(no, &news);
    }

    /// The members of other services that stand where `wanted` is to stand. Their owners do not live, or the
    /// apply would have been refused.
    fn evict_owners(&mut self, wanted: &[Wanted], no: SessionNo) -> Vec<(MemberId, SessionNo)> {
        let Some(by) = self.sessions.get(no).map(Session::who) else { return Vec::new() };
        let mut evicted = Vec::new();
        let changed = wanted.iter().filter(|wanted| wanted.is_changed);
        for (domain, path) in changed.flat_map(|wanted| wanted.applied.route.claims()) {
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
            for (domain, path) in old.claims() {
                let stays = after.is_some_and(|after| {
                    after.spec.backend == old.spec.backend
                        && after.claims().any(|place| place == (domain, path))
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
            self.log(Happening::Joined { who, peer, domain, path });
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
        if breaker(&route.cells, &session.defaults).is_none() {
            state.reset_breaker();
        }
    }
}
