//! What must hold all the time, beyond the bounds of SEMANTICS section 8 (and its sections 1 and 4):
//!
//! - **Continuity.** A replica that is served and answers stays served, whatever happens to its connection, to
//!   its sidecar within the grace, and to a registry that keeps its state.
//! - **Return.** A replica to which nothing has happened for [`Plan::bound`](super::faults::Plan::bound) is served.
//! - **No dead address** is served beyond three probes; beyond one where the session is lost.
//! - **No stranger** is served in the name of a lost session once he has said that the address is his.
//! - **Grace.** What failed while its session was lost comes back with it only.
//! - **Expiry.** Nothing is left of a lost session a second after its grace.
//! - **Shutdown.** Nothing is left of a session when CLIENT_SHUTDOWN is answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use registry_client::protocol::{Host, InstanceName, Reply, ServerLine, ServiceName};
use registry_sidecar::server::registry::{ConnId, LogEvent, MemberEvent, MemberLabel, SessionLabel};
use registry_sidecar::server::routing::{Claim, Member};

use super::cast::{Place, ReplicaId, v4};
use super::server::GRACE;
use super::wire::LinkId;
use super::world::{KEEPALIVE, World};

/// Intervals of probes vary by a tenth.
const JITTER: f64 = 1.1;
/// For what takes no time in the bounds and some in a world with latencies.
const SLACK: Duration = Duration::from_millis(200);
/// The time-out of a probe that only connects.
const CONNECT_PROBE: Duration = Duration::from_secs(2);

/// What the oracle has seen.
#[derive(Default)]
pub(crate) struct Oracle {
    /// The registry's sessions, as its log tells.
    sessions: BTreeMap<u64, Seen>,
    links: BTreeMap<ConnId, LinkId>,
    /// Addresses from which two sessions were connected at once.
    shared: BTreeSet<IpAddr>,
    /// Which replicas were served at the last look, with the registry up.
    served: BTreeSet<(ReplicaId, Place)>,
    /// Since when something that may not last has lasted.
    since: BTreeMap<Wrong, Duration>,
    pub(crate) clock_jumped: bool,
    /// It looks at nothing: there is too much to see.
    pub(crate) is_blind: bool,
    /// Since when nothing was wrong with the registry or its disk.
    pub(crate) registry_quiet_since: Duration,
    pub(crate) disk_quiet_since: Duration,
    /// Members that failed, or lost their address, while their sessions were lost.
    waiting: BTreeSet<(u64, u64)>,
    /// A member came back that should not have.
    revived: Option<String>,
    up_since: Option<Duration>,
    down_since: Duration,
    /// The registry that is up remembers nothing, or does not trust what it remembers.
    forgot: bool,
    /// How often each rule had something to look at.
    pub(crate) looks: Looks,
}

/// How often each rule had something to decide.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Looks {
    pub(crate) served: u64,
    pub(crate) missing: u64,
    pub(crate) dead: u64,
    pub(crate) stranger: u64,
    pub(crate) expired: u64,
    pub(crate) shutdown: u64,
}

impl Looks {
    pub(crate) fn merge(&mut self, other: Looks) {
        self.served += other.served;
        self.missing += other.missing;
        self.dead += other.dead;
        self.stranger += other.stranger;
        self.expired += other.expired;
        self.shutdown += other.shutdown;
    }

    pub(crate) fn all_happened(&self) -> bool {
        let Looks { served, missing, dead, stranger, expired, shutdown } = *self;
        [served, missing, dead, stranger, expired, shutdown].iter().all(|count| *count > 0)
    }
}

/// A session as the registry's log shows it.
#[derive(Debug, Clone)]
struct Seen {
    service: ServiceName,
    instance: InstanceName,
    peer: IpAddr,
    /// From where it registered, and when.
    announced: Option<(IpAddr, Duration)>,
    /// `None`: it is connected.
    lost_since: Option<Duration>,
    replaced: bool,
}

/// What may not last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Wrong {
    Missing(ReplicaId, Place),
    Dead(u64),
    Stranger(u64),
}

impl Oracle {
    pub(crate) fn connected(&mut self, conn: ConnId, link: LinkId) {
        self.links.insert(conn, link);
    }

    pub(crate) fn registry_down(&mut self, now: Duration, forgets: bool) {
        self.up_since = None;
        self.down_since = now;
        self.forgot |= forgets;
        self.since.clear();
        self.waiting.clear();
        if forgets {
            self.sessions.clear();
        }
    }

    /// It is up again, with the sessions that were on its disk.
    pub(crate) fn registry_up(&mut self, now: Duration, on_disk: &BTreeSet<u64>) {
        self.up_since = Some(now);
        self.sessions.retain(|no, _| on_disk.contains(no));
        // Nobody is connected to it yet, and every grace begins anew.
        for session in self.sessions.values_mut() {
            session.lost_since = Some(now);
        }
        // State as old as that is not trusted at once; the margin is the disk's heartbeat.
        self.forgot |= now - self.down_since > GRACE / 2 || self.clock_jumped;
    }

    pub(crate) fn happened(&mut self, now: Duration, event: &LogEvent) {
        match event {
            LogEvent::Registered(who, peer) => self.bound(now, who, *peer, true),
            LogEvent::Resumed(who, peer) => self.bound(now, who, *peer, false),
            LogEvent::Lost(who, _) => {
                if let Some(seen) = self.sessions.get_mut(&who.no.0) {
                    seen.lost_since = Some(now);
                }
            }
            LogEvent::Replaced(who, _) => {
                if let Some(seen) = self.sessions.get_mut(&who.no.0) {
                    seen.replaced = true;
                    seen.lost_since.get_or_insert(now);
                }
            }
            LogEvent::ShutDown(who) | LogEvent::Expired(who) => drop(self.sessions.remove(&who.no.0)),
            LogEvent::MemberOut { which: MemberLabel { session, endpoint, .. }, event, .. } => {
                if matches!(event, MemberEvent::FailedInGrace | MemberEvent::AddressTaken) {
                    self.waiting.insert((session.0, endpoint.id.0));
                }
            }
            LogEvent::MemberIn(MemberLabel { session, endpoint, domain, path, .. })
                if self.waiting.contains(&(session.0, endpoint.id.0)) =>
            {
                let what = format!("{domain}{path} leads to {} again", endpoint.backend);
                self.revived = Some(format!("{what}, without its session #{}", session.0));
            }
            _ => {}
        }
    }

    fn bound(&mut self, now: Duration, who: &SessionLabel, peer: IpAddr, anew: bool) {
        let others = self.sessions.iter().filter(|(no, _)| **no != who.no.0);
        if others.map(|(_, seen)| seen).any(|seen| seen.lost_since.is_none() && seen.peer == peer) {
            self.shared.insert(peer);
        }
        let (service, instance) = (who.service.clone(), who.instance.clone());
        self.waiting.retain(|(session, _)| *session != who.no.0);
        let before = self.sessions.get(&who.no.0).and_then(|seen| seen.announced);
        let announced = if anew { Some((peer, now)) } else { before };
        let seen = Seen { service, instance, peer, announced, lost_since: None, replaced: false };
        self.sessions.insert(who.no.0, seen);
    }

    /// Since when the sessions that this member may be of are all without a connection. `None`: one has one.
    fn lost_since(&self, service: &ServiceName, member: &Member) -> Option<Duration> {
        let mut lost = Duration::ZERO;
        for seen in self.sessions.values() {
            if seen.service == *service
                && seen.instance == member.terms.instance
                && seen.peer == member.terms.peer
            {
                lost = lost.max(seen.lost_since?);
            }
        }
        Some(lost.max(self.up_since.unwrap_or_default()))
    }

    /// Whatever was true of a replica is no longer.
    pub(crate) fn forget(&mut self, id: ReplicaId) {
        self.served.retain(|(served, _)| *served != id);
    }

    /// How long something has lasted.
    fn lasts(&mut self, wrong: Wrong, now: Duration) -> Duration {
        now - *self.since.entry(wrong).or_insert(now)
    }
}

impl World {
    /// Looks at everything.
    pub(crate) fn observe(&mut self) {
        if self.server.core.is_none() || self.failure.is_some() || self.oracle.is_blind {
            return;
        }
        if let Some(what) = self.oracle.revived.take() {
            self.fail(what);
        }
        let served = self.look_at_members();
        self.look_at_continuity(&served);
        self.look_at_returns(&served);
        self.look_at_expiry();
        self.oracle.served = served;
        self.oracle.forgot = false;
    }

    /// Who is served, and who should not be.
    fn look_at_members(&mut self) -> BTreeSet<(ReplicaId, Place)> {
        let table = self.server.table.clone();
        let mut served = BTreeSet::new();
        let mut wrong = BTreeSet::new();
        for claim in table.claims() {
            for member in claim.members.iter().filter(|member| member.usable) {
                let Host::Ip(ip) = member.backend.host() else { continue };
                let address = v4(*ip);
                match self.answers(address) {
                    Some(Ok(replica)) if self.replicas[replica].service == claim.terms.service => {
                        // Maybe in the name of a sibling that had the address before.
                        if self.replicas[replica].instance == member.terms.instance {
                            served.insert((replica, (claim.domain.clone(), claim.path.clone())));
                        }
                    }
                    Some(Ok(stranger)) => {
                        wrong.insert(Wrong::Stranger(member.id.0));
                        self.look_at_stranger(claim, member, address, stranger);
                    }
                    _ => {
                        wrong.insert(Wrong::Dead(member.id.0));
                        self.look_at_dead(claim, member);
                    }
                }
            }
        }
        let missing = |which: &Wrong| matches!(which, Wrong::Missing(..));
        self.oracle.since.retain(|which, _| missing(which) || wrong.contains(which));
        served
    }

    fn look_at_stranger(&mut self, claim: &Claim, member: &Member, address: Ipv4Addr, stranger: ReplicaId) {
        self.oracle.looks.stranger += 1;
        let lasted = self.oracle.lasts(Wrong::Stranger(member.id.0), self.now);
        let name = format!("{}{} leads to a stranger at {address}", claim.domain, claim.path);
        // A peer that is gone without a word is found by TCP keepalive.
        let bound = self.plan.bound().max(KEEPALIVE + SLACK);
        if let Some(lost) = self.oracle.lost_since(&claim.terms.service, member) {
            let is_shared = self.oracle.shared.contains(&IpAddr::V4(address));
            if self.has_announced(stranger, address, lost) && !is_shared {
                self.fail(format!("{name}, who said so, while its session is lost"));
            }
        } else if lasted > bound && self.is_quiet_for(bound, &claim.terms.service) {
            self.fail(format!("{name} for {lasted:?}"));
        }
    }

    /// Whether a replica has registered with this registry from an address since then. Naming it as a backend says nothing:
    /// anybody can.
    fn has_announced(&self, stranger: ReplicaId, address: Ipv4Addr, since: Duration) -> bool {
        let replica = &self.replicas[stranger];
        self.oracle.sessions.values().any(|seen| {
            seen.service == replica.service
                && seen.instance == replica.instance
                && seen.announced.is_some_and(|(from, at)| from == IpAddr::V4(address) && at > since)
                && seen.lost_since.is_none()
        })
    }

    fn look_at_dead(&mut self, claim: &Claim, member: &Member) {
        self.oracle.looks.dead += 1;
        let lasted = self.oracle.lasts(Wrong::Dead(member.id.0), self.now);
        let check = self.check_of(claim, member);
        let allowed = match (self.oracle.lost_since(&claim.terms.service, member), check) {
            (Some(lost), check) => {
                // One probe decides; it may be that one began before the loss, or before the death.
                let timeout = check.map_or(CONNECT_PROBE, |(_, timeout)| timeout);
                let counted = lasted.min(self.now - lost);
                let longest = Duration::from_secs(1).mul_f64(JITTER) + timeout + SLACK;
                (counted > longest).then_some(longest)
            }
            (None, Some((interval, timeout))) => {
                let longest = (interval.mul_f64(JITTER) + timeout) * 3 + SLACK;
                (lasted > longest).then_some(longest)
            }
            // Nobody asks; the first failed request finds out.
            (None, None) => None,
        };
        if let Some(allowed) = allowed {
            let name = format!("{}{} leads to {}", claim.domain, claim.path, member.backend);
            self.fail(format!("{name}, where nobody is, for {lasted:?} (allowed: {allowed:?})"));
        }
    }

    /// The slowest check that the member's route may have.
    fn check_of(&self, claim: &Claim, member: &Member) -> Option<(Duration, Duration)> {
        let replica = self.replicas.iter().find(|replica| replica.instance == member.terms.instance)?;
        let quiet = self.now - replica.quiet_since.min(self.now) > self.plan.bound();
        let place = (claim.domain.clone(), claim.path.clone());
        let wish = replica.wishes.values().find(|wish| wish.place() == place)?;
        let check = wish.check.as_ref().filter(|_| quiet)?;
        Some((check.interval.get(), check.timeout.get()))
    }

    /// A replica that was served and answers is served.
    fn look_at_continuity(&mut self, served: &BTreeSet<(ReplicaId, Place)>) {
        if self.oracle.forgot {
            return;
        }
        let before: Vec<_> = self.oracle.served.difference(served).cloned().collect();
        for (id, place) in before {
            let replica = &self.replicas[id];
            let wanted = replica.recent.iter().all(|places| places.contains(&place));
            let steady = replica.steady_since + Duration::from_secs(2) < self.now;
            // On its way from one address to another, it is enough that a sibling serves.
            let moves = replica.addresses.len() > 1;
            let by_sibling = |(other, at): &(ReplicaId, Place)| {
                *at == place && self.replicas[*other].service == replica.service
            };
            // Whom its present session replaced went with his own grace: that one has applied nothing yet.
            let over = |seen: &Seen| {
                seen.replaced
                    && seen.instance == replica.instance
                    && seen.lost_since.is_some_and(|lost| self.now >= lost + GRACE)
            };
            let excused = moves && served.iter().any(by_sibling) || self.oracle.sessions.values().any(over);
            let steady = steady && replica.has_applied && !replica.contests;
            if replica.answers() && steady && wanted && replica.twin.is_none() && !excused {
                let members = self.members_at(&place);
                self.fail(format!("replica {id} answers and lost {}{}: {members}", place.0, place.1));
            }
        }
        self.oracle.looks.served += served.len() as u64;
    }

    /// Who stands in a claim, for a failure's message.
    fn members_at(&self, place: &Place) -> String {
        let members = self.server.table.get(&place.0, &place.1).map(|claim| claim.members.clone());
        let shown = |member: &Member| {
            format!("{} at {} usable: {}", member.terms.instance, member.backend, member.usable)
        };
        members.unwrap_or_default().iter().map(shown).collect::<Vec<_>>().join(", ")
    }

    /// Whoever has had nothing wrong for a while is served.
    fn look_at_returns(&mut self, served: &BTreeSet<(ReplicaId, Place)>) {
        let bound = self.plan.bound();
        for id in 0..self.replicas.len() {
            self.settle_recent(id);
            for place in self.replicas[id].places() {
                let wrong = Wrong::Missing(id, place.clone());
                let is_due = self.is_expected(id, &place) && !served.contains(&(id, place.clone()));
                if !is_due {
                    self.oracle.since.remove(&wrong);
                    continue;
                }
                self.oracle.looks.missing += 1;
                let lasted = self.oracle.lasts(wrong, self.now);
                if lasted > bound && self.is_quiet(id, bound) {
                    let name = format!("replica {id} without {}{}", place.0, place.1);
                    return self.fail(format!("{name} for {lasted:?} (allowed: {bound:?})"));
                }
            }
        }
    }

    /// Forgets what was wanted before everything wanted was in force.
    fn settle_recent(&mut self, id: ReplicaId) {
        if self.replicas[id].recent.len() < 2 {
            return;
        }
        let proc = self.replicas[id].sidecar;
        if proc.and_then(|proc| self.procs.get(&proc)).is_some_and(super::cast::Sidecar::is_live) {
            let recent = &mut self.replicas[id].recent;
            recent.drain(..recent.len() - 1);
            self.replicas[id].contests = self.replicas[id].wishes.contains_key("contest");
        }
    }

    /// Whether the replica can be expected to have this claim.
    fn is_expected(&self, id: ReplicaId, place: &Place) -> bool {
        let replica = &self.replicas[id];
        let sidecar = replica.sidecar.and_then(|proc| self.procs.get(&proc));
        let knows = sidecar.is_some_and(|sidecar| Some(sidecar.believes) == replica.address());
        let leaving = sidecar.is_some_and(|sidecar| sidecar.leaving_since.is_some());
        let claim = self.server.table.get(&place.0, &place.1);
        let taken =
            claim.is_some_and(|claim| claim.terms.service != replica.service && !claim.members.is_empty());
        replica.answers() && knows && !leaving && replica.twin.is_none() && !taken
    }

    /// Whether nothing has happened to the replica, the registry or the disk for so long.
    fn is_quiet(&self, id: ReplicaId, time: Duration) -> bool {
        let replica = &self.replicas[id];
        let quiet_since = replica.quiet_since.max(self.oracle.registry_quiet_since);
        self.now > quiet_since + time
    }

    fn is_quiet_for(&self, time: Duration, service: &ServiceName) -> bool {
        let of_service = |id: &ReplicaId| self.replicas[*id].service == *service;
        (0..self.replicas.len()).filter(of_service).all(|id| self.is_quiet(id, time))
    }

    /// Nothing is left of a session whose grace is over.
    fn look_at_expiry(&mut self) {
        let now = self.now;
        if now < self.oracle.disk_quiet_since + GRACE {
            return;
        }
        let over = |seen: &Seen| {
            seen.lost_since.is_some_and(|lost| now > lost + GRACE + Duration::from_secs(1) + SLACK)
        };
        let late = self.oracle.sessions.iter().find(|(_, seen)| over(seen) && !seen.replaced);
        if let Some((no, seen)) = late {
            let name = format!("session #{no} ({}/{})", seen.service, seen.instance);
            self.fail(format!("{name}, lost at {:?}, has not expired", seen.lost_since));
        }
        self.oracle.looks.expired += 1;
    }

    /// A line to a client.
    pub(crate) fn answered(&mut self, conn: ConnId, line: &ServerLine) {
        if !matches!(line, ServerLine::Reply(Reply::ShutdownOk)) {
            return;
        }
        let proc = self.oracle.links.get(&conn).and_then(|link| self.links.get(link)).map(|link| link.proc);
        let Some(sidecar) = proc.and_then(|proc| self.procs.get(&proc)) else { return };
        let replica = &self.replicas[sidecar.replica];
        let (service, peer) = (&replica.service, replica.sidecar_address().map(IpAddr::V4));
        let of_it =
            |member: &&Member| member.terms.instance == replica.instance && Some(member.terms.peer) == peer;
        let claims = self.server.table.claims().filter(|claim| claim.terms.service == *service);
        let left = claims.filter(|claim| claim.members.iter().any(|member| of_it(&member))).count();
        // Whom it replaced serves until its own grace ends, if it did not come to replace that one.
        let elder = self
            .oracle
            .sessions
            .values()
            .any(|seen| seen.replaced && seen.service == *service && seen.instance == replica.instance);
        self.oracle.looks.shutdown += 1;
        if left > 0 && !elder {
            self.fail(format!("{} has left and still has {left} claims", replica.instance));
        }
    }
}
