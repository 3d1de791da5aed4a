//! A session is resumed (PROTOCOL section 2).
//!
//! If it comes from another address than before, its backends may have been at the old one and gone with it. It would be
//! resumed, and its routes would lead nowhere, because not every client looks at them again. So such backends are asked
//! first, and a session whose backends do not answer has to register again (SEMANTICS section 4).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use registry_client::protocol::{BackendUrl, Refusal, Reply, SessionId, SessionRef};

use crate::server::registry::model::{ConnId, Now, SessionNo, address_of};
use crate::server::routing::{MemberId, Probe, ProbeKind};

use super::Engine;
use super::connections::Wait;
use super::queue::Outcome;

/// How many of its backends are asked at most. All of them were at one address.
const MAX_ASKED: usize = 4;

/// How long one may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// RECONNECTs that wait for a backend at an address that their session has left.
#[derive(Default)]
pub(super) struct Resumes {
    open: HashMap<ConnId, Resume>,
    conns: HashMap<MemberId, ConnId>,
}

struct Resume {
    id: SessionId,
    /// The ids under which its backends are asked.
    waiters: BTreeSet<MemberId>,
}

impl Resumes {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.conns.is_empty()
    }

    fn add(&mut self, conn: ConnId, id: SessionId, waiters: BTreeSet<MemberId>) {
        self.conns.extend(waiters.iter().map(|waiter| (*waiter, conn)));
        self.open.insert(conn, Resume { id, waiters });
    }

    fn take(&mut self, conn: ConnId) -> Option<Resume> {
        let resume = self.open.remove(&conn)?;
        for waiter in &resume.waiters {
            self.conns.remove(waiter);
        }
        Some(resume)
    }

    /// The backend that is asked under this id does not answer. Returns whether the RECONNECT waits for no other any more.
    fn failed(&mut self, waiter: MemberId, conn: ConnId) -> bool {
        self.conns.remove(&waiter);
        self.open.get_mut(&conn).is_some_and(|resume| {
            resume.waiters.remove(&waiter);
            resume.waiters.is_empty()
        })
    }
}

impl Engine {
    /// RECONNECT.
    pub(crate) fn reconnect(&mut self, now: Now, conn: ConnId, id: &SessionId) -> Outcome {
        let no = match self.resumable(conn, id) {
            Ok(no) => no,
            Err(reply) => return Outcome::Reply(reply),
        };
        let session = self.sessions.get(no).filter(|session| !session.peer.is_loopback());
        let left =
            session.map(|session| session.peer).filter(|left| self.connections.peer(conn) != Some(*left));
        let backends = left.map(|left| self.backends_at(no, left)).unwrap_or_default();
        let Some(left) = left.filter(|_| !backends.is_empty()) else {
            self.resume_session(now, conn, no);
            return Outcome::Reply(Reply::Ok);
        };
        if self.membership.is_suspended_at(&self.members_of(no), left) {
            return Outcome::Reply(self.register_again(now, no));
        }
        let ask = |backend| Probe {
            backend,
            peer: left,
            kind: ProbeKind::Connect,
            interval: PATIENCE,
            timeout: PATIENCE,
        };
        let waiters = backends.into_iter().map(|backend| self.membership.wait_for(ask(backend))).collect();
        self.resumes.add(conn, id.clone(), waiters);
        Outcome::Wait(Wait::Resume)
    }

    /// The session that RECONNECT may resume, or the reply where there is none. A session whose claim another service has
    /// taken over must register again, so that its client stages the route again and learns who has the claim.
    fn resumable(&self, conn: ConnId, id: &SessionId) -> Result<SessionNo, Reply> {
        match self.resolve(conn, &SessionRef::Id(id.clone())) {
            Ok(no) if self.sessions.get(no).is_some_and(|session| session.lost_claim) => {
                Err(Reply::Reregister)
            }
            Ok(no) => Ok(no),
            Err(Refusal::SessionReplaced) => Err(Reply::Error(Refusal::SessionReplaced)),
            Err(_) => Err(Reply::Reregister),
        }
    }

    /// The backends that a session has at an address, as many as are asked.
    fn backends_at(&self, no: SessionNo, ip: IpAddr) -> Vec<BackendUrl> {
        let mut backends: Vec<BackendUrl> = Vec::new();
        let Some(session) = self.sessions.get(no) else { return backends };
        let is_there = |backend: &&BackendUrl| address_of(backend) == Some(ip);
        for backend in session.applied.values().map(|applied| &applied.route.spec.backend).filter(is_there) {
            if backends.len() < MAX_ASKED && !backends.contains(backend) {
                backends.push(backend.clone());
            }
        }
        backends
    }

    /// A probe was answered, or not. RECONNECTs that wait for it under these ids are decided.
    pub(super) fn resume_probed(&mut self, now: Now, waiting: &[MemberId], passed: bool) {
        for waiter in waiting {
            let Some(conn) = self.resumes.conns.get(waiter).copied() else { continue };
            if !passed {
                self.membership.stop_waiting(*waiter);
            }
            if passed || self.resumes.failed(*waiter, conn) {
                self.resume_decided(now, conn, passed);
            }
        }
    }

    fn resume_decided(&mut self, now: Now, conn: ConnId, answers: bool) {
        let Some(id) = self.drop_resume(conn) else { return };
        if self.stop_waiting(conn, |wait| matches!(wait, Wait::Resume)).is_none() {
            return;
        }
        let reply = match self.resumable(conn, &id) {
            Ok(no) if answers => {
                self.resume_session(now, conn, no);
                Reply::Ok
            }
            Ok(no) => self.register_again(now, no),
            Err(reply) => reply,
        };
        self.send(conn, reply);
        self.resume(now, conn);
    }

    /// The session has left its address, and what it had there is gone or somebody else's. It counts as lost, and its members
    /// there as failed, so that requests wait for those of the session that its client registers now.
    fn register_again(&mut self, now: Now, no: SessionNo) -> Reply {
        let Some((left, older)) = self.sessions.get(no).map(|session| (session.peer, session.conn)) else {
            return Reply::Reregister;
        };
        if let Some(older) = older {
            self.connections.lose_bound(older, no);
        }
        self.unbind(now, no);
        self.membership.failed_at(&self.members_of(no), left);
        Reply::Reregister
    }

    fn members_of(&self, no: SessionNo) -> Vec<MemberId> {
        self.sessions.get(no).map(|session| session.members.iter().collect()).unwrap_or_default()
    }

    /// No RECONNECT waits any more: another replica leads.
    pub(super) fn abandon_resumes(&mut self) {
        for conn in self.resumes.open.keys().copied().collect::<Vec<_>>() {
            self.drop_resume(conn);
        }
    }

    /// The RECONNECT of this connection does not wait any more. Returns which session it is for.
    pub(super) fn drop_resume(&mut self, conn: ConnId) -> Option<SessionId> {
        let resume = self.resumes.take(conn)?;
        for waiter in resume.waiters {
            self.membership.stop_waiting(waiter);
        }
        Some(resume.id)
    }
}
