//! Which sessions there should be with the registries behind one name (SEMANTICS section 10, "Several
//! registries behind one name"): one with each address, but only one with the addresses of a cluster. Pure.
//!
//! Which cluster an address belongs to is known only when a session has been there. So each new address gets a
//! session, and when two sessions turn out to be with one cluster the newer goes on with the addresses of both:
//! its registration has replaced the older one there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// So many looks in a row must not find an address before it counts as gone: name servers have gaps.
const LOOKS_UNTIL_GONE: u32 = 3;
/// Sessions for one name; addresses beyond are left alone.
pub(super) const MAX_SESSIONS: usize = 64;

/// Names a session.
pub(super) type SessionNo = u32;

/// What there is, and what was heard of it.
#[derive(Debug, Default)]
pub(super) struct AddressPlan {
    sessions: BTreeMap<SessionNo, PlannedSession>,
    last: SessionNo,
}

/// One session.
#[derive(Debug, Default)]
struct PlannedSession {
    /// Where its registry is, each address with how often in a row it was not found.
    addresses: BTreeMap<SocketAddr, u32>,
    cluster: Option<Arc<str>>,
    bound: bool,
    /// Somebody has registered under our name where it is.
    replaced: bool,
}

/// What a session tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SessionReport {
    /// It is bound to a connection.
    pub(super) bound: bool,
    /// Where that leads.
    pub(super) peer: Option<SocketAddr>,
    /// What the registry calls its cluster; a reference server says nothing.
    pub(super) cluster: Option<Arc<str>>,
    /// The registry says that another session has taken its place.
    pub(super) replaced: bool,
}

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// A new session with what is at this address.
    Start(SessionNo, SocketAddr),
    /// This session's registry is at these addresses from now on; at least one.
    Move(SessionNo, Vec<SocketAddr>),
    /// The session ends, because of this.
    End(SessionNo, Reason),
    /// So many addresses are left alone.
    TooMany(usize),
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Its last address is gone.
    Gone,
    /// Another session is with the same cluster.
    SameCluster(SessionNo),
}

impl AddressPlan {
    /// The name has these addresses now. A look that found out nothing is none.
    pub(super) fn on_resolved(&mut self, found: &[SocketAddr]) -> Vec<Change> {
        let mut changes = self.miss(found);
        let is_known = |address| self.sessions.values().any(|held| held.addresses.contains_key(address));
        let mut new: Vec<SocketAddr> = found.iter().filter(|address| !is_known(address)).copied().collect();
        new.sort();
        new.dedup();
        let room = MAX_SESSIONS.saturating_sub(self.sessions.len());
        if new.len() > room {
            changes.push(Change::TooMany(new.len() - room));
        }
        changes.extend(new.into_iter().take(room).map(|address| self.start(address)));
        changes
    }

    /// A session told where it stands.
    pub(super) fn on_report(&mut self, no: SessionNo, report: &SessionReport) -> Vec<Change> {
        let Some(held) = self.sessions.get_mut(&no) else { return Vec::new() };
        (held.bound, held.replaced) = (report.bound, report.replaced);
        if held.is_taken() {
            // By one of ours, if any is known to be with a cluster: that session says so in a moment, or has.
            let newest = self.sessions.iter().rev().find(|(_, held)| held.cluster.is_some());
            return newest.map(|(newest, _)| *newest).map_or_else(Vec::new, |newest| self.unite(newest));
        }
        let Some(cluster) = report.cluster.as_ref().filter(|_| report.bound) else { return Vec::new() };
        let before = held.cluster.replace(cluster.clone());
        let mut changes = match (before, report.peer) {
            (Some(before), Some(peer)) if before != *cluster => self.part(no, peer),
            _ => Vec::new(),
        };
        changes.extend(self.unite(no));
        changes
    }

    /// Counts what was not found, and lets go of what is gone. A session that is connected has proof of its
    /// registry, whatever the name server says.
    fn miss(&mut self, found: &[SocketAddr]) -> Vec<Change> {
        let mut changes = Vec::new();
        self.sessions.retain(|no, held| {
            let before = held.addresses.len();
            for (address, missed) in &mut held.addresses {
                *missed = if found.contains(address) { 0 } else { missed.saturating_add(1) };
            }
            let gone = |missed: &u32| *missed >= LOOKS_UNTIL_GONE;
            if held.addresses.values().all(gone) {
                if !held.bound {
                    changes.push(Change::End(*no, Reason::Gone));
                }
                return held.bound;
            }
            held.addresses.retain(|_, missed| !gone(missed));
            if held.addresses.len() != before {
                changes.push(Change::Move(*no, held.places()));
            }
            true
        });
        changes
    }

    /// The registry at `peer` is of another cluster than before, so the other addresses need sessions of
    /// their own.
    fn part(&mut self, no: SessionNo, peer: SocketAddr) -> Vec<Change> {
        let Some(held) = self.sessions.get_mut(&no) else { return Vec::new() };
        let others: Vec<SocketAddr> =
            held.addresses.keys().filter(|address| **address != peer).copied().collect();
        if others.is_empty() || others.len() == held.addresses.len() {
            return Vec::new();
        }
        held.addresses.retain(|address, _| *address == peer);
        let mut changes = vec![Change::Move(no, vec![peer])];
        changes.extend(others.into_iter().map(|address| self.start(address)));
        changes
    }

    /// This session takes over the addresses of every other that is with its cluster, or was replaced before it
    /// could say with which it is.
    fn unite(&mut self, no: SessionNo) -> Vec<Change> {
        let Some(mut held) = self.sessions.remove(&no) else { return Vec::new() };
        let mut changes = Vec::new();
        self.sessions.retain(|other, with| {
            if with.cluster != held.cluster && !with.is_taken() {
                return true;
            }
            held.addresses.append(&mut with.addresses);
            changes.push(Change::End(*other, Reason::SameCluster(no)));
            false
        });
        if !changes.is_empty() {
            changes.insert(0, Change::Move(no, held.places()));
        }
        self.sessions.insert(no, held);
        changes
    }

    fn start(&mut self, address: SocketAddr) -> Change {
        self.last += 1;
        let held = PlannedSession { addresses: BTreeMap::from([(address, 0)]), ..PlannedSession::default() };
        self.sessions.insert(self.last, held);
        Change::Start(self.last, address)
    }
}

impl PlannedSession {
    fn is_taken(&self) -> bool {
        self.replaced && self.cluster.is_none()
    }

    fn places(&self) -> Vec<SocketAddr> {
        self.addresses.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests;
