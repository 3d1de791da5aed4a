//! Changes that are on their way to the store, and what each is for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use registry_client::protocol::{Domain, PathPrefix, Reply, Scope, ServiceName};

use crate::server::registry::model::{ConnId, Delta, SessionNo, Tx};
use crate::server::registry::persist::SessionMarks;
use crate::server::registry::session::{Draining, PendingEntry, StoredMaintenance};

use super::pending_claims::PendingClaims;

/// A drain that begins when the store holds it.
pub(super) struct BeginningDrain {
    pub(super) draining: Draining,
    pub(super) end: Instant,
    pub(super) reply: Reply,
}

/// What to do when the store has decided on a change.
pub(super) enum Pending {
    /// CONFIG_APPLY.
    Apply {
        session: SessionNo,
        conn: ConnId,
        service: ServiceName,
        delta: Arc<Delta>,
        /// Which part of the stage is applied; `None`: all of it.
        scopes: Option<Vec<Scope>>,
        /// The maintenance that the store is told of with the session's first apply.
        stored: StoredMaintenance,
    },
    /// CLIENT_SHUTDOWN.
    ShutDown { session: SessionNo, conn: ConnId },
    /// MAINT_ENTER.
    Entering { session: SessionNo, conn: ConnId, entering: Box<PendingEntry>, stored: StoredMaintenance },
    /// More route ids. The command that needs them waits.
    Reserving {
        session: SessionNo,
        conn: ConnId,
        /// How many were given out.
        last: u32,
    },
    /// A MAINT_EXIT whose verdict is ready and is sent after the decision.
    Leaving { session: SessionNo, stored: StoredMaintenance },
    /// The store holds an older maintenance. Nobody waits for this.
    StoreMaintenance(StoredMaintenance),
    /// The store does not know all kin of the session. Nobody waits for this.
    StoreKin(SessionNo),
    /// The grace of a session is over.
    Expiry(SessionNo),
    /// The session is over already. Nobody waits for this.
    Forget(SessionNo),
    /// DRAIN_START or DRAIN_CANCEL of a replica's session: in force, and answered, when the store holds it.
    Draining {
        session: SessionNo,
        conn: ConnId,
        begins: Option<Box<BeginningDrain>>,
        marks: Box<SessionMarks>,
    },
    /// Marks of sessions. Nobody waits for this.
    Marks(Vec<(SessionNo, SessionMarks)>),
}

/// The changes that the store has not decided on.
#[derive(Default)]
pub(super) struct Commits {
    last: u64,
    open: HashMap<Tx, Pending>,
    claims: PendingClaims,
}

impl Commits {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether nothing is kept of any change.
    #[cfg(test)]
    pub(super) fn is_clear(&self) -> bool {
        self.open.is_empty() && self.claims.is_empty()
    }

    /// Forgets all of them: this replica does not lead any more, so what became of them comes from the store's records.
    pub(super) fn abandon(&mut self) {
        self.open.clear();
        self.claims = PendingClaims::default();
    }

    /// The number that the next change will have.
    pub(super) fn next_number(&self) -> u64 {
        self.last + 1
    }

    /// A store that was restored has changes up to this number.
    pub(super) fn skip_to(&mut self, number: u64) {
        self.last = self.last.max(number);
    }

    /// Whether a change that is on its way begins or ends a drain.
    pub(super) fn is_drain(&self, tx: Tx) -> bool {
        matches!(self.open.get(&tx), Some(Pending::Draining { .. }))
    }

    /// A change is on its way.
    pub(super) fn add(&mut self, pending: Pending) -> Tx {
        self.last += 1;
        let tx = Tx(self.last);
        if matches!(pending, Pending::Apply { .. }) {
            self.claims.add(tx);
        }
        self.open.insert(tx, pending);
        tx
    }

    /// The store has decided. Returns what the change was for.
    pub(super) fn take(&mut self, tx: Tx) -> Option<Pending> {
        let pending = self.open.remove(&tx)?;
        if let Pending::Apply { delta, .. } = &pending {
            self.claims.remove(tx, delta);
        }
        Some(pending)
    }

    /// Whether the change ends its session. `None`: the store has decided on it.
    pub(super) fn ends_session(&self, tx: Tx) -> Option<bool> {
        let pending = self.open.get(&tx)?;
        Some(matches!(pending, Pending::ShutDown { .. } | Pending::Expiry(_)))
    }

    /// Brings [`Commits::claimant`] up to date.
    pub(super) fn index_claims(&mut self) {
        let open = &self.open;
        self.claims.index(|tx| match open.get(&tx) {
            Some(Pending::Apply { service, delta, .. }) => Some((service, &**delta)),
            _ => None,
        });
    }

    /// Which service other than `besides` is about to have a claim on a host, as of the last [`Commits::index_claims`].
    pub(super) fn host_claimant(&self, host: &Domain, besides: &ServiceName) -> Option<&ServiceName> {
        self.claims.host_claimant(host, besides)
    }

    /// Which service is about to have a claim, as of the last [`Commits::index_claims`].
    pub(super) fn claimant(&self, domain: &Domain, path: &PathPrefix) -> Option<&ServiceName> {
        self.claims.claimant(domain, path)
    }
}
