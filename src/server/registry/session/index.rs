//! All sessions, and the ways to find one: by number, by id, by name and address, by service.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use registry_client::protocol::{InstanceName, Registration, ServiceName, SessionId};

use crate::server::registry::model::{IdHash, Now, ServiceToken, SessionNo, SessionState};
use crate::server::registry::persist::{Replaced, SessionRecord};

use super::usage::Usage;
use super::{Identity, RouteIds, Session, Stage};

/// At most so many sessions of a service are looked at to count the siblings of one.
const MOST_SIBLINGS: usize = 100;

/// How many characters of the instance's name are in a session's id.
const NAME_IN_ID: usize = 64;

/// What a session has in common with an older one that it replaces (PROTOCOL section 2).
#[derive(Clone, PartialEq, Eq, Hash)]
struct Name(ServiceName, InstanceName, IpAddr);

impl Name {
    fn of(session: &Session) -> Self {
        let Registration { service, instance, .. } = &session.registration;
        Name(service.clone(), instance.clone(), session.peer)
    }
}

/// A service with sessions that are not retired.
#[derive(Default)]
struct Service {
    sessions: BTreeSet<SessionNo>,
    /// The token that others must give to join, and how many of the sessions gave it.
    token: Option<(ServiceToken, usize)>,
}

/// Every session that is known.
#[derive(Default)]
pub(crate) struct SessionIndex {
    /// Boxed, because a map has room for up to twice as many entries and moves them when it grows.
    all: HashMap<SessionNo, Box<Session>>,
    /// The id is a secret. std's keyed hash of the whole id decides which entry is compared, so the time of a look-up does
    /// not tell how much of a guess is right.
    ids: HashMap<SessionId, SessionNo>,
    /// Restored sessions whose clients have not sent their ids yet.
    hashes: HashMap<IdHash, SessionNo>,
    /// The sessions that are not retired, by name and address.
    names: HashMap<Name, Vec<SessionNo>>,
    /// The sessions that are not retired, by service.
    services: HashMap<ServiceName, Service>,
    usage: Usage,
    /// How many sessions are connected from an address.
    connected: HashMap<IpAddr, usize>,
    /// Addresses from which two sessions were ever connected at once (SEMANTICS section 4).
    shared: HashSet<IpAddr>,
    last: u64,
    /// How many sessions are not retired.
    active: usize,
}

impl SessionIndex {
    pub(crate) fn get(&self, no: SessionNo) -> Option<&Session> {
        self.all.get(&no).map(|session| &**session)
    }

    pub(crate) fn get_mut(&mut self, no: SessionNo) -> Option<&mut Session> {
        self.all.get_mut(&no).map(|session| &mut **session)
    }

    pub(crate) fn by_id(&self, id: &SessionId) -> Option<SessionNo> {
        self.ids.get(id).copied()
    }

    /// Whether every index is empty. Shared addresses are remembered on purpose.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
            && self.ids.is_empty()
            && self.hashes.is_empty()
            && self.names.is_empty()
            && self.services.is_empty()
            && self.usage.is_empty()
            && self.connected.is_empty()
            && self.active == 0
    }

    /// Whether there has been no session yet.
    pub(crate) fn is_unused(&self) -> bool {
        self.last == 0
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.all.values().map(|session| &**session)
    }

    /// How many sessions live or still serve.
    pub(crate) fn active(&self) -> usize {
        self.active
    }

    /// What the sessions take.
    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Counts what the session has staged now.
    pub(crate) fn count_stage(&mut self, no: SessionNo) {
        let Some(session) = self.all.get_mut(&no) else { return };
        let after = session.stage.bytes();
        let before = std::mem::replace(&mut session.counted_stage, after);
        self.usage.restage(session.peer, before, after);
    }

    /// Adds a session that was just registered. The caller binds it next.
    pub(crate) fn add(
        &mut self,
        now: Now,
        registration: Registration,
        peer: IpAddr,
        random: u128,
        service_token: Option<ServiceToken>,
    ) -> SessionNo {
        self.last += 1;
        let no = SessionNo(self.last);
        let id = session_id(&registration.instance, now.wall, random);
        let session = Session::new(no, Identity::Known(id), registration, peer, now);
        self.insert(Session { service_token, ..session });
        no
    }

    fn insert(&mut self, session: Session) {
        let no = session.no;
        match &session.identity {
            Identity::Known(id) => drop(self.ids.insert(id.clone(), no)),
            Identity::Hashed(hash) => drop(self.hashes.insert(*hash, no)),
        }
        self.names.entry(Name::of(&session)).or_default().push(no);
        let service = self.services.entry(session.registration.service.clone()).or_default();
        service.sessions.insert(no);
        if let Some(token) = &session.service_token {
            service.token.get_or_insert_with(|| (token.clone(), 0)).1 += 1;
        }
        self.active += 1;
        self.usage.add(session.peer, 0);
        self.all.insert(no, Box::new(session));
    }

    /// The sessions of a service that are not retired, oldest first.
    pub(crate) fn of_service(&self, service: &ServiceName) -> Vec<SessionNo> {
        self.services.get(service).into_iter().flat_map(|service| &service.sessions).copied().collect()
    }

    /// How many other sessions of its service live and come from other addresses.
    pub(crate) fn siblings(&self, session: &Session) -> usize {
        let service = self.services.get(&session.registration.service);
        let all = service.into_iter().flat_map(|service| &service.sessions).take(MOST_SIBLINGS);
        let known = all.filter_map(|no| self.all.get(no));
        known.filter(|other| other.state.lives() && other.peer != session.peer).count()
    }

    /// The token that others must give to join a service.
    pub(crate) fn token_of(&self, service: &ServiceName) -> Option<&ServiceToken> {
        self.services.get(service)?.token.as_ref().map(|(token, _)| token)
    }

    /// The sessions that a registration of this name from this address replaces, oldest first.
    pub(crate) fn namesakes(&self, registration: &Registration, peer: IpAddr) -> Vec<SessionNo> {
        let name = Name(registration.service.clone(), registration.instance.clone(), peer);
        self.names.get(&name).cloned().unwrap_or_default()
    }

    /// The session is bound from this address now.
    pub(crate) fn set_peer(&mut self, no: SessionNo, peer: IpAddr) {
        let Some(session) = self.all.get_mut(&no) else { return };
        if session.peer == peer {
            return;
        }
        let before = Name::of(session);
        self.usage.remove(session.peer, session.counted_stage);
        session.is_rebound = true;
        session.peer = peer;
        self.usage.add(peer, session.counted_stage);
        let after = Name::of(session);
        self.unname(&before, no);
        self.names.entry(after).or_default().push(no);
    }

    /// Takes a session out of everything but the look-up by its id.
    pub(crate) fn retire(&mut self, no: SessionNo) {
        if let Some(session) = self.all.get_mut(&no) {
            session.stage = Stage::default();
            self.usage.remove(session.peer, std::mem::take(&mut session.counted_stage));
            let (name, gave_token) = (Name::of(session), session.service_token.is_some());
            self.unname(&name, no);
            self.leave_service(&name.0, no, gave_token);
            self.active -= 1;
        }
    }

    fn leave_service(&mut self, name: &ServiceName, no: SessionNo, gave_token: bool) {
        let Some(service) = self.services.get_mut(name) else { return };
        service.sessions.remove(&no);
        if gave_token && let Some((_, count)) = &mut service.token {
            *count -= 1;
            if *count == 0 {
                service.token = None;
            }
        }
        if service.sessions.is_empty() {
            self.services.remove(name);
        }
    }

    /// Forgets a session and its id. `retired`: whether [`SessionIndex::retire`] was called for it already.
    pub(crate) fn remove(&mut self, no: SessionNo, retired: bool) -> Option<Session> {
        if !retired {
            self.retire(no);
        }
        let session = *self.all.remove(&no)?;
        match &session.identity {
            Identity::Known(id) => self.ids.remove(id),
            Identity::Hashed(hash) => self.hashes.remove(hash),
        };
        Some(session)
    }

    fn unname(&mut self, name: &Name, no: SessionNo) {
        if let Some(same) = self.names.get_mut(name) {
            same.retain(|other| *other != no);
            if same.is_empty() {
                self.names.remove(name);
            }
        }
    }

    /// Adds a session that a store held.
    pub(crate) fn restore(&mut self, now: Now, record: SessionRecord) {
        let no = SessionNo(record.no);
        let identity = Identity::Hashed(record.id_sha256);
        let at = Now { mono: back_then(now, record.connected_at), wall: record.connected_at };
        let mut session = Session::new(no, identity, record.registration(), record.peer, at);
        session.service_token = record.service_token_hash;
        session.last_activity = record.last_apply;
        session.last_apply = Some(record.last_apply);
        session.revision = record.revision;
        session.ids = RouteIds::restore(record.last_route);
        session.defaults = record.defaults.into();
        session.defaults_applied = record.defaults_applied;
        session.kin = kin(&record.kin);
        session.predecessors = record.replaced.iter().map(|older| SessionNo(older.no)).collect();
        self.insert(session);
        self.last = self.last.max(no.0);
    }

    /// Adds a session that `by` replaced, as one of which only the id is left, unless the store holds the session itself.
    pub(crate) fn restore_replaced(&mut self, now: Now, older: &Replaced, by: &SessionRecord) {
        let (no, newest) = (SessionNo(older.no), Some(SessionNo(by.no)));
        if let Some(session) = self.all.get_mut(&no) {
            session.replaced_by = newest;
            if session.state.lives() {
                session.state = SessionState::Replaced;
            }
            return;
        }
        let identity = Identity::Hashed(older.id_sha256);
        let mut session = Session::new(no, identity, by.registration(), by.peer, now);
        session.state = SessionState::Retired;
        session.replaced_by = newest;
        self.insert(session);
        self.retire(no);
        self.last = self.last.max(no.0);
    }

    /// The sessions that were restored. Only meaningful before the first input.
    pub(crate) fn restored(&self) -> impl Iterator<Item = &Session> {
        let all = self.all.values().map(|session| &**session);
        all.filter(|session| session.state != SessionState::Retired)
    }

    /// What the store holds of a session that is known already.
    pub(crate) fn update(&mut self, record: &SessionRecord) {
        let no = SessionNo(record.no);
        let Some(session) = self.all.get_mut(&no) else { return };
        session.registration = record.registration();
        session.last_apply = Some(record.last_apply);
        session.last_activity = session.last_activity.max(record.last_apply);
        session.revision = record.revision;
        session.kin = kin(&record.kin);
        session.ids = RouteIds::restore(record.last_route);
        if !session.is_rebound {
            self.set_peer(no, record.peer);
        }
        if let Some(session) = self.all.get_mut(&no) {
            session.is_rebound = session.marks.peer.is_some();
            session.predecessors = record.replaced.iter().map(|older| SessionNo(older.no)).collect();
        }
    }

    /// The numbers of all sessions that are known, smallest first.
    pub(crate) fn numbers(&self) -> Vec<SessionNo> {
        let mut all: Vec<SessionNo> = self.all.keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// A connected session from `ip`.
    pub(crate) fn connected_from(&self, ip: IpAddr) -> Option<&Session> {
        self.connected.get(&ip)?;
        let is_there = |session: &&Session| session.state == SessionState::Connected && session.peer == ip;
        self.all.values().map(|session| &**session).find(is_there)
    }

    /// A client has sent this id. If it is that of a restored session, the id is known from now on.
    pub(crate) fn recognise(&mut self, id: &SessionId) {
        if self.hashes.is_empty() || self.ids.contains_key(id) {
            return;
        }
        let Some(no) = self.hashes.remove(&IdHash::of(id)) else { return };
        self.ids.insert(id.clone(), no);
        if let Some(session) = self.all.get_mut(&no) {
            session.identity = Identity::Known(id.clone());
        }
    }

    /// The records of the sessions that `session` replaced and that are known.
    pub(crate) fn replaced_by(&self, session: &Session) -> Vec<Replaced> {
        let known = session.predecessors.iter().filter_map(|no| self.all.get(no));
        known.map(|older| Replaced { no: older.no.0, id_sha256: older.id_hash() }).collect()
    }

    /// A session from `ip` is connected now. At most `limit` shared addresses are remembered.
    pub(crate) fn connected(&mut self, ip: IpAddr, limit: usize) {
        let connected = self.connected.entry(ip).or_default();
        *connected += 1;
        if *connected > 1 {
            self.is_shared(ip, limit);
        }
    }

    /// Two sessions were connected from `ip` at once.
    pub(crate) fn is_shared(&mut self, ip: IpAddr, limit: usize) {
        if self.shared.len() < limit {
            self.shared.insert(ip);
        }
    }

    /// A session from `ip` is not connected any more.
    pub(crate) fn disconnected(&mut self, ip: IpAddr) {
        if let Some(connected) = self.connected.get_mut(&ip) {
            *connected -= 1;
            if *connected == 0 {
                self.connected.remove(&ip);
            }
        }
    }

    /// Connected sessions have met at `ip` with backends that answer: from now on they are kin there. Returns those of which
    /// that is new.
    pub(crate) fn meet(&mut self, ip: IpAddr, met: &[SessionNo]) -> Vec<SessionNo> {
        let oldest_of = |no: &SessionNo| self.all.get(no).map(|session| *session.kin.get(&ip).unwrap_or(no));
        let Some(oldest) = met.iter().filter_map(oldest_of).min() else { return Vec::new() };
        let mut is_new = |no: &SessionNo| {
            self.all.get_mut(no).is_some_and(|session| session.kin.insert(ip, oldest) != Some(oldest))
        };
        met.iter().copied().filter(|no| is_new(no)).collect()
    }

    /// Whether `other` is of the lineage of `session`, or kin of one of that at `ip`.
    pub(crate) fn is_kin(&self, session: &Session, other: SessionNo, ip: IpAddr) -> bool {
        let oldest = |no: SessionNo| self.all.get(&no).and_then(|session| session.kin.get(&ip));
        let theirs = oldest(other);
        session.lineage().into_iter().any(|no| no == other || (theirs.is_some() && oldest(no) == theirs))
    }

    /// Whether an address names one container: it is not loopback, and two sessions were never connected
    /// from it at once.
    pub(crate) fn is_one_container(&self, ip: IpAddr) -> bool {
        !ip.is_loopback() && !self.shared.contains(&ip)
    }
}

/// The kin of a record.
fn kin(record: &BTreeMap<IpAddr, u64>) -> BTreeMap<IpAddr, SessionNo> {
    record.iter().map(|(ip, oldest)| (*ip, SessionNo(*oldest))).collect()
}

/// `<instance>-<unix ms>-<128 random bits>` (PROTOCOL section 2).
fn session_id(instance: &InstanceName, wall: SystemTime, random: u128) -> SessionId {
    let legal = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = instance.as_str().chars().take(NAME_IN_ID).map(legal).collect();
    let millis = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let text = format!("{name}-{millis}-{random:032x}");
    match text.parse() {
        Ok(id) => id,
        Err(_) => unreachable!("short, and made of letters, digits and '-_.' only"),
    }
}

/// The monotonic time of a moment in the past, as far as the monotonic clock goes back.
fn back_then(now: Now, wall: SystemTime) -> Instant {
    let ago = now.wall.duration_since(wall).unwrap_or_default();
    now.mono.checked_sub(ago).unwrap_or(now.mono)
}
