//! The third step of an apply: the change that the store holds is put in force (SEMANTICS section 1).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use registry_client::protocol::{BackendUrl, Domain, PathPrefix, RouteId, Scope};

use crate::server::registry::api::{Effect, LogEvent};
use crate::server::registry::membership::{Detached, Joined};
use crate::server::registry::model::breaker;
use crate::server::registry::model::{Applied, Delta, MemberPlan, Now, Route, SessionNo};
use crate::server::registry::session::{Session, Stage};
use crate::server::routing::MemberId;

use super::Engine;
use super::timers::Timer;

/// A route that an apply puts in force, or whose defaults it changes.
struct InstalledRoute {
    id: RouteId,
    applied: Applied,
    /// Whether the apply changes the route itself. A route that only gets other defaults makes no new claim: where another
    /// service has taken its claim over, it stays without a member.
    is_changed: bool,
}

impl Engine {
    /// Puts a change in force that the store holds. The cost is that of what changes: nothing here looks at all routes,
    /// unless the session's defaults change.
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
        session.ids.set_stored(session.ids.given());
        session.last_apply = Some(now.wall);
        session.stage = match scopes {
            None => Stage::default(),
            Some(scopes) => session.stage.split(scopes, &session.applied).1,
        };
        if session.stage.is_empty() {
            self.timers.cancel(Timer::Stage(no));
        }
        self.sessions.count_stage(no);
        let Some(session) = self.sessions.get_mut(no) else { return };
        let (before, installed) = replace_routes(session, applied, delta);
        if delta.defaults.is_some() {
            reset_breakers(session, session.applied.values());
        } else {
            let changed = before.iter().filter_map(|(id, _)| session.applied.get(id));
            reset_breakers(session, changed);
        }
        let changed = before
            .iter()
            .map(|(_, route)| route)
            .chain(installed.iter().map(|installed| &installed.applied.route));
        let domains = self.changed_domains(changed);
        let evicted = self.evict_owners(&installed, no);
        self.disconnect_owners(now, &evicted);
        self.drop_superseded(now, evicted);

        // Members that stay come first, so that a member survives whose route has a new id. Then those that go, so that a
        // backend that replaces the only one serves at once. New members come last.
        let (new, mut shared_hosts) = self.attach(no, applied, &installed);
        self.detach(now, no, delta, before);
        self.join(no, applied, new, &mut shared_hosts);
        if let Some(session) = self.sessions.get_mut(no) {
            session.forget_left_kin();
            let (who, revision) = (session.label(), session.revision);
            let (changed, routes) = (delta.routes.len(), session.applied.len());
            self.log(LogEvent::Applied { who, revision, changed, routes });
        }
        let changed = installed
            .iter()
            .filter(|installed| installed.is_changed)
            .map(|installed| &*installed.applied.route);
        self.tell_of_hidden(no, changed, &shared_hosts);
        self.tell_config(no, &domains);
        self.touch(no);
    }

    /// A session that applies a route again is not superseded there any more.
    pub(super) fn take_places_back(&mut self, no: SessionNo, delta: &Delta) {
        let Some(session) = self.sessions.get_mut(no).filter(|session| !session.superseded.is_empty()) else {
            return;
        };
        for (domain, path) in delta.claims() {
            session.superseded.retain(|place| (&place.domain, &place.path) != (domain, path));
        }
    }

    /// The members of other services in the claims of changed routes. Their owners do not live, or the apply would have been
    /// refused.
    fn evict_owners(&mut self, installed: &[InstalledRoute], no: SessionNo) -> Vec<(MemberId, SessionNo)> {
        let Some(session) = self.sessions.get(no) else { return Vec::new() };
        let by = session.label();
        let mut evicted = Vec::new();
        let changed = installed.iter().filter(|installed| installed.is_changed);
        let places = changed.flat_map(|installed| installed.applied.route.claims());
        for (domain, path) in places.filter(|(domain, path)| !session.is_superseded(domain, path)) {
            let Some(claim) =
                self.membership.claim(domain, path).filter(|claim| claim.terms.service != by.service)
            else {
                continue;
            };
            for (member, from, _) in self.membership.members(claim) {
                evicted.push((member.id, from));
                let (domain, path) = (domain.clone(), path.clone());
                let taken = LogEvent::TakenOver { from, by: by.clone(), domain, path };
                self.effects.push(Effect::Log(taken));
            }
        }
        for (_, from) in &evicted {
            if let Some(session) = self.sessions.get_mut(*from) {
                session.lost_claim = true;
            }
        }
        evicted
    }

    /// Closes the connections of sessions that have lost a claim. An owner that came back while the store decided then
    /// reconnects, and is told to register again, as one that comes back later.
    fn disconnect_owners(&mut self, now: Now, evicted: &[(MemberId, SessionNo)]) {
        for (_, no) in evicted {
            if let Some(conn) = self.sessions.get(*no).and_then(|session| session.conn) {
                self.close(now, conn);
            }
        }
    }

    /// Gives the members that there are their routes' new settings. Returns the claims that need a new member, and the hosts
    /// of the others.
    fn attach<'a>(
        &mut self,
        no: SessionNo,
        applied: u64,
        installed: &'a [InstalledRoute],
    ) -> (Vec<(&'a InstalledRoute, &'a Domain)>, SharedHosts<'a>) {
        let (mut new, mut shared_hosts) = (Vec::new(), SharedHosts::new());
        let Some(session) = self.sessions.get(no) else { return (new, shared_hosts) };
        let owner = session.owner();
        for installed in installed {
            // A session without members has none to find.
            let plan = (!session.members.is_empty()).then(|| session.plan(installed.id, &installed.applied));
            for domain in installed.applied.route.spec.domains.as_slice() {
                let place = (domain, &installed.applied.route.spec.path);
                let attach = |plan| self.membership.attach(&owner, installed.id, place, plan, applied);
                if plan.as_ref().is_some_and(attach) {
                    shared_hosts.insert(domain);
                } else if installed.is_changed && !session.is_superseded(place.0, place.1) {
                    new.push((installed, domain));
                }
            }
        }
        (new, shared_hosts)
    }

    /// Removes the members to which routes led before the apply and no route leads after it. Those that stay are told when
    /// all are gone, so that no member serves for a moment that goes as well.
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
            self.membership.serve_untried(domain, path);
            self.drop_predecessors(now, no, (domain, path));
        }
    }

    /// Takes one claim of a route away from its member. Returns true if that was the member's last route.
    fn detach_one(&mut self, no: SessionNo, id: RouteId, place: (&Domain, &PathPrefix), old: &Route) -> bool {
        let detached = self.membership.detach(no, id, place, &old.spec.backend);
        let Some(session) = self.sessions.get_mut(no) else { return false };
        match detached {
            Detached::Nothing => false,
            Detached::Shows(member, next) => {
                if let Some(applied) = session.applied.get(&next) {
                    self.membership.set_plan(member, &session.plan(next, applied));
                }
                false
            }
            Detached::Gone(member) => session.members.remove(member),
        }
    }

    /// Removes the predecessors' members from a claim that their successor has left. They served there until the successor
    /// answered, which it will not do any more.
    fn drop_predecessors(&mut self, now: Now, no: SessionNo, (domain, path): (&Domain, &PathPrefix)) {
        let Some(session) = self.sessions.get(no).filter(|session| session.answered) else { return };
        if let Some(claim) = self.membership.claim(domain, path) {
            let older = self.membership.members_of(&session.predecessors, claim);
            self.drop_superseded(now, older);
        }
    }

    /// Adds the members that are new.
    fn join<'a>(
        &mut self,
        no: SessionNo,
        applied: u64,
        new: Vec<(&'a InstalledRoute, &'a Domain)>,
        shared_hosts: &mut SharedHosts<'a>,
    ) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let mut members = Vec::new();
        let mut joined = None;
        let in_force = routes_in_force(&new);
        self.membership.expect(new.len());
        // All domains of a route have the same plan.
        let mut last_plan: Option<(&InstalledRoute, MemberPlan)> = None;
        for (index, (installed, domain)) in new.into_iter().enumerate() {
            let path = &installed.applied.route.spec.path;
            let shown = in_force.get(&index).copied().unwrap_or(installed);
            let (_, plan) = match last_plan.take().filter(|(of, _)| std::ptr::eq(*of, shown)) {
                Some(same) => last_plan.insert(same),
                None => last_plan.insert((shown, session.plan(shown.id, &shown.applied))),
            };
            let joins = self.membership.join(&session.owner(), installed.id, (domain, path), plan, applied);
            let Joined::Now { member, is_new_here, is_alone } = joins else { continue };
            members.push(member);
            if !is_alone {
                shared_hosts.insert(domain);
            }
            if is_new_here && joined.is_none() {
                joined = Some((domain.clone(), path.clone()));
            }
        }
        session.members.extend(members);
        if let Some((domain, path)) = joined {
            let (who, peer) = (session.label(), session.peer);
            self.log(LogEvent::Joined { who, peer, domain, path });
        }
    }
}

/// Hosts with several claims, where a changed claim may hide another or be hidden. There may be others in it.
type SharedHosts<'a> = HashSet<&'a Domain>;

/// For routes that lead to the same member as a later one, by their indices, the last such route. A new member has the
/// settings of that route from the beginning (SEMANTICS section 1), and not those of an earlier one for a moment.
fn routes_in_force<'a>(new: &[(&'a InstalledRoute, &'a Domain)]) -> HashMap<usize, &'a InstalledRoute> {
    fn key<'k>(
        (installed, domain): &(&'k InstalledRoute, &'k Domain),
    ) -> (&'k Domain, &'k PathPrefix, &'k BackendUrl) {
        (domain, &installed.applied.route.spec.path, &installed.applied.route.spec.backend)
    }
    let mut earlier = HashMap::new();
    // Nearly always each has a claim of its own. A set of hashes shows that with less memory than a map of claims.
    let hasher = foldhash::quality::RandomState::default();
    let place = |(installed, domain): &(&InstalledRoute, &Domain)| {
        hasher.hash_one((*domain, &installed.applied.route.spec.path))
    };
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

/// Replaces the session's routes and defaults. Returns the changed routes as they were, and the routes whose members may
/// change.
fn replace_routes(
    session: &mut Session,
    applied: u64,
    delta: &Delta,
) -> (Vec<(RouteId, Arc<Route>)>, Vec<InstalledRoute>) {
    let (mut before, mut installed) = (Vec::new(), Vec::with_capacity(delta.routes.len()));
    for (id, after) in &delta.routes {
        let old = session.applied.remove(id);
        if let Some(route) = after {
            let state = old.as_ref().map(|old| old.state.clone()).unwrap_or_default();
            if old.as_ref().is_some_and(|old| old.route.spec.backend != route.spec.backend) {
                state.reset_breaker();
            }
            let applied = Applied { route: route.clone(), state };
            installed.push(InstalledRoute { id: *id, applied, is_changed: true });
        }
        before.extend(old.map(|old| (*id, old.route)));
    }
    let changed = installed.iter().map(|installed| (installed.id, installed.applied.clone()));
    if session.applied.is_empty() {
        // A map that is made as a whole takes half of the memory, and less time.
        session.applied = changed.collect();
    } else {
        session.applied.extend(changed);
    }
    if let Some(defaults) = &delta.defaults {
        session.defaults = defaults.clone().into();
        session.defaults_applied = applied;
        let all = session.applied.iter().map(|(id, applied)| {
            let is_changed = delta.route(*id).is_some();
            InstalledRoute { id: *id, applied: applied.clone(), is_changed }
        });
        installed = all.collect();
    }
    (before, installed)
}

/// Resets the breakers of routes that have none in force. One that is set again later begins closed.
fn reset_breakers<'a>(session: &Session, routes: impl Iterator<Item = &'a Applied>) {
    for Applied { route, state } in routes {
        if breaker(&route.settings, &session.defaults).is_none() {
            state.reset_breaker();
        }
    }
}
