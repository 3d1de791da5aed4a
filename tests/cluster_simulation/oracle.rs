//! What must hold.
//!
//! - **One table.** Which members a follower has is a function of the records at its revision. The function here knows
//!   nothing of how the registry comes to its table.
//! - **An OK is true.** What an apply was answered for is held.
//! - **Continuity.** Who is served and answers stays served at every replica that has a table, whoever leads.
//! - **In the end** every wanted route, and nothing else, is held, and served by all replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use registry_sidecar::server::registry::persist::{SavedSession, SavedState};
use registry_sidecar::server::routing::Table;

use super::replica::{Belief, Replica};
use super::world::World;

/// How long a replica may take to hear of something, and to find a member that answers.
const SLACK: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(crate) struct Oracle {
    /// When it was last looked whether anybody answers clients.
    looked: Duration,
    /// The members at each revision.
    members: BTreeMap<u64, Vec<String>>,
    /// How often each rule had something to look at.
    pub(crate) looks: Looks,
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Looks {
    pub(crate) tables: u64,
    pub(crate) applies: u64,
    pub(crate) served: u64,
}

impl Looks {
    pub(crate) fn merge(&mut self, other: Looks) {
        self.tables += other.tables;
        self.applies += other.applies;
        self.served += other.served;
    }
}

impl World {
    /// etcd has a new revision.
    pub(crate) fn note_revision(&mut self) {
        let members = members_of_records(&self.etcd.state);
        self.oracle.members.insert(self.etcd.revision, members);
    }

    /// A replica has published a table.
    pub(crate) fn judge_table(&mut self, at: usize) {
        self.judge_continuity(at);
        let replica = &self.replicas[at];
        let Some(core) = replica.core.as_ref().filter(|_| !replica.leads()) else { return };
        let revision = core.store_revision().0;
        let Some(wanted) = self.oracle.members.get(&revision) else { return };
        self.oracle.looks.tables += 1;
        let has = members_of_table(&replica.table);
        if has != *wanted {
            let why =
                format!("replica {at} at revision {revision} has {has:#?}, the records say {wanted:#?}");
            self.fail(why);
        }
    }

    /// What has changed for a client has to come to all replicas first.
    pub(crate) fn excuse(&mut self, at: usize) {
        let client = &mut self.clients[at];
        client.excused_until = client.excused_until.max(self.now + SLACK);
    }

    /// Where nobody answers clients, nobody can come back, so excuses last for longer: a member that failed while its
    /// session was lost waits for the session.
    pub(crate) fn stretch_excuses(&mut self) {
        let before = std::mem::replace(&mut self.oracle.looked, self.now);
        let answers = |replica: &Replica| {
            matches!(replica.belief, Belief::Leads { proof, .. } if self.now < proof)
                && replica.core.is_some()
        };
        if self.replicas.iter().any(answers) {
            return;
        }
        for client in self.clients.iter_mut().filter(|client| client.excused_until > before) {
            client.excused_until += self.now - before;
        }
    }

    /// An apply was answered with OK.
    pub(crate) fn judge_apply(&mut self, at: usize, domains: &BTreeSet<String>) {
        self.oracle.looks.applies += 1;
        self.excuse(at);
        let client = &self.clients[at];
        let own = |saved: &&SavedSession| saved.session.instance.as_str() == client.instance;
        let held = self.etcd.state.sessions.iter().filter(own).max_by_key(|saved| saved.session.no);
        let held: BTreeSet<String> = held
            .into_iter()
            .flat_map(|saved| saved.routes.values())
            .flat_map(|route| route.domains.as_slice().iter().map(ToString::to_string))
            .collect();
        if held != *domains {
            let why =
                format!("{} was told that {domains:?} are in force, held are {held:?}", client.instance);
            self.fail(why);
        }
    }

    /// A drain was answered, or its end: it is held.
    pub(crate) fn judge_drain(&mut self, at: usize) {
        let client = &self.clients[at];
        let own = |saved: &&SavedSession| saved.session.instance.as_str() == client.instance;
        let held = self.etcd.state.sessions.iter().filter(own).max_by_key(|saved| saved.session.no);
        if held.is_some_and(|saved| saved.marks.drain.is_some() != client.drains) {
            let why =
                format!("{} was told that it drains: {}, held is {held:?}", client.instance, client.drains);
            self.fail(why);
        }
    }

    /// Whoever is served and answers stays served.
    fn judge_continuity(&mut self, at: usize) {
        let replica = &self.replicas[at];
        if replica.ready_since.is_none_or(|since| self.now < since + SLACK)
            || replica.cut_off_until + SLACK > self.now
            || replica.paused_until + SLACK > self.now
            || self.etcd.is_away
        {
            return;
        }
        for client in &self.clients {
            let is_hidden = client.wants_drain || client.drains || client.wants_page || client.has_page;
            let is_hidden = is_hidden || client.is_leaving();
            let has_its_wish = client.applied.as_ref() == Some(&client.wants);
            if client.excused_until > self.now || is_hidden || !has_its_wish || !client.is_up {
                continue;
            }
            for domain in &client.wants {
                let claim = replica.table.get(&domain.parse().unwrap(), &"/".parse().unwrap());
                let mut members = claim.iter().flat_map(|claim| &claim.members);
                self.oracle.looks.served += 1;
                if !members.any(|member| member.usable && member.backend.to_string() == client.backend()) {
                    let why =
                        format!("{} is not served for {domain} at replica {at}: {claim:?}", client.instance);
                    return self.fail(why);
                }
            }
        }
    }

    /// Everything is healed, and time has passed.
    pub(crate) fn judge_end(&mut self) -> Result<(), String> {
        let held = members_of_records(&self.etcd.state);
        let mut wanted = Vec::new();
        for client in &self.clients {
            if !client.is_settled() {
                return Err(format!("{} is not settled: {:?}", client.instance, client.asked));
            }
            for domain in &client.wants {
                wanted.push(format!("{domain}/ {} {}", client.instance, client.backend()));
            }
        }
        wanted.sort();
        if held != wanted {
            return Err(format!("held are {held:#?}, wanted {wanted:#?}"));
        }
        if let Some(saved) = self.etcd.state.sessions.iter().find(|saved| saved.marks.lost.is_some()) {
            return Err(format!("{} is marked as lost", saved.session.instance));
        }
        for (at, replica) in self.replicas.iter().enumerate() {
            let has = members_of_table(&replica.table);
            if has != wanted {
                return Err(format!("replica {at} has {has:#?}, wanted {wanted:#?}"));
            }
            let unusable =
                replica.table.claims().flat_map(|claim| &claim.members).find(|member| !member.usable);
            if let Some(member) = unusable {
                return Err(format!("replica {at} does not serve {member:?}"));
            }
        }
        let leaders = self.replicas.iter().filter(|replica| replica.leads()).count();
        if leaders == 1 { Ok(()) } else { Err(format!("{leaders} replicas lead")) }
    }
}

/// Which members the records lead to, as naively as can be: route by route in the order of their applies, a claim
/// belongs to the service that came last.
fn members_of_records(state: &SavedState) -> Vec<String> {
    let mut routes = Vec::new();
    for saved in &state.sessions {
        for (id, route) in &saved.routes {
            routes.push((route.applied, saved.session.no, *id, saved, route));
        }
    }
    routes.sort_by_key(|(applied, no, id, ..)| (*applied, *no, *id));
    let mut claims: BTreeMap<String, (String, BTreeSet<(u64, String)>)> = BTreeMap::new();
    for (_, no, _, saved, route) in routes {
        for domain in route.domains.as_slice() {
            let is_here = |place: &&registry_sidecar::server::registry::persist::PlaceRecord| {
                place.domain == *domain && place.path == route.path
            };
            if saved.marks.superseded.iter().find(is_here).is_some() {
                continue;
            }
            let service = saved.session.service.to_string();
            let claim = claims.entry(format!("{domain}{}", route.path)).or_default();
            if claim.0 != service {
                *claim = (service, BTreeSet::new());
            }
            let drains = if saved.marks.drain.is_some() { " drains" } else { "" };
            let page = if saved.maintenance.all.is_some() { " page" } else { "" };
            claim.1.insert((no, format!("{} {}{drains}{page}", saved.session.instance, route.backend)));
        }
    }
    let member = |(claim, (_, members)): (String, (String, BTreeSet<(u64, String)>))| {
        members.into_iter().map(move |(_, member)| format!("{claim} {member}")).collect::<Vec<_>>()
    };
    let mut all: Vec<String> = claims.into_iter().flat_map(member).collect();
    all.sort();
    all
}

/// Which members a table has, whether or not they serve.
fn members_of_table(table: &Table) -> Vec<String> {
    let mut all = Vec::new();
    for claim in table.claims() {
        for member in &claim.members {
            let drains = if member.terms.drain.is_some() { " drains" } else { "" };
            let (instance, backend) = (&member.terms.instance, &member.backend);
            let page = if member.terms.extras.maintenance().is_some() { " page" } else { "" };
            all.push(format!("{}{} {instance} {backend}{drains}{page}", claim.domain, claim.path));
        }
    }
    all.sort();
    all
}
