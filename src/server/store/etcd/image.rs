//! What etcd holds, as this replica knows it: loaded at one revision, and then changed revision by revision. Pure.
//!
//! [`Image::take`] turns what one revision changed in etcd into the [`StoreChange`]s that made it, and applies them. So a
//! follower hears of the same changes as the leader's store was asked for, in the same order, and never of a part of a
//! commit.

mod revision;

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use registry_nodes::kv::{Entry, Revised};
use serde::de::DeserializeOwned;

use crate::server::registry::persist::{
    MaintenanceRecord, RouteRecord, SavedSession, SavedState, SessionMarks, StoreChange,
};
use crate::server::registry::{SessionNo, Term};
use registry_client::protocol::RouteId;

use super::layout::{Key, Layout, PartsId};
use super::values::{
    BootValue, ClusterValue, FORMAT, LeaderValue, PartValue, PartsPointer, SessionValue, decode,
};

/// Who leads, as etcd says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) term: Term,
    pub(super) lease: i64,
    /// What the leader says of itself; `None`: this version cannot read it.
    pub(super) value: Option<LeaderValue>,
}

/// What the image knows of a session beside what a [`SavedSession`] has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    applied: u64,
    parts: Option<PartsPointer>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Image {
    layout: Layout,
    revision: i64,
    state: SavedState,
    written: BTreeMap<SessionNo, Written>,
    /// Parts to which no session points: a commit is being written, or was given up.
    loose: BTreeMap<(SessionNo, PartsId), BTreeMap<u32, PartValue>>,
    cluster: Option<ClusterValue>,
    leader: Option<Leader>,
    replicas: BTreeMap<String, Vec<u8>>,
    boots: BTreeMap<String, SystemTime>,
    commits: BTreeSet<Term>,
    /// The keys that this version cannot read, and why.
    unreadable: BTreeMap<String, String>,
}

impl Image {
    /// What etcd holds at `revision`: `entries` is everything below the layout's root.
    pub(super) fn load(layout: Layout, revision: i64, entries: Vec<Entry>) -> Image {
        let mut image = Image {
            layout,
            revision,
            state: SavedState::default(),
            written: BTreeMap::new(),
            loose: BTreeMap::new(),
            cluster: None,
            leader: None,
            replicas: BTreeMap::new(),
            boots: BTreeMap::new(),
            commits: BTreeSet::new(),
            unreadable: BTreeMap::new(),
        };
        let mut loaded = Loaded::default();
        for entry in entries {
            match image.layout.parse(&entry.key) {
                Some(key) => image.load_entry(key, entry, &mut loaded),
                None => image.note_unknown(&entry.key),
            }
        }
        for (no, value) in std::mem::take(&mut loaded.sessions) {
            image.load_session(no, value, &mut loaded);
        }
        image
    }

    fn load_entry(&mut self, key: Key, entry: Entry, loaded: &mut Loaded) {
        match key {
            Key::Session(no) => drop(self.read(&entry).map(|value| loaded.sessions.insert(no, value))),
            Key::Route(no, id) => {
                if let Some(route) = self.read(&entry) {
                    loaded.routes.entry(no).or_default().insert(id, route);
                }
            }
            Key::Maintenance(no) => {
                drop(self.read(&entry).map(|record| loaded.maintenance.insert(no, record)));
            }
            Key::Marks(no) => drop(self.read(&entry).map(|record| loaded.marks.insert(no, record))),
            Key::Part(no, id, part) => self.put_part(no, id, part, &entry),
            other => self.put_common(other, &entry),
        }
    }

    fn load_session(&mut self, no: SessionNo, value: SessionValue, loaded: &mut Loaded) {
        let mut routes = match value.parts {
            None => BTreeMap::new(),
            Some(pointer) => match self.assemble(no, pointer) {
                Some(routes) => routes,
                None => return,
            },
        };
        for (id, route) in loaded.routes.remove(&no).unwrap_or_default() {
            match route {
                Some(route) => drop(routes.insert(id, route)),
                None => drop(routes.remove(&id)),
            }
        }
        self.written.insert(no, Written { applied: value.applied, parts: value.parts });
        self.state.sessions.push(SavedSession {
            session: value.session,
            maintenance: loaded.maintenance.remove(&no).unwrap_or_default(),
            marks: loaded.marks.remove(&no).unwrap_or_default(),
            routes,
        });
    }

    /// Takes what one revision changed. Returns the changes that made it, of which there are none where it is about
    /// something else than sessions.
    pub(super) fn take(&mut self, revised: &Revised) -> Vec<StoreChange> {
        let touched = self.note_all(&revised.events);
        self.revision = revised.revision;
        let changes = self.changes(touched);
        changes.iter().for_each(|change| self.state.apply(change));
        changes
    }

    /// The revision up to which it knows what etcd holds.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// Everything that a replica in this boot begins with. The server was alive last when any replica was: each of them
    /// sees to it that the sessions' members are probed.
    pub(super) fn saved(&self, boot_id: &str) -> SavedState {
        let is_known = self.boots.contains_key(boot_id);
        SavedState {
            boot_id: if is_known { boot_id.to_owned() } else { String::new() },
            alive_at: self.boots.values().max().copied(),
            cluster_id: self.cluster.as_ref().map_or_else(String::new, |cluster| cluster.cluster_id.clone()),
            ..self.state.clone()
        }
    }

    pub(super) fn session(&self, no: SessionNo) -> Option<&SavedSession> {
        let sessions = &self.state.sessions;
        let at = sessions.binary_search_by_key(&no.0, |saved| saved.session.no).ok()?;
        Some(&sessions[at])
    }

    pub(super) fn session_count(&self) -> usize {
        self.state.sessions.len()
    }

    /// The parts that a session's routes are in.
    pub(super) fn parts(&self, no: SessionNo) -> Option<PartsPointer> {
        self.written.get(&no)?.parts
    }

    pub(super) fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref()
    }

    /// What the replicas that are present say of themselves, by their ids.
    pub(super) fn replicas(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.replicas
    }

    pub(super) fn boots(&self) -> &BTreeMap<String, SystemTime> {
        &self.boots
    }

    /// The terms whose count of commits etcd still holds.
    pub(super) fn commits(&self) -> &BTreeSet<Term> {
        &self.commits
    }

    /// The parts to which no session points.
    pub(super) fn loose_parts(&self) -> impl Iterator<Item = (SessionNo, PartsId)> {
        self.loose.keys().copied()
    }

    /// The keys that this version cannot read, and why. A replica with such keys must not lead: it would drop what it
    /// cannot read.
    pub(super) fn unreadable(&self) -> &BTreeMap<String, String> {
        &self.unreadable
    }

    /// Whether a newer version wrote the whole in a format that this one does not know.
    pub(super) fn is_newer(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.format > FORMAT)
    }

    /// A value, or `None` if this version cannot read it. The key counts as unreadable until it is put again or deleted.
    fn read<T: DeserializeOwned>(&mut self, entry: &Entry) -> Option<T> {
        match decode(&entry.value) {
            Ok(value) => {
                self.unreadable.remove(&entry.key);
                Some(value)
            }
            Err(why) => {
                self.unreadable.insert(entry.key.clone(), why);
                None
            }
        }
    }

    fn note_unknown(&mut self, key: &str) {
        self.unreadable.insert(key.to_owned(), "this version knows no such key".to_owned());
    }

    fn put_part(&mut self, no: SessionNo, id: PartsId, part: u32, entry: &Entry) {
        if let Some(value) = self.read(entry) {
            self.loose.entry((no, id)).or_default().insert(part, value);
        }
    }

    /// The routes that parts have; `None`: not all of the parts are there. A session points to them from now on.
    fn assemble(&mut self, no: SessionNo, pointer: PartsPointer) -> Option<BTreeMap<RouteId, RouteRecord>> {
        let parts = self.loose.remove(&(no, pointer.id)).unwrap_or_default();
        if parts.len() != pointer.count as usize {
            let why = format!("{} of its {} parts are there", parts.len(), pointer.count);
            self.unreadable.insert(self.layout.key(&Key::Session(no)), why);
            return None;
        }
        Some(parts.into_values().flatten().map(|(id, route)| (RouteId(id), route)).collect())
    }

    /// A key that is about no session.
    fn put_common(&mut self, key: Key, entry: &Entry) {
        match key {
            Key::Cluster => {
                if let Some(cluster) = self.read(entry) {
                    self.cluster = Some(cluster);
                }
            }
            Key::Leader => {
                // Whoever has the key leads, whatever is in it.
                let value = decode(&entry.value).ok();
                self.leader = Some(Leader { term: Term(number(entry.created)), lease: entry.lease, value });
            }
            Key::Replica(id) => drop(self.replicas.insert(id, entry.value.clone())),
            Key::Boot(id) => {
                if let Some(BootValue { alive_at }) = self.read(entry) {
                    self.boots.insert(id, alive_at);
                }
            }
            Key::Commits(term) => drop(self.commits.insert(term)),
            Key::Session(_) | Key::Route(..) | Key::Part(..) | Key::Maintenance(_) | Key::Marks(_) => {}
        }
    }

    fn delete_common(&mut self, key: &Key) {
        match key {
            Key::Cluster => self.cluster = None,
            Key::Leader => self.leader = None,
            Key::Replica(id) => drop(self.replicas.remove(id)),
            Key::Boot(id) => drop(self.boots.remove(id)),
            Key::Commits(term) => drop(self.commits.remove(term)),
            Key::Session(_) | Key::Route(..) | Key::Part(..) | Key::Maintenance(_) | Key::Marks(_) => {}
        }
    }
}

/// What is read before it is put together.
#[derive(Debug, Default)]
struct Loaded {
    sessions: BTreeMap<SessionNo, SessionValue>,
    routes: BTreeMap<SessionNo, BTreeMap<RouteId, Option<RouteRecord>>>,
    maintenance: BTreeMap<SessionNo, MaintenanceRecord>,
    marks: BTreeMap<SessionNo, SessionMarks>,
}

/// etcd's numbers are positive.
fn number(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}
