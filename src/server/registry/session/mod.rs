//! A session: who registered, what it has applied and staged, its drain and its maintenance.
//!
//! This is state and what follows from it. The engine decides when it changes. Nothing here sends a line, sets a timer or
//! touches a member.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod` (this) | one session |
//! | `index` | all sessions, and the ways to find one |
//! | `stage`, `diff` | changes that are not applied yet, and CONFIG_DIFF's reply about them |
//! | `usage` | how many sessions there are, and how much they stage, by address |
//! | `route_ids` | the counter of its route ids |
//! | `targets` | the routes that a command's target means |
//! | `drain`, `maintenance` | the state of its drain and of its maintenance |

mod diff;
mod drain;
mod index;
mod maintenance;
mod route_ids;
mod stage;
mod targets;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use registry_client::protocol::{Domain, Metadata, PathPrefix, Registration, RouteId, RouteSpec, SessionId};

use crate::server::registry::model::{
    Applied, CompactSettings, ConnId, IdHash, Keepalive, MemberPlan, MemberSet, Now, Owner, RouteSettings,
    ServiceToken, SessionLabel, SessionNo, SessionState, Tx, address_of,
};
use crate::server::registry::persist::{PlaceRecord, SessionMarks, SessionRecord};

pub(crate) use drain::Draining;
pub(crate) use index::SessionIndex;
pub(crate) use maintenance::{
    ActiveMaintenance, ExitProgress, MaintenanceRequest, MaintenanceState, PendingEntry, Place,
    StoredMaintenance,
};
pub(crate) use route_ids::RouteIds;
pub(crate) use stage::{Stage, Staged, cost};
pub(crate) use targets::targets;

/// One registration of one instance.
pub(crate) struct Session {
    pub(crate) no: SessionNo,
    identity: Identity,
    /// Without the secrets that came with it.
    pub(crate) registration: Registration,
    /// Its service's token, if it gave one itself.
    service_token: Option<ServiceToken>,
    /// The address that it is bound from, or was last. It decides what the session's backends may be.
    pub(crate) peer: IpAddr,
    pub(crate) state: SessionState,
    pub(crate) conn: Option<ConnId>,
    /// The newest session that replaced it.
    pub(crate) replaced_by: Option<SessionNo>,
    /// The sessions that it replaced, oldest first, as long as they are known.
    pub(crate) predecessors: Vec<SessionNo>,
    /// Since when it is not bound, unless it is.
    pub(crate) lost: Option<Lost>,
    /// It was bound from another address than that of its record.
    pub(crate) is_rebound: bool,
    /// The claims in which another session serves in its place.
    pub(crate) superseded: BTreeSet<PlaceRecord>,
    /// Its marks, as far as the store is known to hold them.
    pub(crate) marks: SessionMarks,
    /// One of its backends has answered, so its predecessors are not needed any more.
    pub(crate) answered: bool,
    /// Another service took a claim over while the session was lost, so it has to register again.
    pub(crate) lost_claim: bool,
    /// For each address at which it has met others with backends that answer, the oldest of them (SEMANTICS section 4).
    kin: BTreeMap<IpAddr, SessionNo>,
    /// The store has yet to be told of some of them.
    pub(crate) has_new_kin: bool,
    pub(crate) applied: BTreeMap<RouteId, Applied>,
    pub(crate) defaults: CompactSettings,
    /// The number of the apply that set `defaults`.
    pub(crate) defaults_applied: u64,
    pub(crate) revision: u64,
    pub(crate) ids: RouteIds,
    pub(crate) stage: Stage,
    /// How many bytes of its stage are counted in the index.
    counted_stage: usize,
    pub(crate) members: MemberSet,
    pub(crate) drain: Option<Draining>,
    pub(crate) maintenance: MaintenanceState,
    /// It entered maintenance for other sessions, which ends with it.
    pub(crate) keeps_others_in_maintenance: bool,
    /// A change of it that the store has not decided on. Commands wait for the decision.
    pub(crate) pending: Option<Tx>,
    /// The connections whose commands wait for `pending`.
    pub(crate) waiting: Vec<ConnId>,
    pub(crate) connected_at: Now,
    last_activity: SystemTime,
    /// Lets its connection answer PINGs while the session is bound there.
    keepalive: Option<(ConnId, Arc<Keepalive>)>,
    pub(crate) last_apply: Option<SystemTime>,
}

/// That a session is lost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lost {
    /// Since when.
    pub(crate) at: Now,
    /// A new leader has given it the least time that it gets.
    pub(crate) is_prolonged: bool,
}

/// What is known of a session's id.
enum Identity {
    Known(SessionId),
    /// It was restored, and its client has not sent the id yet.
    Hashed(IdHash),
}

impl Session {
    /// Its id. It is not known of a restored session until its client has sent it.
    pub(crate) fn id(&self) -> Option<&SessionId> {
        match &self.identity {
            Identity::Known(id) => Some(id),
            Identity::Hashed(_) => None,
        }
    }

    /// Notes that a command for it came at `now`.
    pub(crate) fn touch(&mut self, now: Now) {
        self.last_activity = now.wall;
    }

    /// When a command for it came last, PINGs that its connection answered included.
    pub(crate) fn last_activity(&self) -> SystemTime {
        let answered = self.keepalive.as_ref().and_then(|(_, keepalive)| keepalive.last());
        answered.map_or(self.last_activity, |answered| answered.max(self.last_activity))
    }

    /// Lets the connection that it is bound to answer its PINGs, which no other does. `None`: it is not bound, or its id is
    /// not known yet.
    pub(crate) fn start_keepalive(&mut self) -> Option<Arc<Keepalive>> {
        let (conn, id) = (self.conn?, self.id()?.clone());
        if self.state != SessionState::Connected {
            return None;
        }
        let keepalive = Keepalive::start(id);
        self.keepalive = Some((conn, Arc::clone(&keepalive)));
        Some(keepalive)
    }

    /// Its connection does not answer PINGs any more. Returns the connection.
    pub(crate) fn stop_keepalive(&mut self) -> Option<ConnId> {
        self.last_activity = self.last_activity();
        let (conn, keepalive) = self.keepalive.take()?;
        keepalive.stop();
        Some(conn)
    }

    fn id_hash(&self) -> IdHash {
        match &self.identity {
            Identity::Known(id) => IdHash::of(id),
            Identity::Hashed(hash) => *hash,
        }
    }

    /// Its record after its next apply.
    pub(crate) fn record(&self, now: Now) -> SessionRecord {
        let Registration { service, instance, maintenance_port, metadata } = &self.registration;
        SessionRecord {
            no: self.no.0,
            id_sha256: self.id_hash(),
            service: service.clone(),
            instance: instance.clone(),
            maintenance_port: *maintenance_port,
            metadata: metadata.without_secrets(),
            service_token_hash: self.service_token.clone(),
            peer: self.peer,
            shared_address: false,
            revision: self.revision + 1,
            last_route: self.ids.given(),
            connected_at: self.connected_at.wall,
            last_apply: now.wall,
            defaults: RouteSettings::clone(&self.defaults),
            defaults_applied: self.defaults_applied,
            replaced: Vec::new(),
            kin: self.kin.iter().map(|(ip, oldest)| (*ip, oldest.0)).collect(),
        }
    }

    /// A session that was just registered, or restored.
    fn new(no: SessionNo, identity: Identity, registration: Registration, peer: IpAddr, at: Now) -> Self {
        Session {
            no,
            identity,
            registration: Registration {
                metadata: Metadata::new(registration.metadata.without_secrets()),
                ..registration
            },
            service_token: None,
            peer,
            state: SessionState::Grace,
            conn: None,
            replaced_by: None,
            predecessors: Vec::new(),
            lost: None,
            is_rebound: false,
            superseded: BTreeSet::new(),
            marks: SessionMarks::default(),
            answered: false,
            lost_claim: false,
            kin: BTreeMap::new(),
            has_new_kin: false,
            applied: BTreeMap::new(),
            defaults: CompactSettings::default(),
            defaults_applied: 0,
            revision: 0,
            ids: RouteIds::default(),
            stage: Stage::default(),
            counted_stage: 0,
            members: MemberSet::default(),
            drain: None,
            maintenance: MaintenanceState::default(),
            keeps_others_in_maintenance: false,
            pending: None,
            waiting: Vec::new(),
            connected_at: at,
            last_activity: at.wall,
            keepalive: None,
            last_apply: None,
        }
    }

    pub(crate) fn label(&self) -> SessionLabel {
        let r = &self.registration;
        SessionLabel { no: self.no, service: r.service.clone(), instance: r.instance.clone() }
    }

    pub(crate) fn owner(&self) -> Owner<'_> {
        Owner {
            no: self.no,
            service: &self.registration.service,
            instance: &self.registration.instance,
            peer: self.peer,
            lost: !self.state.is_bound(),
            drain: self.drain.map(|draining| draining.drain),
        }
    }

    /// Forgets what was entered for routes that do not exist any more.
    pub(crate) fn forget_unknown_maintenance(&mut self) {
        let mut maintenance = std::mem::take(&mut self.maintenance);
        maintenance.retain_routes(|id| self.spec(id).is_some() || self.applied.contains_key(&id));
        self.maintenance = maintenance;
    }

    /// Whether another session serves in its place there.
    pub(crate) fn is_superseded(&self, domain: &Domain, path: &PathPrefix) -> bool {
        self.superseded.iter().any(|place| place.domain == *domain && place.path == *path)
    }

    /// It and the sessions that it replaced: the same instance over time.
    pub(crate) fn lineage(&self) -> Vec<SessionNo> {
        self.predecessors.iter().copied().chain([self.no]).collect()
    }

    /// Forgets its kin at addresses at which it has no backend any more.
    pub(crate) fn forget_left_kin(&mut self) {
        let backends = self.applied.values().map(|applied| &applied.route.spec.backend);
        if !self.kin.is_empty() {
            let addresses: BTreeSet<IpAddr> = backends.filter_map(address_of).collect();
            self.kin.retain(|ip, _| addresses.contains(ip));
        }
    }

    /// How many routes it has, applied and newly staged.
    pub(crate) fn routes(&self) -> usize {
        self.applied.len() + self.stage.new_routes()
    }

    /// What a route is after its staged change, if it has one. `None`: there is no such route, or its removal is staged.
    pub(crate) fn spec(&self, id: RouteId) -> Option<&RouteSpec> {
        match self.stage.routes().get(&id) {
            Some(Staged::Put(spec)) => Some(spec),
            Some(Staged::Remove) => None,
            None => self.applied.get(&id).map(|applied| &applied.route.spec),
        }
    }

    /// What an applied route means for its members.
    pub(crate) fn plan(&self, id: RouteId, Applied { route, state }: &Applied) -> MemberPlan {
        MemberPlan::new(route, &self.defaults, self.maintenance.of(id), state.clone())
    }

    /// Its routes, applied and staged, in order.
    pub(crate) fn route_ids(&self) -> impl Iterator<Item = RouteId> + Clone {
        let staged = self.stage.routes().keys().filter(|id| !self.applied.contains_key(id));
        // A staged route that is not applied may have a smaller id than an applied one.
        let (mut applied, mut staged) = (self.applied.keys().peekable(), staged.peekable());
        std::iter::from_fn(move || match (applied.peek(), staged.peek()) {
            (Some(a), Some(b)) if a < b => applied.next().copied(),
            (Some(_), None) => applied.next().copied(),
            (_, _) => staged.next().copied(),
        })
    }
}

/// How long ago it was registered.
pub(crate) fn uptime(session: &Session, now: Instant) -> u64 {
    now.saturating_duration_since(session.connected_at.mono).as_secs()
}
