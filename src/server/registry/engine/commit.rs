//! The second step of an apply: the store is asked to hold the change (PROTOCOL section 4, SEMANTICS section 7).

use super::Engine;
use super::commits::Pending;
use super::connections::Wait;
use super::queue::Outcome;
use crate::server::registry::api::{Change, Effect};
use crate::server::registry::model::{ConnId, Delta, Now, SessionNo, Tx};
use crate::server::registry::persist::{MaintenanceRecord, SessionRecord};
use registry_client::protocol::{Refusal, Reply, Scope, ServiceName};
use std::sync::Arc;

impl Engine {
    /// CONFIG_APPLY, or CONFIG_APPLY_PARTIAL of some scopes, up to the store. The stage stays as it is until that
    /// has decided.
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
        let kept = maintenance.iter().map(|record| (no, MaintenanceRecord::clone(record))).collect();
        let change =
            Change::Applied { session: Box::new(session), applied, delta: delta.clone(), maintenance };
        let pending = Pending::Apply { session: no, conn, service, delta, scopes, kept };
        Outcome::Wait(Wait::Store(self.commit(no, change, pending)))
    }

    /// What the store is to hold of a session once the apply of this number has changed it.
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

    /// Asks the store. Until it has decided, further commands for the session wait.
    pub(super) fn commit(&mut self, no: SessionNo, change: Change, pending: Pending) -> Tx {
        let is_waited_for = !matches!(pending, Pending::Forget(_) | Pending::Remember(_));
        let tx = self.commits.add(pending);
        if is_waited_for && let Some(session) = self.sessions.get_mut(no) {
            session.pending = Some(tx);
        }
        self.push(Effect::Commit(tx, change));
        tx
    }
}
