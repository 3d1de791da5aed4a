//! Claims in the table. A claim's settings, usable members and hold follow from its members.
//!
//! A claim that has lost its last usable member stays for a while, even empty, so that requests wait for a successor and no
//! shorter route takes them over (SEMANTICS section 6).

use std::sync::Arc;
use std::time::Instant;

use registry_client::protocol::{Domain, PathPrefix, RateLimit};

use crate::server::registry::model::MemberPlan;
use crate::server::routing::{AddressLimit, Claim, Drain, Member, MemberId, RouteState};

use super::{Membership, SharedTerms, TrackedMember};

/// How many claims without members are held at most. Further ones go with their last member.
const MAX_HELD: usize = 10_000;

impl Membership {
    /// When the hold of the next claim without members ends.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.held.first().map(|(until, ..)| *until)
    }

    /// Removes the claims without members whose hold is over.
    pub(crate) fn tick(&mut self) {
        let now = self.now;
        let over = |until: Instant| now.is_some_and(|now| until <= now);
        while let Some((_, domain, path)) = self.held.first().filter(|(until, ..)| over(*until)) {
            let (domain, path) = (domain.clone(), path.clone());
            self.remove_claim(&domain, &path);
        }
    }

    /// Puts a claim into the table, updated from its members, in place of what it was before.
    pub(crate) fn put(&mut self, mut claim: Claim, before: Option<&Claim>) {
        self.settle(&mut claim, before);
        self.place_claim(claim, before);
    }

    /// Puts a claim into the table whose session gave a member up. That is no loss to hold the claim for.
    pub(super) fn put_unheld(&mut self, mut claim: Claim, before: &Claim) {
        self.settle(&mut claim, Some(before));
        claim.hold.set_until(claim.hold.until().and(before.hold.until()));
        self.place_claim(claim, Some(before));
    }

    /// Holds each claim without a usable member, as after a loss. The members of a claim that was restored may all wait for
    /// their sessions.
    pub(crate) fn hold_unserved(&mut self) {
        let is_unserved = |claim: &&Arc<Claim>| !claim.has_usable() && claim.maintenance().is_none();
        let unserved: Vec<Arc<Claim>> = self.table.claims().filter(is_unserved).cloned().collect();
        for before in
            unserved.iter().filter(|claim| !claim.terms.hold.is_zero() && claim.hold.until().is_none())
        {
            let mut claim = Claim::clone(before);
            claim.hold.set_until(self.now.and_then(|now| now.checked_add(before.terms.hold)));
            self.place_claim(claim, Some(before));
        }
    }

    fn place_claim(&mut self, claim: Claim, before: Option<&Claim>) {
        self.unhold(before);
        if claim.members.is_empty() {
            let until =
                self.now.and_then(|now| claim.hold.deadline(now)).filter(|_| self.held.len() < MAX_HELD);
            let Some(until) = until else {
                self.table.remove(&claim.domain, &claim.path);
                self.dirty = true;
                return;
            };
            self.held.insert((until, claim.domain.clone(), claim.path.clone()));
        }
        let place = (!claim.has_usable()).then(|| (claim.domain.clone(), claim.path.clone()));
        self.table.put(claim);
        self.dirty = true;
        if let Some((domain, path)) = place {
            self.let_slow_serve(&domain, &path);
        }
    }

    pub(super) fn remove_claim(&mut self, domain: &Domain, path: &PathPrefix) {
        let before = self.table.get(domain, path).cloned();
        self.unhold(before.as_deref());
        self.table.remove(domain, path);
        self.dirty = true;
    }

    fn unhold(&mut self, claim: Option<&Claim>) {
        let Some(claim) = claim.filter(|claim| claim.members.is_empty()) else { return };
        if let Some(until) = claim.hold.until() {
            self.held.remove(&(until, claim.domain.clone(), claim.path.clone()));
        }
    }

    /// Updates a claim from its members: its settings, which members are usable, and whether requests wait.
    pub(crate) fn settle(&mut self, claim: &mut Claim, before: Option<&Claim>) {
        let newest = self.refresh_members(claim);
        if let Some(newest) = newest {
            let limit = newest.rare.as_deref().and_then(|rare| rare.limit);
            claim.terms.clone_from(&newest.terms);
            if claim.limit.as_ref().map(AddressLimit::figure) != limit {
                claim.limit = self.limit(claim, limit);
            }
        }
        let has_steady = claim.members.iter().any(|member| member.usable && member.terms.drain.is_none());
        claim.members.change_all(|member| self.open_or_close(member, has_steady));
        let lost = before.is_some_and(|before| before.has_usable() || before.maintenance().is_some());
        if claim.has_usable() || claim.maintenance().is_some() {
            claim.hold.set_until(None);
        } else if lost && !claim.terms.hold.is_zero() {
            // Where nobody could be connected to, requests have waited since then. That was the loss; what probes or
            // the session say of it later begins no second hold.
            let since = before.and_then(Claim::unreachable_since).or(self.now);
            claim.hold.set_until(since.and_then(|since| since.checked_add(claim.terms.hold)));
        }
    }

    /// Updates each member by itself. Returns the terms of the one that was applied last: they hold for the whole claim
    /// (SEMANTICS section 1).
    fn refresh_members(&self, claim: &mut Claim) -> Option<Arc<SharedTerms>> {
        let mut newest: Option<&TrackedMember> = None;
        claim.members.change_all(|member| {
            let Some(record) = self.members.get(&member.id) else { return };
            if newest.is_none_or(|newest| newest.applied <= record.applied) {
                newest = Some(record);
            }
            member.terms.clone_from(&record.shared.terms);
            member.usable = record.serves();
        });
        newest.map(|newest| Arc::clone(&newest.shared))
    }

    fn limit(&mut self, claim: &Claim, limit: Option<RateLimit>) -> Option<AddressLimit> {
        let limit = limit?;
        let buckets = self.buckets.get_or_insert_default();
        Some(AddressLimit::new(
            limit,
            (&claim.domain, &claim.path, &claim.terms.service),
            Arc::clone(buckets),
        ))
    }

    /// Opens or closes a member. A closed member admits no request, not even one that was matched by an older table. A
    /// drained member stays usable until its drain is over, if another member is usable that is not drained.
    fn open_or_close(&self, member: &mut Member, has_steady: bool) {
        let is_over = |drain: &Drain| !has_steady || self.now.is_some_and(|now| drain.is_over(now));
        member.usable &= !member.terms.drain.as_deref().is_some_and(is_over);
        if member.usable { member.load.open() } else { member.load.close() }
    }

    /// Gives a member the settings of its route.
    pub(crate) fn set_plan(&mut self, id: MemberId, plan: &MemberPlan) {
        let Some(before) = self.members.get(&id).map(|record| record.shared.clone()) else { return };
        let shared = self.terms_with_plan(&before, plan);
        self.refresh_as(id, shared, Some(&plan.state));
        self.ask(id);
    }

    /// Updates a member in its claim.
    pub(super) fn refresh(&mut self, id: MemberId) {
        self.update_claim(id, |_| {});
    }

    /// Updates a member in its claim with new terms, and with another route if it has one.
    pub(super) fn refresh_as(
        &mut self,
        id: MemberId,
        shared: Arc<SharedTerms>,
        route: Option<&Arc<RouteState>>,
    ) {
        if let Some(record) = self.members.get_mut(&id) {
            record.shared = shared;
        }
        self.update_claim(id, |member| {
            if let Some(route) = route {
                member.route.clone_from(route);
            }
        });
    }

    fn update_claim(&mut self, id: MemberId, change: impl FnOnce(&mut Member)) {
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
