//! Claims that have lost their last usable member (SEMANTICS section 6): they stay for a while, even empty, so
//! that requests wait for a successor and no shorter route takes them over.

use std::sync::Arc;
use std::time::Instant;

use crate::protocol::{Domain, PathPrefix, RateLimit};
use crate::server::routing::{AddressLimit, Claim, Drain, Member};

use super::{Pools, Record, Says};

/// Claims without members that are held at once. Beyond it they go with their last member.
const MAX_HELD: usize = 10_000;

impl Pools {
    /// When the next empty claim is not held any longer.
    pub(in super::super) fn next_deadline(&self) -> Option<Instant> {
        self.held.first().map(|(until, ..)| *until)
    }

    /// Lets the empty claims go whose time is over.
    pub(in super::super) fn tick(&mut self) {
        let now = self.now;
        let over = |until: Instant| now.is_some_and(|now| until <= now);
        while let Some((_, domain, path)) = self.held.first().filter(|(until, ..)| over(*until)) {
            let (domain, path) = (domain.clone(), path.clone());
            self.remove_claim(&domain, &path);
        }
    }

    /// Puts a claim into the table as its members are now, in the place of what it was before.
    pub(super) fn put(&mut self, mut claim: Claim, before: Option<&Claim>) {
        self.settle(&mut claim, before);
        self.place_claim(claim, before);
    }

    /// Puts a claim into the table out of which somebody wanted a member: that is no loss to hold it for.
    pub(super) fn put_unheld(&mut self, mut claim: Claim, before: &Claim) {
        self.settle(&mut claim, Some(before));
        claim.hold.set_until(claim.hold.until().and(before.hold.until()));
        self.place_claim(claim, Some(before));
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
        self.table.put(claim);
        self.dirty = true;
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

    /// What follows for a claim from what its members are: its settings, who is shown as usable, and whether
    /// requests wait.
    pub(super) fn settle(&mut self, claim: &mut Claim, before: Option<&Claim>) {
        let newest = self.look_at_members(claim);
        if let Some(newest) = newest {
            let limit = newest.rare.as_deref().and_then(|rare| rare.limit);
            claim.terms.clone_from(&newest.terms);
            if claim.limit.as_ref().map(AddressLimit::figure) != limit {
                claim.limit = self.limit(claim, limit);
            }
        }
        let has_steady = claim.members.iter().any(|member| member.usable && member.terms.drain.is_none());
        claim.members.change_all(|member| self.let_in(member, has_steady));
        let lost = before.is_some_and(|before| before.has_usable() || before.maintenance().is_some());
        if claim.has_usable() || claim.maintenance().is_some() {
            claim.hold.set_until(None);
        } else if lost && !claim.terms.hold.is_zero() {
            claim.hold.set_until(self.now.and_then(|now| now.checked_add(claim.terms.hold)));
        }
    }

    /// Shows the members as they are, their siblings aside. Returns what the one applied last says, which holds for
    /// the whole claim (SEMANTICS section 1).
    fn look_at_members(&self, claim: &mut Claim) -> Option<Arc<Says>> {
        let mut newest: Option<&Record> = None;
        claim.members.change_all(|member| {
            let Some(record) = self.members.get(&member.id) else { return };
            if newest.is_none_or(|newest| newest.applied <= record.applied) {
                newest = Some(record);
            }
            member.terms.clone_from(&record.says.terms);
            member.usable = record.serves();
        });
        newest.map(|newest| Arc::clone(&newest.says))
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

    /// Opens or closes a member that serves as far as it is concerned. Nobody lets a request in at one that is not
    /// usable, not even by an older table. One that is drained serves only beside another that is not.
    fn let_in(&self, member: &mut Member, has_steady: bool) {
        let is_over = |drain: &Drain| !has_steady || self.now.is_some_and(|now| drain.is_over(now));
        member.usable &= !member.terms.drain.as_deref().is_some_and(is_over);
        if member.usable { member.load.open() } else { member.load.close() }
    }
}
