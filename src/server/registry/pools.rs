//! The members of all claims: who serves what, whether requests may go there, and which probes decide it
//! (SEMANTICS sections 1, 3 and 4). It knows sessions only by their numbers.

mod drain;
mod hold;
mod lost;
mod maintenance;
mod member_set;
mod record;
mod routes;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::protocol::{BackendUrl, Domain, InstanceName, PathPrefix, RouteId, ServiceName};
use crate::server::routing::{
    AddressLimit, Claim, Drain, Endpoint, Hold, Member, MemberId, Members, Probe, RateBuckets, RouteState,
    Table,
};

use super::io::{Effect, Happening, SessionNo};
use super::lifecycle::{MemberEvent, MemberState};
use super::route::Plan;
pub(super) use member_set::MemberSet;
use record::{Record, Says};
use routes::{Earlier, Removed};

/// Probes in a row that take a member out (SEMANTICS section 3).
const FAILURES_OUT: u8 = 3;

/// The session that a member belongs to, as far as its members need it.
pub(super) struct Owner<'a> {
    pub(super) no: SessionNo,
    pub(super) service: &'a ServiceName,
    pub(super) instance: &'a InstanceName,
    pub(super) peer: IpAddr,
    /// Whether it is without a connection.
    pub(super) lost: bool,
    /// Whether it is being drained.
    pub(super) drain: Option<Drain>,
}

pub(super) struct Pools {
    /// The time of what is being handled.
    now: Option<Instant>,
    /// HOLD: how long a claim is held whose routes do not say it.
    hold: Duration,
    /// Claims without members, by the time at which they go.
    held: BTreeSet<(Instant, Domain, PathPrefix)>,
    table: Table,
    /// The table has changed since it was published.
    dirty: bool,
    members: HashMap<MemberId, Box<Record>, foldhash::fast::RandomState>,
    /// What was said last, for those who say the same.
    said_last: Option<Arc<Says>>,
    /// Every probe that is being asked, and for whom. Ordered, so that a run can be repeated exactly.
    watched: HashMap<Arc<Probe>, Watched, foldhash::quality::RandomState>,
    /// Members whose session is lost, by the address of their backend where it is known.
    lost_at: HashMap<IpAddr, MemberSet>,
    /// Of all rate limits, once there was one.
    buckets: Option<Arc<RateBuckets>>,
    /// Questions that decide about maintenance requests.
    tokens: HashMap<MemberId, Arc<Probe>>,
    last_member: u64,
    /// Members have left whose upgraded connections are to be closed.
    departure: bool,
    effects: Vec<Effect>,
}

/// A probe that is being asked.
struct Watched {
    /// Once more, for further members that want it.
    probe: Arc<Probe>,
    by: MemberSet,
}

/// A member whose probe passed for the first time since it joined.
pub(super) struct Answered {
    pub(super) session: SessionNo,
    pub(super) domain: Domain,
    pub(super) path: PathPrefix,
}

impl Pools {
    /// No claims yet; `hold` is for those whose routes do not say how long they are held.
    pub(super) fn new(hold: Duration) -> Self {
        Pools {
            now: None,
            hold,
            held: BTreeSet::new(),
            table: Table::default(),
            dirty: false,
            members: HashMap::default(),
            said_last: None,
            watched: HashMap::default(),
            lost_at: HashMap::new(),
            buckets: None,
            tokens: HashMap::default(),
            last_member: 0,
            departure: false,
            effects: Vec::new(),
        }
    }

    /// From now on it is this late.
    pub(super) fn set_time(&mut self, now: Instant) {
        self.now = Some(now);
    }

    /// So many members are about to join.
    pub(super) fn expect(&mut self, members: usize) {
        self.members.reserve(members);
    }

    /// The table, if it has changed since the last call.
    pub(super) fn take_table(&mut self) -> Option<Table> {
        std::mem::take(&mut self.dirty).then(|| self.table.clone())
    }

    /// Whether members have left since the last call.
    pub(super) fn take_departure(&mut self) -> bool {
        std::mem::take(&mut self.departure)
    }

    /// What is to be done besides, in order.
    pub(super) fn take_effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.effects.drain(..)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
            && self.tokens.is_empty()
            && self.watched.is_empty()
            && self.lost_at.is_empty()
            && self.held.is_empty()
    }

    pub(super) fn claim(&self, domain: &Domain, path: &PathPrefix) -> Option<&Arc<Claim>> {
        self.table.get(domain, path)
    }

    /// A host's claims, in the order in which they are tried.
    pub(super) fn host(&self, domain: &Domain) -> &[Arc<Claim>] {
        self.table.host(domain)
    }

    /// Every claim that is in force.
    pub(super) fn claims(&self) -> impl Iterator<Item = &Arc<Claim>> {
        self.table.claims()
    }

    /// The claim's members with their sessions and whether they serve.
    pub(super) fn members<'a>(
        &'a self,
        claim: &'a Claim,
    ) -> impl Iterator<Item = (&'a Member, SessionNo, bool)> {
        claim.members.iter().filter_map(|member| {
            let record = self.members.get(&member.id)?;
            Some((member, record.says.session, record.state.serves()))
        })
    }

    /// The members of these sessions in a claim.
    pub(super) fn members_of(&self, sessions: &[SessionNo], claim: &Claim) -> Vec<(MemberId, SessionNo)> {
        let of = |(member, session, _): (&Member, SessionNo, bool)| (member.id, session);
        self.members(claim).map(of).filter(|(_, session)| sessions.contains(session)).collect()
    }

    /// Whether one of these members is there for the route, and serves.
    pub(super) fn is_served(&self, members: &MemberSet, route: RouteId) -> bool {
        let mut records = members.iter().filter_map(|id| self.members.get(&id));
        records.any(|record| record.is_of(route) && record.state.serves())
    }

    /// Which claim a member is in.
    pub(super) fn place(&self, id: MemberId) -> Option<(&Domain, &PathPrefix)> {
        self.members.get(&id).map(|record| (&record.domain, &record.path))
    }

    fn find(
        &self,
        session: SessionNo,
        domain: &Domain,
        path: &PathPrefix,
        backend: &BackendUrl,
    ) -> Option<MemberId> {
        self.find_in(self.table.get(domain, path)?, session, backend)
    }

    fn find_in(&self, claim: &Claim, session: SessionNo, backend: &BackendUrl) -> Option<MemberId> {
        let is_of = |id| self.members.get(&id).is_some_and(|record| record.says.session == session);
        let mut members = claim.members.iter().map(|member| (member.id, &member.backend));
        members.find(|(id, other)| *other == backend && is_of(*id)).map(|(id, _)| id)
    }

    /// Lets a route lead to the member that its session has in the claim already. False: it has none.
    pub(super) fn attach(
        &mut self,
        owner: &Owner<'_>,
        route: RouteId,
        (domain, path): (&Domain, &PathPrefix),
        plan: &Plan,
        applied: u64,
    ) -> bool {
        let Some(id) = self.find(owner.no, domain, path, &plan.backend) else { return false };
        self.add_route(id, route, plan, applied);
        self.on_event(id, MemberEvent::Returned, None);
        true
    }

    fn add_route(&mut self, id: MemberId, route: RouteId, plan: &Plan, applied: u64) {
        let Some(record) = self.members.get_mut(&id) else { return };
        record.earlier.insert(&mut record.route, route);
        record.applied = applied;
        if record.route == route {
            self.set_plan(id, plan);
        } else {
            self.show(id);
        }
    }

    /// Lets a route lead to a member again, as it did before a restart: one that serves in hope, or one that
    /// waits for its session.
    pub(super) fn restore(
        &mut self,
        owner: &Owner<'_>,
        route: RouteId,
        place: (&Domain, &PathPrefix),
        plan: &Plan,
        applied: u64,
        serves: bool,
    ) -> MemberId {
        if let Some(id) = self.find(owner.no, place.0, place.1, &plan.backend) {
            self.add_route(id, route, plan, applied);
            return id;
        }
        let state = if serves { MemberState::Hopeful } else { MemberState::Dormant };
        let before = self.table.get(place.0, place.1).cloned();
        self.add(owner, route, place, plan, applied, (state, before.as_ref()))
    }

    /// Lets a route lead to the member that its session has in the claim, or makes it one.
    pub(super) fn join(
        &mut self,
        owner: &Owner<'_>,
        route: RouteId,
        (domain, path): (&Domain, &PathPrefix),
        plan: &Plan,
        applied: u64,
    ) -> Joined {
        let host = self.table.host(domain);
        let claim = host.iter().find(|claim| claim.path == *path).cloned();
        let (claim, is_alone) = (claim.as_ref(), host.len() == usize::from(claim.is_some()));
        if let Some(id) = claim.and_then(|claim| self.find_in(claim, owner.no, &plan.backend)) {
            self.add_route(id, route, plan, applied);
            self.on_event(id, MemberEvent::Returned, None);
            return Joined::Before;
        }
        let is_new_here = claim.is_some_and(|claim| {
            !claim.members.is_empty() && claim.members.iter().all(|member| member.terms.peer != owner.peer)
        });
        let served = claim.is_some_and(|claim| claim.has_usable());
        let state = if served { MemberState::Joining } else { MemberState::Hopeful };
        let member = self.add(owner, route, (domain, path), plan, applied, (state, claim));
        Joined::Now { member, is_new_here, is_alone }
    }

    fn add(
        &mut self,
        owner: &Owner<'_>,
        route: RouteId,
        (domain, path): (&Domain, &PathPrefix),
        plan: &Plan,
        applied: u64,
        (state, before): (MemberState, Option<&Arc<Claim>>),
    ) -> MemberId {
        let id = self.next_id();
        let says = self.says(owner, plan);
        let endpoint = Arc::new(Endpoint::new(id, plan.backend.clone()));
        let mut claim = before.map(|claim| Claim::clone(claim)).unwrap_or_else(|| Claim {
            domain: domain.clone(),
            path: path.clone(),
            terms: says.terms.clone(),
            limit: None,
            hold: Hold::default(),
            members: Members::default(),
        });
        // One that is held without members is anybody's.
        if claim.terms.service != *owner.service {
            claim.limit = None;
        }
        claim.members.push(Member {
            endpoint: endpoint.clone(),
            terms: says.terms.clone(),
            route: plan.state.clone(),
            usable: state.serves(),
        });
        let mut record = Record {
            domain: domain.clone(),
            path: path.clone(),
            route,
            earlier: Earlier::default(),
            state,
            failures: 0,
            lost: owner.lost,
            ejected: false,
            says,
            applied,
            asked: None,
            endpoint,
        };
        if record.lost
            && let Some(ip) = record.ip()
        {
            self.lost_at.entry(ip).or_default().insert(id);
        }
        record.asked = record.question().map(|probe| self.start_asking(id, probe));
        self.members.insert(id, Box::new(record));
        self.put(claim, before.map(Arc::as_ref));
        id
    }

    /// Takes a route away from the member it leads to. The member goes with its last route; once all have gone that
    /// do, [`Pools::hope`] is for those who stay.
    pub(super) fn detach(
        &mut self,
        session: SessionNo,
        route: RouteId,
        (domain, path): (&Domain, &PathPrefix),
        backend: &BackendUrl,
    ) -> Detached {
        let Some(id) = self.find(session, domain, path, backend) else { return Detached::Nothing };
        let Some(record) = self.members.get_mut(&id) else { return Detached::Nothing };
        match record.earlier.remove(&mut record.route, route) {
            Removed::Only => {
                self.remove(id, Leaving::Unwanted);
                Detached::Gone(id)
            }
            Removed::Last { before } => Detached::Shows(id, before),
            Removed::Earlier => Detached::Nothing,
        }
    }

    /// Where nobody serves any more, whoever has only just come serves at once, as the first of a claim does:
    /// a session that exchanges a backend leaves no gap.
    pub(super) fn hope(&mut self, domain: &Domain, path: &PathPrefix) {
        let Some(claim) = self.table.get(domain, path).filter(|claim| !claim.has_usable()) else { return };
        let untried = |member: &&Member| {
            self.members.get(&member.id).is_some_and(|record| record.failures == 0 && !record.lost)
        };
        let untried: Vec<MemberId> = claim.members.iter().filter(untried).map(|member| member.id).collect();
        for id in untried {
            self.on_event(id, MemberEvent::LeftAlone, None);
        }
    }

    /// Gives a member the settings of the route that it shows.
    pub(super) fn set_plan(&mut self, id: MemberId, plan: &Plan) {
        let Some(before) = self.members.get(&id).map(|record| record.says.clone()) else { return };
        let says = self.says_now(&before, plan);
        self.show_as(id, says, Some(&plan.state));
        self.ask(id);
    }

    /// Takes a member out of its claim for good.
    pub(super) fn remove(&mut self, id: MemberId, leaving: Leaving) -> Option<SessionNo> {
        let mut record = self.members.remove(&id)?;
        match leaving {
            Leaving::Ended => {
                record.endpoint.load.leave();
                self.departure = true;
            }
            Leaving::Unwanted => record.endpoint.load.close(),
        }
        self.stop_asking(id, record.asked.take());
        if let Some(ip) = record.ip() {
            self.forget_lost(ip, id);
        }
        if let Some(before) = self.table.get(&record.domain, &record.path).cloned() {
            let mut claim = Claim::clone(&before);
            claim.members.remove(id);
            match leaving {
                Leaving::Unwanted if claim.members.is_empty() => {
                    self.remove_claim(&record.domain, &record.path);
                }
                Leaving::Unwanted => self.put_unheld(claim, &before),
                Leaving::Ended => self.put(claim, Some(&before)),
            }
        }
        Some(record.says.session)
    }

    /// What a probe saw. Returns the members that answered for the first time since they joined.
    pub(super) fn probed(&mut self, probe: &Probe, result: &Result<(), String>) -> Vec<Answered> {
        // A result may still be on its way when nobody wants it any more.
        let Some(watched) = self.watched.get(probe) else { return Vec::new() };
        let mut answered = Vec::new();
        for id in watched.by.clone().iter() {
            let Some(record) = self.members.get_mut(&id) else { continue };
            let event = match result {
                Ok(()) => {
                    record.failures = 0;
                    MemberEvent::Passed
                }
                Err(_) if record.lost => MemberEvent::FailedInGrace,
                Err(_) => {
                    record.failures = record.failures.saturating_add(1);
                    if record.failures < FAILURES_OUT {
                        continue;
                    }
                    MemberEvent::FailedThrice
                }
            };
            if event == MemberEvent::Passed && record.is_new() {
                let (domain, path) = (record.domain.clone(), record.path.clone());
                answered.push(Answered { session: record.says.session, domain, path });
            }
            self.on_event(id, event, result.as_ref().err());
        }
        answered
    }

    /// The data plane leaves a member out because requests fail, or has had an answer of it again.
    pub(super) fn ejection(&mut self, id: MemberId, now: Instant) {
        let Some(record) = self.members.get_mut(&id) else { return };
        let is_out = record.endpoint.load.is_ejected(now);
        if std::mem::replace(&mut record.ejected, is_out) == is_out {
            return;
        }
        let which = record.which();
        let ejected = Happening::Ejected { which, is_out };
        self.effects.push(Effect::Happened(ejected));
    }

    /// Whether a session has a member in the claim that is still to answer: now, or when its session is back.
    pub(super) fn awaits_answer(&self, session: SessionNo, domain: &Domain, path: &PathPrefix) -> bool {
        let Some(claim) = self.table.get(domain, path) else { return false };
        let record = |member: &Member| self.members.get(&member.id);
        let mut records = claim.members.iter().filter_map(record);
        records.any(|r| r.says.session == session && (r.is_new() || r.state.waits_for_session()))
    }

    /// The one function that changes what a member is. The table, its probe and the log follow.
    fn on_event(&mut self, id: MemberId, event: MemberEvent, error: Option<&String>) {
        let Some(record) = self.members.get_mut(&id) else { return };
        let (was, is) = (record.state, record.state.next(event));
        record.state = is;
        if was.serves() != is.serves() {
            let which = record.which();
            self.effects.push(Effect::Happened(if is.serves() {
                Happening::MemberIn(which)
            } else {
                Happening::MemberOut { which, event, error: error.cloned() }
            }));
            self.show(id);
        }
        self.ask(id);
    }

    /// Asks what decides about a member now, and nothing else.
    fn ask(&mut self, id: MemberId) {
        let Some(record) = self.members.get_mut(&id) else { return };
        let wanted = record.question();
        if record.asked.as_deref() == wanted.as_ref() {
            return;
        }
        let before = record.asked.take();
        self.stop_asking(id, before);
        let Some(probe) = wanted else { return };
        let shared = self.start_asking(id, probe);
        if let Some(record) = self.members.get_mut(&id) {
            record.asked = Some(shared);
        }
    }

    fn stop_asking(&mut self, id: MemberId, probe: Option<Arc<Probe>>) {
        let Some(probe) = probe else { return };
        let Some(watched) = self.watched.get_mut(&probe) else { return };
        watched.by.remove(id);
        if watched.by.is_empty() {
            self.watched.remove(&probe);
            self.effects.push(Effect::Forget(Arc::unwrap_or_clone(probe)));
        }
    }

    /// Puts a member into its claim as it is now.
    fn show(&mut self, id: MemberId) {
        self.reshow(id, |_| {});
    }

    /// The same with what is said now, and by which route if it is another.
    fn show_as(&mut self, id: MemberId, says: Arc<Says>, route: Option<&Arc<RouteState>>) {
        if let Some(record) = self.members.get_mut(&id) {
            record.says = says;
        }
        self.reshow(id, |member| {
            if let Some(route) = route {
                member.route.clone_from(route);
            }
        });
    }

    fn reshow(&mut self, id: MemberId, change: impl FnOnce(&mut Member)) {
        let Some(record) = self.members.get(&id) else { return };
        let Some(claim) = self.table.get(&record.domain, &record.path) else { return };
        let before = claim.clone();
        let mut claim = Claim::clone(&before);
        claim.members.change_one(id, change);
        self.settle(&mut claim, Some(&before));
        let same = |(one, other): (&Member, &Member)| one.is_shown_as(other);
        let same_members = claim.members.iter().zip(&before.members).all(same);
        let figure = |claim: &Claim| claim.limit.as_ref().map(AddressLimit::figure);
        let same_claim = Arc::ptr_eq(&claim.terms, &before.terms) && figure(&claim) == figure(&before);
        if !same_members || !same_claim {
            self.put(claim, Some(&before));
        }
    }
}

/// Why a member goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// Its session is over: whoever takes its place is waited for.
    Ended,
    /// Nobody wants it any more, or somebody else has its place already.
    Unwanted,
}

/// What came of a route that is to lead to a member.
pub(super) enum Joined {
    /// Its session had one there.
    Before,
    /// There is one more.
    Now {
        /// The new one.
        member: MemberId,
        /// There are others, and none of them comes from its session's address.
        is_new_here: bool,
        /// Its host has no other claim so far.
        is_alone: bool,
    },
}

/// What became of a member that lost a route.
pub(super) enum Detached {
    /// It is as it was, or there was none.
    Nothing,
    /// That was its last route.
    Gone(MemberId),
    /// It shows the settings of this route from now on.
    Shows(MemberId, RouteId),
}
