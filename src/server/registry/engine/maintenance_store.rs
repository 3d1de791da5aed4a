//! KEPT

use super::Engine;
use super::commits::Pending;
use crate::server::registry::api::Change;
use crate::server::registry::model::SessionNo;
use crate::server::registry::persist::MaintenanceRecord;
use crate::server::registry::session::{Entered, Kept, Maintained, Place, Session};
use std::collections::BTreeMap;

impl Engine {
    /// What a store is to hold once something has been entered, or left, at these places: the sessions of which
    /// that changes anything, and which the store holds.
    pub(super) fn kept_after(&self, places: &[Place], entered: Option<&Entered>) -> Kept {
        let mut after: BTreeMap<SessionNo, Maintained> = BTreeMap::new();
        for (no, slot) in places {
            let Some(session) = self.sessions.get(*no).filter(|session| is_held(session)) else { continue };
            let maintained = after.entry(*no).or_insert_with(|| session.maintained.without_requests());
            maintained.set(*slot, entered.cloned());
        }
        let changes = |(no, record): &(SessionNo, MaintenanceRecord)| {
            self.sessions.get(*no).is_some_and(|session| session.maintained.kept() != record)
        };
        after.into_iter().map(|(no, maintained)| (no, maintained.record())).filter(changes).collect()
    }

    /// What a session was given before its first apply, which is when the store takes it up.
    pub(super) fn first_maintenance(&self, no: SessionNo) -> Option<Box<MaintenanceRecord>> {
        let session = self.sessions.get(no).filter(|session| !is_held(session))?;
        Some(session.maintained.record()).filter(|record| !record.is_empty()).map(Box::new)
    }

    /// The store holds this.
    pub(super) fn is_kept(&mut self, kept: &Kept) {
        for (no, record) in kept {
            if let Some(session) = self.sessions.get_mut(*no) {
                session.maintained.set_kept(record);
            }
        }
    }

    /// Lets the store know of a session's maintenance if it holds another.
    pub(super) fn keep_up(&mut self, no: SessionNo) {
        let is_behind = |session: &Session| session.maintained.record() != *session.maintained.kept();
        if self.sessions.get(no).is_some_and(|session| is_held(session) && is_behind(session)) {
            self.remember_maintenance(no);
        }
    }

    /// Tells the store what the maintenance of a session is. Nobody waits for it.
    pub(super) fn remember_maintenance(&mut self, no: SessionNo) {
        let Some(session) = self.sessions.get(no).filter(|session| is_held(session)) else { return };
        let kept = vec![(no, session.maintained.record())];
        self.commit(no, Change::Maintained(kept.clone()), Pending::Remember(kept));
    }
}

/// Whether a store holds the session.
fn is_held(session: &Session) -> bool {
    session.revision > 0
}
