//! From changes to transactions. Pure.
//!
//! A commit is one transaction that takes along all changes that wait and fit. It holds on two conditions: the leader's
//! key is the one of our term, and so many commits of the term were made, which the version of the term's own key counts.
//! So a commit that is sent twice is made once, and one of a leader whose term is over is never made.
//!
//! An apply of very many routes does not fit. Its session's routes, all of them, are written as parts beforehand, which
//! nobody looks at; the commit then points the session to them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use registry_nodes::kv::{Compare, Op, Transaction};

use crate::server::registry::persist::{
    MaintenanceRecord, RouteRecord, SavedSession, SessionRecord, StoreChange,
};
use crate::server::registry::{Delta, SessionNo, Term, Tx};
use registry_client::protocol::RouteId;

use super::image::Image;
use super::layout::{Folder, Key, Layout, PartsId};
use super::values::{CommitValue, PartsPointer, SessionValue, Step, encode};

/// How many operations a transaction has at most; etcd refuses more than 128. The commit's own key is one more.
const OPERATIONS: usize = 99;
/// How many operations a group of a transaction has. etcd counts those of all levels above along.
const GROUP: usize = 60;
/// How many groups there may be. A change that needs more operations is rejected.
const GROUPS: usize = 60;
/// How long the values of a transaction are together, about; etcd refuses requests of more than 1.5 MiB.
const BYTES: usize = 1 << 20;
/// How long the values of an apply may be before its routes go into parts.
const SMALL: usize = BYTES / 2;
/// How many changes a commit has at most, because the first of them waits for the last.
const CHANGES: usize = 64;

/// What makes a commit ours, and makes it once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fence<'l> {
    pub(super) layout: &'l Layout,
    pub(super) term: Term,
    /// Which of the term's commits it is, from 1.
    pub(super) number: u64,
    /// Which of the term's tries it is. What a try that failed has left is never taken for that of another one.
    pub(super) attempt: u64,
}

/// A commit, and the changes that it makes.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) txs: Vec<Tx>,
    /// Transactions that come first. Nobody sees what they write before the commit is made.
    pub(super) parts: Vec<Transaction>,
    pub(super) commit: Transaction,
}

/// What is to be done with the changes that wait.
#[derive(Debug)]
pub(super) enum Plan {
    Commit(Box<Planned>),
    /// The store cannot hold this change.
    Reject(Tx),
}

/// The writes of a commit in the making.
#[derive(Debug, Default)]
struct Writes {
    /// `None`: the key is deleted.
    keys: BTreeMap<Key, Option<Vec<u8>>>,
    folders: BTreeSet<Folder>,
}

impl Fence<'_> {
    /// The commit. Where it was made already, or cannot be made any more, it reads what tells which.
    fn commit(&self, writes: Writes, changes: Vec<Step>) -> Transaction {
        let mut ops = writes.into_ops(self.layout);
        if ops.len() > OPERATIONS {
            ops = ops.chunks(GROUP).map(|group| Op::Group(group.to_vec())).collect();
        }
        let value = encode(&CommitValue { changes });
        ops.insert(0, Op::Put { key: self.count(), value, lease: 0 });
        let when = vec![self.is_ours(), Compare::Version { key: self.count(), version: self.before() }];
        Transaction { when, then: ops, otherwise: self.look() }
    }

    /// A part, which only the leader of the term writes.
    fn part(&self, ops: Vec<Op>) -> Transaction {
        Transaction { when: vec![self.is_ours()], then: ops, otherwise: Vec::new() }
    }

    /// Writes nothing, and reads what tells whether the commit was made.
    pub(super) fn question(&self) -> Transaction {
        Transaction { when: vec![self.is_ours()], then: self.look(), otherwise: self.look() }
    }

    fn look(&self) -> Vec<Op> {
        vec![Op::Get { key: self.layout.key(&Key::Leader) }, Op::Get { key: self.count() }]
    }

    pub(super) fn is_ours(&self) -> Compare {
        let revision = i64::try_from(self.term.0).unwrap_or(i64::MAX);
        Compare::Created { key: self.layout.key(&Key::Leader), revision }
    }

    fn count(&self) -> String {
        self.layout.key(&Key::Commits(self.term))
    }

    fn before(&self) -> i64 {
        i64::try_from(self.number.saturating_sub(1)).unwrap_or(i64::MAX)
    }

    fn parts_id(&self) -> PartsId {
        PartsId { term: self.term, attempt: self.attempt }
    }
}

/// Takes changes from the front of the queue, as many as one commit can make. `image` knows everything that was
/// committed before. `None`: no change waits.
pub(super) fn plan(queue: &mut VecDeque<(Tx, StoreChange)>, image: &Image, fence: Fence<'_>) -> Option<Plan> {
    let (mut writes, mut steps, mut txs) = (Writes::default(), Vec::new(), Vec::new());
    let mut sessions: BTreeSet<SessionNo> = BTreeSet::new();
    while let Some((tx, change)) = queue.front() {
        let step = step(change);
        let Some(more) = small(change, image) else {
            if !txs.is_empty() {
                break;
            }
            let tx = *tx;
            let planned = large(tx, change, image, fence);
            queue.pop_front();
            return Some(planned.map_or(Plan::Reject(tx), |planned| Plan::Commit(Box::new(planned))));
        };
        // What a change does to a session depends on what those before it did.
        let is_first = txs.is_empty();
        let is_free = step.sessions().all(|no| !sessions.contains(&no));
        let fits = is_free && txs.len() < CHANGES && writes.has_room_for(&more);
        if !(is_first || fits) {
            break;
        }
        sessions.extend(step.sessions());
        writes.keys.extend(more.keys);
        writes.folders.extend(more.folders);
        steps.push(step);
        txs.push(*tx);
        queue.pop_front();
    }
    if txs.is_empty() {
        return None;
    }
    let commit = fence.commit(writes, steps);
    Some(Plan::Commit(Box::new(Planned { txs, parts: Vec::new(), commit })))
}

fn step(change: &StoreChange) -> Step {
    match change {
        StoreChange::Applied { session, .. } => Step::Applied(session.no),
        StoreChange::Maintenance(all) => Step::Maintenance(all.iter().map(|(no, _)| no.0).collect()),
        StoreChange::Marked(all) => Step::Marked(all.iter().map(|(no, _)| no.0).collect()),
        StoreChange::Ended(no, reason) => Step::Ended(no.0, *reason),
    }
}

/// The writes of a change that fits into a transaction; `None`: it does not.
fn small(change: &StoreChange, image: &Image) -> Option<Writes> {
    let mut writes = Writes::default();
    match change {
        StoreChange::Applied { session, applied, delta, maintenance } => {
            if delta.routes.len() > OPERATIONS - 2 {
                return None;
            }
            let no = SessionNo(session.no);
            let parts = image.parts(no);
            writes.put_session(session, *applied, parts);
            writes.put_routes(no, *applied, delta, parts.is_some());
            if let Some(maintenance) = maintenance {
                writes.put_maintenance(no, maintenance);
            }
            (writes.bytes() <= SMALL).then_some(writes)
        }
        StoreChange::Maintenance(all) => {
            // A session that has ended meanwhile has no maintenance.
            for (no, maintenance) in all.iter().filter(|(no, _)| image.session(*no).is_some()) {
                writes.put_maintenance(*no, maintenance);
            }
            writes.fits_in_groups().then_some(writes)
        }
        StoreChange::Marked(all) => {
            for (no, marks) in all.iter().filter(|(no, _)| image.session(*no).is_some()) {
                let value = (!marks.is_empty()).then(|| encode(marks));
                writes.keys.insert(Key::Marks(*no), value);
            }
            writes.fits_in_groups().then_some(writes)
        }
        StoreChange::Ended(no, _) => {
            writes
                .keys
                .extend([Key::Session(*no), Key::Maintenance(*no), Key::Marks(*no)].map(|key| (key, None)));
            writes.folders.extend([Folder::Routes(*no), Folder::Parts(*no)]);
            Some(writes)
        }
    }
}

/// An apply whose routes go into parts; `None`: no apply, and too large for the store.
fn large(tx: Tx, change: &StoreChange, image: &Image, fence: Fence<'_>) -> Option<Planned> {
    let StoreChange::Applied { session, applied, delta, maintenance } = change else { return None };
    let (no, id) = (SessionNo(session.no), fence.parts_id());
    let routes = routes_after(image.session(no), *applied, delta);
    let values = part_values(&routes);
    let pointer = PartsPointer { id, count: u32::try_from(values.len()).ok()? };
    let parts = values.into_iter().zip(0..).map(|(value, part)| {
        let key = fence.layout.key(&Key::Part(no, id, part));
        fence.part(vec![Op::Put { key, value, lease: 0 }])
    });
    let mut writes = Writes::default();
    writes.put_session(session, *applied, Some(pointer));
    if let Some(maintenance) = maintenance {
        writes.put_maintenance(no, maintenance);
    }
    // The parts have all of the session's routes.
    writes.folders.insert(Folder::Routes(no));
    writes.folders.extend(image.parts(no).map(|old| Folder::PartsOf(no, old.id)));
    let commit = fence.commit(writes, vec![step(change)]);
    Some(Planned { txs: vec![tx], parts: parts.collect(), commit })
}

fn routes_after(
    before: Option<&SavedSession>,
    applied: u64,
    delta: &Delta,
) -> BTreeMap<RouteId, RouteRecord> {
    let mut routes = before.map(|saved| saved.routes.clone()).unwrap_or_default();
    for (id, route) in &delta.routes {
        match route {
            Some(route) => drop(routes.insert(*id, RouteRecord::new(route, applied))),
            None => drop(routes.remove(id)),
        }
    }
    routes
}

/// The values of parts, each about as long as a small apply. There is at least one, so that parts are never mistaken for
/// parts that are missing.
fn part_values(routes: &BTreeMap<RouteId, RouteRecord>) -> Vec<Vec<u8>> {
    let (mut values, mut part) = (Vec::new(), vec![b'[']);
    for (id, route) in routes {
        if part.len() > 1 {
            part.push(b',');
        }
        // Each route is encoded once: there may be very many.
        part.extend(encode(&(id.0, route)));
        if part.len() >= SMALL {
            part.push(b']');
            values.push(std::mem::replace(&mut part, vec![b'[']));
        }
    }
    if part.len() > 1 || values.is_empty() {
        part.push(b']');
        values.push(part);
    }
    values
}

impl Writes {
    fn put_session(&mut self, session: &SessionRecord, applied: u64, parts: Option<PartsPointer>) {
        let value = SessionValue { session: session.clone(), applied, parts };
        self.keys.insert(Key::Session(SessionNo(session.no)), Some(encode(&value)));
    }

    /// Where a session has parts, a route that is gone needs a key that says so.
    fn put_routes(&mut self, no: SessionNo, applied: u64, delta: &Delta, has_parts: bool) {
        for (id, route) in &delta.routes {
            let record = route.as_ref().map(|route| RouteRecord::new(route, applied));
            let value = (record.is_some() || has_parts).then(|| encode(&record));
            self.keys.insert(Key::Route(no, *id), value);
        }
    }

    fn put_maintenance(&mut self, no: SessionNo, maintenance: &MaintenanceRecord) {
        let value = (!maintenance.is_empty()).then(|| encode(maintenance));
        self.keys.insert(Key::Maintenance(no), value);
    }

    fn operations(&self) -> usize {
        self.keys.len() + self.folders.len()
    }

    fn bytes(&self) -> usize {
        self.keys.values().flatten().map(Vec::len).sum()
    }

    fn has_room_for(&self, more: &Writes) -> bool {
        self.operations() + more.operations() <= OPERATIONS && self.bytes() + more.bytes() <= BYTES
    }

    fn fits_in_groups(&self) -> bool {
        self.operations() <= GROUP * GROUPS && self.bytes() <= BYTES
    }

    fn into_ops(self, layout: &Layout) -> Vec<Op> {
        let folders =
            self.folders.into_iter().map(|folder| Op::DeleteBelow { prefix: layout.folder(folder) });
        let keys = self.keys.into_iter().map(|(key, value)| match value {
            Some(value) => Op::Put { key: layout.key(&key), value, lease: 0 },
            None => Op::Delete { key: layout.key(&key) },
        });
        folders.chain(keys).collect()
    }
}
