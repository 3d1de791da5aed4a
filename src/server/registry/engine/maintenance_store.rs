//! What the store holds of sessions' maintenance (SEMANTICS section 7).
//!
//! The store holds the maintenance of a session from its first apply on, as a whole and apart from its routes. If it turns
//! out to hold something else than is in force, because requests of several sessions changed one session's maintenance,
//! it is told again.

use std::collections::BTreeMap;

use crate::server::registry::model::SessionNo;
use crate::server::registry::persist::{MaintenanceRecord, StoreChange};
use crate::server::registry::session::{
    ActiveMaintenance, MaintenanceState, Place, Session, StoredMaintenance,
};

use super::Engine;
use super::pending_commits::Pending;

impl Engine {
    /// The maintenance of the sessions that the store holds, once something has been entered or left at these places.
    /// Sessions whose maintenance this does not change are left out.
    pub(super) fn stored_after(
        &self,
        places: &[Place],
        entered: Option<&ActiveMaintenance>,
    ) -> StoredMaintenance {
        let mut after: BTreeMap<SessionNo, MaintenanceState> = BTreeMap::new();
        for (no, target) in places {
            let Some(session) = self.sessions.get(*no).filter(|session| is_stored(session)) else { continue };
            let maintenance = after.entry(*no).or_insert_with(|| session.maintenance.without_requests());
            maintenance.set(*target, entered.map(|entered| entered.of(*no)));
        }
        let changes = |(no, record): &(SessionNo, MaintenanceRecord)| {
            self.sessions.get(*no).is_some_and(|session| session.maintenance.stored() != record)
        };
        after.into_iter().map(|(no, maintenance)| (no, maintenance.record())).filter(changes).collect()
    }

    /// The maintenance that a session was given before its first apply, with which the store is told of it.
    pub(super) fn first_maintenance(&self, no: SessionNo) -> Option<Box<MaintenanceRecord>> {
        let session = self.sessions.get(no).filter(|session| !is_stored(session))?;
        Some(session.maintenance.record()).filter(|record| !record.is_empty()).map(Box::new)
    }

    /// The store holds this.
    pub(super) fn maintenance_is_stored(&mut self, stored: &StoredMaintenance) {
        for (no, record) in stored {
            if let Some(session) = self.sessions.get_mut(*no) {
                session.maintenance.set_stored(record);
            }
        }
    }

    /// Tells the store of a session's maintenance if it holds something else.
    pub(super) fn store_maintenance_if_changed(&mut self, no: SessionNo) {
        let is_behind = |session: &Session| session.maintenance.record() != *session.maintenance.stored();
        if self.sessions.get(no).is_some_and(|session| is_stored(session) && is_behind(session)) {
            self.store_maintenance(no);
        }
    }

    /// Tells the store of a session's maintenance. No command waits for that.
    pub(super) fn store_maintenance(&mut self, no: SessionNo) {
        let Some(session) = self.sessions.get(no).filter(|session| is_stored(session)) else { return };
        let stored = vec![(no, session.maintenance.record())];
        self.commit(no, StoreChange::Maintenance(stored.clone()), Pending::StoreMaintenance(stored));
    }
}

/// Whether a store holds the session.
fn is_stored(session: &Session) -> bool {
    session.revision > 0
}
