//! KEPT

use std::collections::BTreeMap;

use crate::server::registry::api::StoreChange;
use crate::server::registry::model::SessionNo;
use crate::server::registry::persist::MaintenanceRecord;
use crate::server::registry::session::{
    ActiveMaintenance, MaintenanceState, Place, Session, StoredMaintenance,
};

use super::Engine;
use super::commits::Pending;

impl Engine {
    /// What a store is to hold once something has been entered, or left, at these places: the sessions of which
    /// that changes anything, and which the store holds.
    pub(super) fn stored_after(
        &self,
        places: &[Place],
        entered: Option<&ActiveMaintenance>,
    ) -> StoredMaintenance {
        let mut after: BTreeMap<SessionNo, MaintenanceState> = BTreeMap::new();
        for (no, target) in places {
            let Some(session) = self.sessions.get(*no).filter(|session| is_stored(session)) else { continue };
            let maintenance = after.entry(*no).or_insert_with(|| session.maintenance.without_requests());
            maintenance.set(*target, entered.cloned());
        }
        let changes = |(no, record): &(SessionNo, MaintenanceRecord)| {
            self.sessions.get(*no).is_some_and(|session| session.maintenance.stored() != record)
        };
        after.into_iter().map(|(no, maintenance)| (no, maintenance.record())).filter(changes).collect()
    }

    /// What a session was given before its first apply, which is when the store takes it up.
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

    /// Lets the store know of a session's maintenance if it holds another.
    pub(super) fn store_maintenance_if_changed(&mut self, no: SessionNo) {
        let is_behind = |session: &Session| session.maintenance.record() != *session.maintenance.stored();
        if self.sessions.get(no).is_some_and(|session| is_stored(session) && is_behind(session)) {
            self.store_maintenance(no);
        }
    }

    /// Tells the store what the maintenance of a session is. Nobody waits for it.
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
