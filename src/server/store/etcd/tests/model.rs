//! A model of etcd: keys at revisions, transactions and their limits, and what a watch tells.

use std::collections::{BTreeMap, BTreeSet};

use registry_nodes::Error;
use registry_nodes::kv::{Answer, Compare, Entry, Event, Fault, Op, Revised, Transaction};

/// etcd's own limits, as it has them by default.
const OPERATIONS: usize = 128;
const BYTES: usize = 3 << 19;

#[derive(Debug, Clone, Default)]
pub(super) struct Etcd {
    pub(super) revision: i64,
    keys: BTreeMap<String, Entry>,
    /// What a watch from the first revision on is told.
    pub(super) history: Vec<Revised>,
    /// It refuses transactions that write.
    pub(super) is_full: bool,
}

impl Etcd {
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.keys.values().cloned().collect()
    }

    pub(super) fn keys(&self) -> Vec<&str> {
        self.keys.keys().map(String::as_str).collect()
    }

    pub(super) fn put(&mut self, key: &str, value: &[u8]) -> i64 {
        let op = Op::Put { key: key.to_owned(), value: value.to_vec(), lease: 0 };
        self.transact(&Transaction { then: vec![op], ..Transaction::default() }).unwrap().revision
    }

    pub(super) fn delete(&mut self, key: &str) -> i64 {
        let op = Op::Delete { key: key.to_owned() };
        self.transact(&Transaction { then: vec![op], ..Transaction::default() }).unwrap().revision
    }

    pub(super) fn transact(&mut self, txn: &Transaction) -> Result<Answer, Fault> {
        let refused = |why: &str| Err(Fault::Refused(Error::Refused(why.to_owned())));
        let succeeded = txn.when.iter().all(|compare| self.holds(compare));
        if depth(&txn.then, OPERATIONS).is_none() || depth(&txn.otherwise, OPERATIONS).is_none() {
            return refused("too many operations in txn request");
        }
        if bytes(&txn.then) > BYTES {
            return refused("request is too large");
        }
        if self.is_full && writes(&txn.then) {
            return Err(Fault::Refused(Error::NoSpace));
        }
        if touches_twice(&txn.then) {
            return refused("duplicate key given in txn request");
        }
        let (mut events, mut found) = (Vec::new(), Vec::new());
        let next = self.revision + 1;
        self.make(if succeeded { &txn.then } else { &txn.otherwise }, next, &mut events, &mut found);
        if !events.is_empty() {
            self.revision = next;
            self.history.push(Revised { revision: next, events });
        }
        Ok(Answer { succeeded, revision: self.revision, found })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let of = |key: &String| self.keys.get(key);
        match compare {
            Compare::Created { key, revision } => of(key).map_or(0, |entry| entry.created) == *revision,
            Compare::Version { key, version } => of(key).map_or(0, |entry| entry.version) == *version,
            Compare::Lease { key, lease } => of(key).map_or(0, |entry| entry.lease) == *lease,
        }
    }

    fn make(&mut self, ops: &[Op], revision: i64, events: &mut Vec<Event>, found: &mut Vec<Option<Entry>>) {
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    let old = self.keys.get(key);
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        created: old.map_or(revision, |old| old.created),
                        modified: revision,
                        version: old.map_or(1, |old| old.version + 1),
                        lease: *lease,
                    };
                    self.keys.insert(key.clone(), entry.clone());
                    events.push(Event::Put(entry));
                }
                Op::Delete { key } => self.remove(std::slice::from_ref(key), events),
                Op::DeleteBelow { prefix } => {
                    let below: Vec<_> =
                        self.keys.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
                    self.remove(&below, events);
                }
                Op::Get { key } => found.push(self.keys.get(key).cloned()),
                Op::Group(ops) => self.make(ops, revision, events, found),
            }
        }
    }

    fn remove(&mut self, keys: &[String], events: &mut Vec<Event>) {
        for key in keys {
            if self.keys.remove(key).is_some() {
                events.push(Event::Deleted { key: key.clone() });
            }
        }
    }
}

/// etcd counts the operations of a level, and those below with what is left.
fn depth(ops: &[Op], most: usize) -> Option<()> {
    let left = most.checked_sub(ops.len())?;
    ops.iter().try_for_each(|op| match op {
        Op::Group(ops) => depth(ops, left),
        _ => Some(()),
    })
}

fn flat<'o>(ops: &'o [Op]) -> Vec<&'o Op> {
    let inside = |op: &'o Op| match op {
        Op::Group(ops) => flat(ops),
        other => vec![other],
    };
    ops.iter().flat_map(inside).collect()
}

fn bytes(ops: &[Op]) -> usize {
    let length = |op: &Op| match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete { key } | Op::Get { key } => key.len(),
        Op::DeleteBelow { prefix } => prefix.len(),
        Op::Group(_) => 0,
    };
    flat(ops).into_iter().map(length).sum()
}

fn writes(ops: &[Op]) -> bool {
    flat(ops).iter().any(|op| matches!(op, Op::Put { .. }))
}

/// etcd refuses transactions that put a key twice, or put one that they delete.
fn touches_twice(ops: &[Op]) -> bool {
    let ops = flat(ops);
    let mut puts: BTreeSet<&str> = BTreeSet::new();
    for op in &ops {
        if let Op::Put { key, .. } = op
            && !puts.insert(key)
        {
            return true;
        }
    }
    let deletes = |put: &str| {
        ops.iter().any(|op| match op {
            Op::Delete { key } => key == put,
            Op::DeleteBelow { prefix } => put.starts_with(prefix.as_str()),
            _ => false,
        })
    };
    puts.into_iter().any(deletes)
}
