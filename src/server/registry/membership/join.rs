//! A route gets a member in each of its claims, or gives it up. A member goes with its last route.

use std::sync::Arc;

use registry_client::protocol::{BackendUrl, Domain, PathPrefix, RouteId};

use crate::server::registry::model::{MemberEvent, MemberPlan, MemberState, Owner, SessionNo};
use crate::server::routing::{Claim, Endpoint, Hold, Member, MemberId, Members};

use super::route_list::{EarlierRoutes, Removed};
use super::{Membership, TrackedMember};

/// Why a member is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Its session is over. If it was the last one, the claim is held for a successor.
    Ended,
    /// Its session gave it up, or another session has its place. The claim is not held for it.
    Unwanted,
}

/// What came of a route that needs a member.
pub(crate) enum Joined {
    /// Its session had a member in the claim already.
    Before,
    /// There is a new member.
    Now {
        /// The new member.
        member: MemberId,
        /// The claim has other members, and none of them is from its session's address.
        is_new_here: bool,
        /// Its host has no other claim so far.
        is_alone: bool,
    },
}

/// What became of a member that lost a route.
pub(crate) enum Detached {
    /// It is as it was, or there was no such member.
    Nothing,
    /// That was its last route, so it was removed.
    Gone(MemberId),
    /// From now on it must have the settings of this route.
    Shows(MemberId, RouteId),
}

impl Membership {
    /// Leads a route to the member that its session has in the claim already. Returns false if it has none.
    pub(crate) fn attach(
        &mut self,
        owner: &Owner<'_>,
        route: RouteId,
        (domain, path): (&Domain, &PathPrefix),
        plan: &MemberPlan,
        applied: u64,
    ) -> bool {
        let Some(id) = self.find(owner.no, domain, path, &plan.backend) else { return false };
        self.add_route(id, route, plan, applied);
        self.on_event(id, MemberEvent::Returned, None);
        true
    }

    fn add_route(&mut self, id: MemberId, route: RouteId, plan: &MemberPlan, applied: u64) {
        let Some(record) = self.members.get_mut(&id) else { return };
        record.earlier.insert(&mut record.route, route);
        record.applied = applied;
        if record.route == route {
            self.set_plan(id, plan);
        } else {
            self.refresh(id);
        }
    }

    /// Leads a route to a member again, as before the restart. `serves`: a new member serves before it has answered.
    /// Otherwise it waits for its session.
    pub(crate) fn restore(
        &mut self,
        owner: &Owner<'_>,
        route: RouteId,
        place: (&Domain, &PathPrefix),
        plan: &MemberPlan,
        applied: u64,
        serves: bool,
    ) -> MemberId {
        if let Some(id) = self.find(owner.no, place.0, place.1, &plan.backend) {
            self.add_route(id, route, plan, applied);
            return id;
        }
        let state = if serves { MemberState::Provisional } else { MemberState::Dormant };
        let before = self.table.get(place.0, place.1).cloned();
        let id = self.add(owner, route, place, plan, applied, (state, before.as_ref()));
        if let Some(record) = self.members.get_mut(&id) {
            // Until its first probe says something else.
            record.answers = serves;
        }
        id
    }

    /// Leads a route to the member that its session has in the claim, or to a new one.
    pub(crate) fn join(
        &mut self,
        owner: &Owner<'_>,
        route: RouteId,
        (domain, path): (&Domain, &PathPrefix),
        plan: &MemberPlan,
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
        let state = if served { MemberState::Joining } else { MemberState::Provisional };
        let member = self.add(owner, route, (domain, path), plan, applied, (state, claim));
        Joined::Now { member, is_new_here, is_alone }
    }

    fn add(
        &mut self,
        owner: &Owner<'_>,
        route: RouteId,
        (domain, path): (&Domain, &PathPrefix),
        plan: &MemberPlan,
        applied: u64,
        (state, before): (MemberState, Option<&Arc<Claim>>),
    ) -> MemberId {
        let id = self.next_id();
        let shared = self.shared_terms(owner, plan);
        let endpoint = Arc::new(Endpoint::new(id, plan.backend.clone()));
        let mut claim = before.map(|claim| Claim::clone(claim)).unwrap_or_else(|| Claim {
            domain: domain.clone(),
            path: path.clone(),
            owns_host: self.exclusive.covers(domain),
            terms: shared.terms.clone(),
            limit: None,
            hold: Hold::default(),
            members: Members::default(),
        });
        // A claim that is held without members is free for any service.
        if claim.terms.service != *owner.service {
            claim.limit = None;
        }
        claim.members.push(Member {
            endpoint: endpoint.clone(),
            terms: shared.terms.clone(),
            route: plan.state.clone(),
            usable: state.serves(),
        });
        let mut record = TrackedMember {
            domain: domain.clone(),
            path: path.clone(),
            route,
            earlier: EarlierRoutes::default(),
            state,
            failures: 0,
            passes: 0,
            is_rejected: false,
            answers: false,
            error: None,
            lost: owner.lost,
            ejected: false,
            shared,
            applied,
            asked: None,
            endpoint,
        };
        if record.lost
            && let Some(ip) = record.ip()
        {
            self.lost_at.entry(ip).or_default().insert(id);
        }
        record.asked = record.wanted_probe().map(|probe| self.probes.start(id, probe, &mut self.effects));
        self.members.insert(id, Box::new(record));
        self.put(claim, before.map(Arc::as_ref));
        id
    }

    /// Takes a route away from its member, which is removed with its last route. When all members have been removed that an
    /// apply removes, the caller calls [`Membership::serve_untried`] for those that stay.
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
                self.remove(id, Removal::Unwanted);
                Detached::Gone(id)
            }
            Removed::Last { before } => Detached::Shows(id, before),
            Removed::Earlier => Detached::Nothing,
        }
    }

    /// Removes a member from its claim for good. Returns its session.
    pub(crate) fn remove(&mut self, id: MemberId, leaving: Removal) -> Option<SessionNo> {
        let mut record = self.members.remove(&id)?;
        match leaving {
            Removal::Ended => {
                record.endpoint.load.leave();
                self.departure = true;
            }
            Removal::Unwanted => record.endpoint.load.close(),
        }
        self.probes.stop(id, record.asked.take(), &mut self.effects);
        self.proven.changed(record.proven_at(), None);
        if let Some(ip) = record.ip() {
            self.forget_lost(ip, id);
        }
        if let Some(before) = self.table.get(&record.domain, &record.path).cloned() {
            let mut claim = Claim::clone(&before);
            claim.members.remove(id);
            match leaving {
                Removal::Unwanted if claim.members.is_empty() => {
                    self.remove_claim(&record.domain, &record.path);
                }
                Removal::Unwanted => self.put_unheld(claim, &before),
                Removal::Ended => self.put(claim, Some(&before)),
            }
        }
        Some(record.shared.session)
    }
}
