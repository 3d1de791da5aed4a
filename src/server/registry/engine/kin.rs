//! Sessions that are kin at an address: neither suspends the other's members there (SEMANTICS section 4).

use crate::server::registry::model::{Now, SessionNo};
use crate::server::registry::persist::StoreChange;

use super::Engine;
use super::pending_commits::Pending;

impl Engine {
    /// Remembers which sessions have met at an address with backends that answer.
    pub(super) fn note_kin(&mut self, now: Now) {
        for ip in self.membership.take_met() {
            // A follower is told by the records.
            if !self.role.leads() || !self.sessions.is_one_container(ip) {
                continue;
            }
            let met: Vec<SessionNo> = self.membership.proven_at(ip).collect();
            for no in self.sessions.meet(ip, &met) {
                self.store_kin(now, no);
            }
        }
    }

    /// Tells the store of a session's kin, unless another change of the session is with it: then it is told after that.
    pub(super) fn store_kin(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no).filter(|session| session.revision > 0) else { return };
        session.has_new_kin = session.pending.is_some();
        if session.has_new_kin {
            return;
        }
        if let Some(change) = self.unchanged(now, no) {
            self.commit(no, change, Pending::StoreKin(no));
        }
    }

    /// Tells the store of kin that were found while it decided on another change of the session.
    pub(super) fn store_new_kin(&mut self, now: Now, no: SessionNo) {
        if self.sessions.get(no).is_some_and(|session| session.has_new_kin) {
            self.store_kin(now, no);
        }
    }

    /// The session as its last apply left it, for the store.
    pub(super) fn unchanged(&self, now: Now, no: SessionNo) -> Option<StoreChange> {
        let session = self.sessions.get(no)?;
        let mut record = session.record(now);
        record.revision = session.revision;
        record.last_apply = session.last_apply.unwrap_or(now.wall);
        record.shared_address = !self.sessions.is_one_container(session.peer);
        record.replaced = self.sessions.replaced_by(session);
        let (session, applied) = (Box::new(record), self.commits.next_number());
        Some(StoreChange::Applied { session, applied, delta: Default::default(), maintenance: None })
    }
}
