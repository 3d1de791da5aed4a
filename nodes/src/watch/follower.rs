//! How a service is followed. Pure: it is told of answers and changes, and says what to do next.
//!
//! Everything is read at one revision, page by page, and changes are watched from the next one on. Whatever ends the
//! watch (compaction, a lost connection, a member without a leader, an etcd that was restored from a copy), everything
//! is read again: a list of nodes is small, and no account has to be kept of what may have been missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::error::{Error, Fault};
use crate::etcd::{Change, Page, Record};
use crate::layout::Prefix;
use crate::node::{Info, Node};

use super::View;

/// All nodes of a service at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// etcd's revision at that moment.
    pub revision: i64,
    /// The nodes, by name.
    pub nodes: BTreeMap<String, Info>,
    /// The nodes whose values cannot be read, and why.
    pub unreadable: BTreeMap<String, String>,
}

impl Snapshot {
    /// The nodes, in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = Node> + '_ {
        self.nodes.iter().map(|(name, info)| Node { name: name.clone(), info: info.clone() })
    }

    pub(crate) fn put(&mut self, prefix: &Prefix, record: &Record) {
        let Some(name) = prefix.node(&record.key) else { return };
        self.remove(name);
        match prefix.info(&record.value) {
            Ok(info) => drop(self.nodes.insert(name.to_owned(), info)),
            Err(why) => drop(self.unreadable.insert(name.to_owned(), why)),
        }
    }

    fn remove(&mut self, name: &str) {
        self.nodes.remove(name);
        self.unreadable.remove(name);
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Wait {
        until: Duration,
    },
    /// Read what comes after that key, at that revision.
    Load {
        after: Option<String>,
        revision: Option<i64>,
    },
    Open {
        revision: i64,
    },
    Listen,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    Waited,
    Page(Page),
    Opened,
    Changed { changes: Vec<Change>, revision: i64 },
    Failed(Fault),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Pages that are read, and the last key on them.
    Loading {
        read: Snapshot,
        after: Option<String>,
    },
    /// All is read, at that revision.
    Opening {
        revision: i64,
    },
    Listening {
        since: Duration,
    },
    Pausing {
        until: Duration,
    },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Follower {
    prefix: Prefix,
    phase: Phase,
    view: View,
    /// Failures since a watch was open for longer than the longest pause.
    failures: Backoff,
    longest_pause: Duration,
}

impl Follower {
    pub(crate) fn new(prefix: Prefix, longest_pause: Duration, seed: u64) -> Follower {
        let failures = Backoff::new(longest_pause, seed);
        Follower { prefix, phase: Phase::anew(), view: View::default(), failures, longest_pause }
    }

    pub(crate) fn step(&self) -> Step {
        match &self.phase {
            Phase::Loading { after: None, .. } => Step::Load { after: None, revision: None },
            Phase::Loading { read, after } => {
                Step::Load { after: after.clone(), revision: Some(read.revision) }
            }
            Phase::Opening { revision } => Step::Open { revision: revision + 1 },
            Phase::Listening { .. } => Step::Listen,
            Phase::Pausing { until } => Step::Wait { until: *until },
        }
    }

    pub(crate) fn on(&mut self, input: Input, now: Duration) {
        match (input, &mut self.phase) {
            (Input::Waited, Phase::Pausing { .. }) => self.phase = Phase::anew(),
            (Input::Page(page), Phase::Loading { read, after }) => {
                read.revision = page.revision;
                page.records.iter().for_each(|record| read.put(&self.prefix, record));
                match page.records.last().filter(|_| page.more) {
                    Some(last) => *after = Some(last.key.clone()),
                    None => {
                        let read = std::mem::take(read);
                        self.phase = Phase::Opening { revision: read.revision };
                        self.loaded(read);
                    }
                }
            }
            (Input::Opened, Phase::Opening { .. }) => {
                self.phase = Phase::Listening { since: now };
                self.view.trouble = None;
            }
            (Input::Changed { changes, revision }, Phase::Listening { .. }) => {
                self.changed(&changes, revision)
            }
            (Input::Failed(fault), _) => self.failed(fault, now),
            _ => {}
        }
    }

    /// What is the same as before is no news, at whatever revision.
    fn loaded(&mut self, read: Snapshot) {
        let same = self
            .view
            .snapshot
            .as_ref()
            .is_some_and(|old| old.nodes == read.nodes && old.unreadable == read.unreadable);
        if !same {
            self.view.snapshot = Some(Arc::new(read));
        }
    }

    fn changed(&mut self, changes: &[Change], revision: i64) {
        let mut snapshot = self.view.snapshot.as_deref().cloned().unwrap_or_default();
        snapshot.revision = revision;
        for change in changes {
            match change {
                Change::Put(record) => snapshot.put(&self.prefix, record),
                Change::Gone(key) => {
                    if let Some(name) = self.prefix.node(key) {
                        snapshot.remove(name);
                    }
                }
            }
        }
        self.loaded(snapshot);
    }

    fn failed(&mut self, fault: Fault, now: Duration) {
        if matches!(self.phase, Phase::Listening { since } if now >= since + self.longest_pause) {
            self.failures.reset();
        }
        let is_first = self.failures.taken() == 0;
        let pause = self.failures.next();
        // Compacted history is read again at once, and after a pause where etcd compacts faster than we read.
        self.phase = match fault {
            Fault::Compacted if is_first => Phase::anew(),
            _ => Phase::Pausing { until: now + pause },
        };
        self.view.trouble = Some(match fault {
            Fault::Compacted => Error::Compacted,
            fault => fault.into_error(),
        });
    }

    pub(crate) fn view(&self) -> View {
        self.view.clone()
    }
}

impl Phase {
    fn anew() -> Phase {
        Phase::Loading { read: Snapshot::default(), after: None }
    }
}

#[cfg(test)]
#[path = "follower_tests.rs"]
mod tests;
