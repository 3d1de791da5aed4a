//! Claims that have lost their last usable member (SEMANTICS section 6): they stay for a while, even empty, so
//! that requests wait for a successor and no shorter route takes them over.

use std::sync::Arc;
use std::time::Instant;

use crate::protocol::{Domain, PathPrefix, RateLimit};
use crate::server::routing::{AddressLimit, Claim, Drain, Member, MemberId};

use super::{Pools, Record};

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
        if let Some(newest) = self.applied_last(claim) {
            let rare = newest.rare.as_deref();
            let (hold, limit) = (rare.and_then(|rare| rare.hold), rare.and_then(|rare| rare.limit));
            claim.priority = newest.priority;
            claim.hold.set_time(hold.unwrap_or(self.hold));
            if claim.limit.as_ref().map(AddressLimit::figure) != limit {
                claim.limit = self.limit(claim, limit);
            }
        }
        let records = || claim.members.iter().filter_map(|member| self.members.get(&member.id));
        let has_steady = records().any(|record| record.serves() && record.shown.drain.is_none());
        claim.draining = records().any(|record| record.shown.drain.is_some());
        for member in &mut claim.members {
            if let Some(shown) = self.shown(member.id, has_steady) {
                *member = shown;
            }
        }
        let lost = before.is_some_and(|before| before.has_usable() || before.maintenance().is_some());
        if claim.has_usable() || claim.maintenance().is_some() {
            claim.hold.set_until(None);
        } else if lost && !claim.hold.time().is_zero() {
            claim.hold.set_until(self.now.and_then(|now| now.checked_add(claim.hold.time())));
        }
    }

    fn limit(&mut self, claim: &Claim, limit: Option<RateLimit>) -> Option<AddressLimit> {
        let limit = limit?;
        let buckets = self.buckets.get_or_insert_default();
        Some(AddressLimit::new(limit, (&claim.domain, &claim.path, &claim.service), Arc::clone(buckets)))
    }

    /// The member as the proxy is to see it. Nobody lets a request in at one that is not usable, not even by an
    /// older table. One that is drained serves only beside another that is not.
    fn shown(&mut self, id: MemberId, has_steady: bool) -> Option<Arc<Member>> {
        let now = self.now;
        let record = self.members.get_mut(&id)?;
        let is_over = |drain: &Drain| !has_steady || now.is_some_and(|now| drain.is_over(now));
        let usable = record.serves() && !record.shown.drain.as_deref().is_some_and(is_over);
        if record.shown.usable != usable {
            record.shown = Arc::new(Member { usable, ..Member::clone(&record.shown) });
        }
        if usable {
            record.shown.load.open()
        } else {
            record.shown.load.close()
        }
        Some(record.shown.clone())
    }

    /// The settings of a whole claim are those of the member applied last (SEMANTICS section 1).
    fn applied_last(&self, claim: &Claim) -> Option<&Record> {
        let records =
            claim.members.iter().filter_map(|member| self.members.get(&member.id)).map(|record| &**record);
        records.max_by_key(|record| record.applied)
    }
}
