//! The members of all claims: who serves what, whether requests may go there, and which probes decide that (SEMANTICS
//! sections 1, 3 and 4). Sessions are known here by their numbers only.
//!
//! | file | what it does |
//! |---|---|
//! | `mod` (this) | the fields, and questions about claims and members |
//! | `join` | a route gets a member, or gives it up |
//! | `events` | how probes and its session change a member's state |
//! | `claims` | claims in the table: settings, usable members, holding |
//! | `watched_probes` | which probes are asked, and for whom |
//! | `member`, `route_list` | what is known of one member, and of the routes that lead to it |
//! | `overview` | what people are told of members |
//! | `proven` | at which addresses members of several sessions have answered |
//! | `lost`, `drain`, `maintenance` | members of lost and draining sessions, and those in maintenance |

mod claims;
mod drain;
mod events;
mod join;
mod lost;
mod maintenance;
mod member;
mod overview;
mod proven;
mod route_list;
mod watched_probes;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry_client::protocol::{BackendUrl, Domain, PathPrefix, RouteId};

use crate::server::registry::api::Effect;
use crate::server::registry::model::{ExclusiveHosts, MemberSet, SessionNo};
use crate::server::routing::{Claim, Member, MemberId, Probe, RateBuckets, Table};

pub(crate) use drain::RemainingWork;
pub(crate) use events::FirstAnswer;
pub(crate) use join::{Detached, Joined, Removal};

use member::{SharedTerms, TrackedMember};
use proven::Proven;
use watched_probes::Probes;

pub(crate) struct Membership {
    /// The time of the current input.
    now: Option<Instant>,
    /// How long a claim is held whose routes do not say it (HOLD).
    hold: Duration,
    /// Claims without members, by the time at which they go.
    held: BTreeSet<(Instant, Domain, PathPrefix)>,
    /// The hosts that belong to one service as a whole.
    exclusive: ExclusiveHosts,
    table: Table,
    /// The table has changed since it was published.
    dirty: bool,
    members: HashMap<MemberId, Box<TrackedMember>, foldhash::fast::RandomState>,
    /// The shared terms that were made last, for the next member with the same.
    last_shared: Option<Arc<SharedTerms>>,
    probes: Probes,
    /// Members whose session is lost, by the address of their backend if it is given as one.
    lost_at: HashMap<IpAddr, MemberSet>,
    /// Where members of connected sessions have answered.
    proven: Proven,
    /// The buckets of all rate limits, once there is one.
    buckets: Option<Arc<RateBuckets>>,
    last_member: u64,
    /// Members have left whose upgraded connections are to be closed.
    departure: bool,
    /// Sessions with a member that was suspended, or is not any more.
    suspensions: Vec<SessionNo>,
    effects: Vec<Effect>,
}

impl Membership {
    /// Nothing yet. `hold`: how long claims are held whose routes do not say it.
    pub(crate) fn new(hold: Duration) -> Self {
        Membership {
            now: None,
            hold,
            held: BTreeSet::new(),
            exclusive: ExclusiveHosts::default(),
            table: Table::default(),
            dirty: false,
            members: HashMap::default(),
            last_shared: None,
            probes: Probes::default(),
            lost_at: HashMap::new(),
            proven: Proven::default(),
            buckets: None,
            last_member: 0,
            departure: false,
            suspensions: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// Sets the time of the input that is handled next.
    pub(crate) fn set_time(&mut self, now: Instant) {
        self.now = Some(now);
    }

    /// Sets which hosts belong to one service as a whole, for claims from now on and those in force.
    pub(crate) fn set_exclusive(&mut self, exclusive: ExclusiveHosts) {
        self.exclusive = exclusive;
        let differs = |claim: &&Arc<Claim>| claim.owns_host != self.exclusive.covers(&claim.domain);
        let changed: Vec<Arc<Claim>> = self.table.claims().filter(differs).cloned().collect();
        for claim in changed {
            self.table.put(Claim { owns_host: !claim.owns_host, ..Claim::clone(&claim) });
            self.dirty = true;
        }
    }

    /// Whether a host belongs to one service as a whole.
    pub(crate) fn is_exclusive(&self, domain: &Domain) -> bool {
        self.exclusive.covers(domain)
    }

    /// Makes room for so many more members.
    pub(crate) fn expect(&mut self, members: usize) {
        self.members.reserve(members);
    }

    /// The table, if it has changed since the last call.
    pub(crate) fn take_table(&mut self) -> Option<Table> {
        std::mem::take(&mut self.dirty).then(|| self.table.clone())
    }

    /// Whether members have left since the last call.
    pub(crate) fn take_departure(&mut self) -> bool {
        std::mem::take(&mut self.departure)
    }

    /// The sessions whose members were suspended, or are not any more, since the last call.
    pub(crate) fn take_suspensions(&mut self) -> Vec<SessionNo> {
        std::mem::take(&mut self.suspensions)
    }

    /// The effects since the last call, in order.
    pub(crate) fn take_effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.effects.drain(..)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
            && self.probes.is_empty()
            && self.lost_at.is_empty()
            && self.proven.is_empty()
            && self.held.is_empty()
    }

    pub(crate) fn claim(&self, domain: &Domain, path: &PathPrefix) -> Option<&Arc<Claim>> {
        self.table.get(domain, path)
    }

    /// A host's claims, in the order in which they are tried.
    pub(crate) fn host(&self, domain: &Domain) -> &[Arc<Claim>] {
        self.table.host(domain)
    }

    /// Every claim that is in force.
    pub(crate) fn claims(&self) -> impl Iterator<Item = &Arc<Claim>> {
        self.table.claims()
    }

    /// The claim's members with their sessions, and whether they keep the claim although their sessions are lost.
    pub(crate) fn members<'a>(
        &'a self,
        claim: &'a Claim,
    ) -> impl Iterator<Item = (&'a Member, SessionNo, bool)> {
        claim.members.iter().filter_map(|member| {
            let record = self.members.get(&member.id)?;
            Some((member, record.shared.session, record.keeps_claim()))
        })
    }

    /// The number of the last apply of a claim's members.
    pub(crate) fn last_apply(&self, claim: &Claim) -> u64 {
        let records = claim.members.iter().filter_map(|member| self.members.get(&member.id));
        records.map(|record| record.applied).max().unwrap_or_default()
    }

    /// The members of these sessions in a claim.
    pub(crate) fn members_of(&self, sessions: &[SessionNo], claim: &Claim) -> Vec<(MemberId, SessionNo)> {
        let of = |(member, session, _): (&Member, SessionNo, bool)| (member.id, session);
        self.members(claim).map(of).filter(|(_, session)| sessions.contains(session)).collect()
    }

    /// Whether the route leads to one of these members that has answered its probe and gets requests.
    pub(crate) fn is_healthy(&self, members: &MemberSet, route: RouteId) -> bool {
        let mut records = members.iter().filter_map(|id| self.members.get(&id));
        records
            .any(|record| record.is_of(route) && record.state.serves() && !record.is_new() && !record.ejected)
    }

    /// Which claim a member is in.
    pub(crate) fn place(&self, id: MemberId) -> Option<(&Domain, &PathPrefix)> {
        self.members.get(&id).map(|record| (&record.domain, &record.path))
    }

    /// The addresses at which sessions have met with members that have answered, since the last call.
    pub(crate) fn take_met(&mut self) -> Vec<IpAddr> {
        self.proven.take_met()
    }

    /// The connected sessions with members at an address that have answered.
    pub(crate) fn proven_at(&self, ip: IpAddr) -> impl Iterator<Item = SessionNo> {
        self.proven.at(ip)
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
        let is_of = |id| self.members.get(&id).is_some_and(|record| record.shared.session == session);
        let mut members = claim.members.iter().map(|member| (member.id, &member.backend));
        members.find(|(id, other)| *other == backend && is_of(*id)).map(|(id, _)| id)
    }

    pub(crate) fn next_id(&mut self) -> MemberId {
        self.last_member += 1;
        MemberId(self.last_member)
    }

    /// Asks a probe on behalf of a maintenance request, until [`Membership::stop_waiting`] is called with the id that this
    /// returns.
    pub(crate) fn wait_for(&mut self, probe: Probe) -> MemberId {
        let waiter = self.next_id();
        self.probes.wait(waiter, probe, &mut self.effects);
        waiter
    }

    /// The maintenance request does not wait for this any more.
    pub(crate) fn stop_waiting(&mut self, waiter: MemberId) {
        self.probes.stop_waiting(waiter, &mut self.effects);
    }

    /// The ids under which maintenance requests wait for this probe.
    pub(crate) fn waiting_for(&self, probe: &Probe) -> Vec<MemberId> {
        self.probes.waiting_for(probe)
    }
}
