//! A route leads to a member of its session, or no longer; a member goes with its last route.

use super::route_list::{Earlier, Removed};
use super::{Pools, Record};
use crate::server::registry::model::{MemberEvent, MemberState, Owner, Plan, SessionNo};
use crate::server::routing::{Claim, Endpoint, Hold, Member, MemberId, Members};
use registry_client::protocol::{BackendUrl, Domain, PathPrefix, RouteId};
use std::sync::Arc;

/// Why a member goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// Its session is over: whoever takes its place is waited for.
    Ended,
    /// Nobody wants it any more, or somebody else has its place already.
    Unwanted,
}

/// What came of a route that is to lead to a member.
pub(crate) enum Joined {
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
pub(crate) enum Detached {
    /// It is as it was, or there was none.
    Nothing,
    /// That was its last route.
    Gone(MemberId),
    /// It shows the settings of this route from now on.
    Shows(MemberId, RouteId),
}

impl Pools {
    /// Lets a route lead to the member that its session has in the claim already. False: it has none.
    pub(crate) fn attach(
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
    pub(crate) fn restore(
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
    pub(crate) fn join(
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
            is_rejected: false,
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
        record.asked = record.question().map(|probe| self.probes.start(id, probe, &mut self.effects));
        self.members.insert(id, Box::new(record));
        self.put(claim, before.map(Arc::as_ref));
        id
    }

    /// Takes a route away from the member it leads to. The member goes with its last route; once all have gone that
    /// do, [`Pools::hope`] is for those who stay.
    pub(crate) fn detach(
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

    /// Takes a member out of its claim for good.
    pub(crate) fn remove(&mut self, id: MemberId, leaving: Leaving) -> Option<SessionNo> {
        let mut record = self.members.remove(&id)?;
        match leaving {
            Leaving::Ended => {
                record.endpoint.load.leave();
                self.departure = true;
            }
            Leaving::Unwanted => record.endpoint.load.close(),
        }
        self.probes.stop(id, record.asked.take(), &mut self.effects);
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
}
