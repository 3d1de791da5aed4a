//! Decides which sessions there should be with the registries behind one name (SEMANTICS section 10, "Several
//! registries behind one name"): one for each address, but only one for all addresses of a cluster. Pure.
//!
//! The cluster of an address is known only once a session was bound there. So each new address gets a session. When
//! two sessions turn out to be with one cluster, the newer takes over the addresses of both, because its
//! registration has replaced the older one there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// How many resolutions in a row must miss an address before it counts as gone: name servers have gaps.
const MISSES_UNTIL_GONE: u32 = 3;
/// The most sessions for one name. Further addresses get none.
pub(super) const MAX_SESSIONS: usize = 64;

/// Numbers the sessions of a name, in the order in which they start.
pub(super) type SessionNo = u32;

/// The sessions of a name, and what is known of them.
#[derive(Debug, Default)]
pub(super) struct AddressPlan {
    sessions: BTreeMap<SessionNo, PlannedSession>,
    last: SessionNo,
}

/// A session that is running.
#[derive(Debug, Default)]
struct PlannedSession {
    /// The addresses of its registry, each with how many resolutions in a row have missed it.
    addresses: BTreeMap<SocketAddr, u32>,
    cluster: Option<Arc<str>>,
    bound: bool,
    /// The registry says that another session has registered under the same names.
    replaced: bool,
}

/// What a session reports of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SessionReport {
    /// The session is bound to a connection.
    pub(super) bound: bool,
    /// The other end of that connection.
    pub(super) peer: Option<SocketAddr>,
    /// The registry's cluster. A reference server names none.
    pub(super) cluster: Option<Arc<str>>,
    /// The registry says that another session has registered under the same names.
    pub(super) replaced: bool,
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Start a session with the registry at this address.
    Start(SessionNo, SocketAddr),
    /// Let the session use these addresses from now on; there is at least one.
    Move(SessionNo, Vec<SocketAddr>),
    /// End the session, for this reason.
    End(SessionNo, Reason),
    /// Start none for this many addresses, because there are too many.
    TooMany(usize),
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The name no longer has any of its addresses.
    Gone,
    /// Another session is with the same cluster.
    SameCluster(SessionNo),
}

impl AddressPlan {
    /// The name resolves to these addresses now. Do not call it for a resolution that failed.
    pub(super) fn on_resolved(&mut self, found: &[SocketAddr]) -> Vec<Change> {
        let mut changes = self.count_missing(found);
        let is_known =
            |address| self.sessions.values().any(|session| session.addresses.contains_key(address));
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

    /// A session has reported a change.
    pub(super) fn on_report(&mut self, no: SessionNo, report: &SessionReport) -> Vec<Change> {
        let Some(session) = self.sessions.get_mut(&no) else { return Vec::new() };
        (session.bound, session.replaced) = (report.bound, report.replaced);
        if session.is_replaced_by_unknown() {
            // The other session is one of ours if we have any with a known cluster: merge into the newest of those.
            let newest = self.sessions.iter().rev().find(|(_, session)| session.cluster.is_some());
            return newest.map(|(newest, _)| *newest).map_or_else(Vec::new, |newest| self.merge(newest));
        }
        let Some(cluster) = report.cluster.as_ref().filter(|_| report.bound) else { return Vec::new() };
        let before = session.cluster.replace(cluster.clone());
        let mut changes = match (before, report.peer) {
            (Some(before), Some(peer)) if before != *cluster => self.split(no, peer),
            _ => Vec::new(),
        };
        changes.extend(self.merge(no));
        changes
    }

    /// Counts the addresses that were not found, and drops those that are gone. A bound session stays whatever the
    /// name server says, because its connection proves that the registry is there.
    fn count_missing(&mut self, found: &[SocketAddr]) -> Vec<Change> {
        let mut changes = Vec::new();
        self.sessions.retain(|no, session| {
            let before = session.addresses.len();
            for (address, missed) in &mut session.addresses {
                *missed = if found.contains(address) { 0 } else { missed.saturating_add(1) };
            }
            let gone = |missed: &u32| *missed >= MISSES_UNTIL_GONE;
            if session.addresses.values().all(gone) {
                if !session.bound {
                    changes.push(Change::End(*no, Reason::Gone));
                }
                return session.bound;
            }
            session.addresses.retain(|_, missed| !gone(missed));
            if session.addresses.len() != before {
                changes.push(Change::Move(*no, session.address_list()));
            }
            true
        });
        changes
    }

    /// The registry at `peer` now belongs to another cluster, so the session's other addresses need sessions of their
    /// own.
    fn split(&mut self, no: SessionNo, peer: SocketAddr) -> Vec<Change> {
        let Some(session) = self.sessions.get_mut(&no) else { return Vec::new() };
        let others: Vec<SocketAddr> =
            session.addresses.keys().filter(|address| **address != peer).copied().collect();
        if others.is_empty() || others.len() == session.addresses.len() {
            return Vec::new();
        }
        session.addresses.retain(|address, _| *address == peer);
        let mut changes = vec![Change::Move(no, vec![peer])];
        changes.extend(others.into_iter().map(|address| self.start(address)));
        changes
    }

    /// The session takes over the addresses of every other session that is with its cluster, or that was replaced
    /// before its cluster was known.
    fn merge(&mut self, no: SessionNo) -> Vec<Change> {
        let Some(mut session) = self.sessions.remove(&no) else { return Vec::new() };
        let mut changes = Vec::new();
        self.sessions.retain(|other, with| {
            if with.cluster != session.cluster && !with.is_replaced_by_unknown() {
                return true;
            }
            session.addresses.append(&mut with.addresses);
            changes.push(Change::End(*other, Reason::SameCluster(no)));
            false
        });
        if !changes.is_empty() {
            changes.insert(0, Change::Move(no, session.address_list()));
        }
        self.sessions.insert(no, session);
        changes
    }

    fn start(&mut self, address: SocketAddr) -> Change {
        self.last += 1;
        let session =
            PlannedSession { addresses: BTreeMap::from([(address, 0)]), ..PlannedSession::default() };
        self.sessions.insert(self.last, session);
        Change::Start(self.last, address)
    }
}

impl PlannedSession {
    fn is_replaced_by_unknown(&self) -> bool {
        self.replaced && self.cluster.is_none()
    }

    fn address_list(&self) -> Vec<SocketAddr> {
        self.addresses.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests;
