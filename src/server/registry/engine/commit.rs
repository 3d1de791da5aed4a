//! The second step of an apply: the store is asked to hold the change (PROTOCOL section 4, SEMANTICS section 7).
//!
//! Until the store has decided, the session is as it was and its further commands wait.

use std::sync::Arc;

use registry_client::protocol::{Refusal, Reply, Scope, ServiceName};

use crate::server::registry::api::Effect;
use crate::server::registry::model::{ConnId, Delta, Now, SessionNo, Tx};
use crate::server::registry::persist::{MaintenanceRecord, SessionRecord, StoreChange};

use super::Engine;
use super::connections::Wait;
use super::pending_commits::Pending;
use super::queue::Outcome;

impl Engine {
    /// CONFIG_APPLY, or CONFIG_APPLY_PARTIAL of some scopes: validates the change and asks the store to hold it. The stage
    /// stays as it is until the store has decided.
    pub(crate) fn apply(
        &mut self,
        now: Now,
        no: SessionNo,
        conn: ConnId,
        scopes: Option<Vec<Scope>>,
    ) -> Outcome {
        let Some(session) = self.sessions.get(no) else {
            return Outcome::Reply(Reply::Error(Refusal::SessionNotFound));
        };
        let delta = match &scopes {
            None => session.stage.delta(&session.applied, &session.defaults),
            Some(scopes) => {
                let (now, _) = session.stage.split(scopes, &session.applied);
                now.delta(&session.applied, &session.defaults)
            }
        };
        let delta = Arc::new(delta);
        if let Some(refusal) = self.objection(no, &delta) {
            return Outcome::Reply(Reply::Error(refusal));
        }
        let applied = self.commits.next_number();
        let Some((session, service)) = self.record_after(now, no, applied, &delta) else {
            return Outcome::Reply(Reply::Error(Refusal::SessionNotFound));
        };
        let maintenance = self.first_maintenance(no);
        let stored = maintenance.iter().map(|record| (no, MaintenanceRecord::clone(record))).collect();
        let change =
            StoreChange::Applied { session: Box::new(session), applied, delta: delta.clone(), maintenance };
        let pending = Pending::Apply { session: no, conn, service, delta, scopes, stored };
        Outcome::Wait(Wait::Store(self.commit(no, change, pending)))
    }

    /// The session's record after the apply of this number.
    fn record_after(
        &self,
        now: Now,
        no: SessionNo,
        applied: u64,
        delta: &Delta,
    ) -> Option<(SessionRecord, ServiceName)> {
        let session = self.sessions.get(no)?;
        let mut record = session.record(now);
        record.shared_address = !self.sessions.is_one_container(session.peer);
        record.replaced = self.sessions.replaced_by(session);
        if let Some(defaults) = &delta.defaults {
            record.defaults = defaults.clone();
            record.defaults_applied = applied;
        }
        Some((record, session.registration.service.clone()))
    }

    /// Asks the store to hold a change. Until it has decided, further commands for the session wait.
    pub(super) fn commit(&mut self, no: SessionNo, change: StoreChange, pending: Pending) -> Tx {
        debug_assert!(self.role.leads(), "a follower asks the store for nothing");
        let is_waited_for =
            !matches!(pending, Pending::Forget(_) | Pending::StoreMaintenance(_) | Pending::StoreKin(_));
        let tx = self.commits.add(pending);
        if is_waited_for && let Some(session) = self.sessions.get_mut(no) {
            session.pending = Some(tx);
        }
        self.push(Effect::Commit(tx, change));
        tx
    }
}
