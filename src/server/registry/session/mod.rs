//! A session: who registered, what it has applied and staged, its drain and its maintenance.
//!
//! State and what can be said about it. Who may change it when is the engine's business; nothing here sends a line, sets a
//! timer or touches a member.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod` (this) | one session |
//! | `index` | all sessions, and the ways to find one |
//! | `stage`, `diff` | what is not applied yet; what CONFIG_DIFF says about it |
//! | `targets` | which of a session's settings a command means |
//! | `drain`, `maintenance` | the state of its drain and of its maintenance |

use crate::server::registry::model::{
    Applied, Cells, ConnId, IdHash, MemberSet, Now, OwnCells, Owner, Plan, Pulse, ServiceToken, SessionNo,
    SessionState, Tx, Who,
};
use crate::server::registry::persist::SessionRecord;
use registry_client::protocol::{Metadata, Registration, RouteId, RouteSpec, SessionId};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

mod diff;
mod drain;
mod index;
mod maintenance;
mod stage;
mod targets;

pub(crate) use drain::Draining;
pub(crate) use index::Sessions;
pub(crate) use maintenance::{Asked, Entered, Entering, ExitState, Kept, Maintained, Place};
pub(crate) use stage::{Stage, Staged, cost};
pub(crate) use targets::slots;

/// One registration of one instance.
pub(crate) struct Session {
    pub(crate) no: SessionNo,
    identity: Identity,
    /// Without the secrets that came with it.
    pub(crate) registration: Registration,
    /// What must be given by those who join its service, if it gave one itself.
    service_token: Option<ServiceToken>,
    /// From where it was bound last: what it may reach depends on it.
    pub(crate) peer: IpAddr,
    pub(crate) state: SessionState,
    pub(crate) conn: Option<ConnId>,
    /// The newest of its replacers.
    pub(crate) replaced_by: Option<SessionNo>,
    /// Everyone whom it replaced, oldest first, as long as they are known.
    pub(crate) predecessors: Vec<SessionNo>,
    /// One of its backends has answered, so that its predecessors are not needed any more.
    pub(crate) answered: bool,
    /// It lost a claim to another service while it was away, so that it cannot be resumed as it was.
    pub(crate) robbed: bool,
    pub(crate) applied: BTreeMap<RouteId, Applied>,
    pub(crate) defaults: OwnCells,
    /// Which apply of all set `defaults`.
    pub(crate) defaults_applied: u64,
    pub(crate) revision: u64,
    /// How many route ids were given out.
    pub(crate) last_route: u32,
    /// How many of them the store knows of.
    pub(crate) kept_route: u32,
    pub(crate) stage: Stage,
    pub(crate) members: MemberSet,
    pub(crate) drain: Option<Draining>,
    pub(crate) maintained: Maintained,
    /// A change of it that the store has not decided on; commands wait behind it.
    pub(crate) pending: Option<Tx>,
    /// Connections that wait for `pending`.
    pub(crate) waiting: Vec<ConnId>,
    pub(crate) connected_at: Now,
    last_activity: SystemTime,
    /// What its connection answers for it, while it is bound to one.
    pulse: Option<Arc<Pulse>>,
    pub(crate) last_apply: Option<SystemTime>,
}

/// What a session is called by.
enum Identity {
    Known(SessionId),
    /// A store held it, which never saw its id; its client has not said it yet.
    Hashed(IdHash),
}

impl Session {
    /// Its id; a restored session has none until its client has named it.
    pub(crate) fn id(&self) -> Option<&SessionId> {
        match &self.identity {
            Identity::Known(id) => Some(id),
            Identity::Hashed(_) => None,
        }
    }

    /// A command for it came at `now`.
    pub(crate) fn touch(&mut self, now: Now) {
        self.last_activity = now.wall;
    }

    /// When a command for it came last, to the registry or to its connection.
    pub(crate) fn last_activity(&self) -> SystemTime {
        let felt = self.pulse.as_ref().and_then(|pulse| pulse.last());
        felt.map_or(self.last_activity, |felt| felt.max(self.last_activity))
    }

    /// For the connection that it is bound to now. `None`: it is bound to none, or nobody has said its id yet.
    pub(crate) fn start_pulse(&mut self) -> Option<Arc<Pulse>> {
        self.stop_pulse();
        if self.state == SessionState::Connected {
            self.pulse = self.id().cloned().map(Pulse::start);
        }
        self.pulse.clone()
    }

    /// Its connection answers nothing for it any more.
    pub(crate) fn stop_pulse(&mut self) {
        self.last_activity = self.last_activity();
        if let Some(pulse) = self.pulse.take() {
            pulse.stop();
        }
    }

    fn id_hash(&self) -> IdHash {
        match &self.identity {
            Identity::Known(id) => IdHash::of(id),
            Identity::Hashed(hash) => *hash,
        }
    }

    /// What a store holds of it once its next apply is done.
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
            last_route: self.last_route,
            connected_at: self.connected_at.wall,
            last_apply: now.wall,
            defaults: Cells::clone(&self.defaults),
            defaults_applied: self.defaults_applied,
            replaced: Vec::new(),
        }
    }

    /// A session that is just registered, or restored.
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
            answered: false,
            robbed: false,
            applied: BTreeMap::new(),
            defaults: OwnCells::default(),
            defaults_applied: 0,
            revision: 0,
            last_route: 0,
            kept_route: 0,
            stage: Stage::default(),
            members: MemberSet::default(),
            drain: None,
            maintained: Maintained::default(),
            pending: None,
            waiting: Vec::new(),
            connected_at: at,
            last_activity: at.wall,
            pulse: None,
            last_apply: None,
        }
    }

    pub(crate) fn who(&self) -> Who {
        let r = &self.registration;
        Who { no: self.no, service: r.service.clone(), instance: r.instance.clone() }
    }

    pub(crate) fn owner(&self) -> Owner<'_> {
        Owner {
            no: self.no,
            service: &self.registration.service,
            instance: &self.registration.instance,
            peer: self.peer,
            lost: self.state != SessionState::Connected,
            drain: self.drain.map(|draining| draining.drain),
        }
    }

    /// Forgets what was entered for routes that do not exist any more.
    pub(crate) fn forget_unknown_maintenance(&mut self) {
        let mut maintained = std::mem::take(&mut self.maintained);
        maintained.retain_routes(|id| self.spec(id).is_some() || self.applied.contains_key(&id));
        self.maintained = maintained;
    }

    /// It and everyone whom it replaced: the same instance, over time.
    pub(crate) fn kin(&self) -> Vec<SessionNo> {
        self.predecessors.iter().copied().chain([self.no]).collect()
    }

    /// How many routes it has, or waits to have.
    pub(crate) fn routes(&self) -> usize {
        self.applied.len() + self.stage.new_routes()
    }

    /// What a staged route is to be, or an applied one is.
    pub(crate) fn spec(&self, id: RouteId) -> Option<&RouteSpec> {
        match self.stage.routes().get(&id) {
            Some(Staged::Put(spec)) => Some(spec),
            Some(Staged::Remove) => None,
            None => self.applied.get(&id).map(|applied| &applied.route.spec),
        }
    }

    /// What the members of an applied route get from it.
    pub(crate) fn plan(&self, id: RouteId, Applied { route, state }: &Applied) -> Plan {
        Plan::new(route, &self.defaults, self.maintained.of(id), state.clone())
    }

    /// Its routes, applied and staged, in order.
    pub(crate) fn route_ids(&self) -> impl Iterator<Item = RouteId> + Clone {
        let staged = self.stage.routes().keys().filter(|id| !self.applied.contains_key(id));
        // Ids only grow, and a staged one that is not applied may still be smaller than an applied one.
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
