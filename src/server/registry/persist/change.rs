//! The change: the unit in which a store holds what happened, and in which replicas that share a store hear of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::server::registry::model::{Delta, SessionNo};

use super::{MaintenanceRecord, RouteRecord, SavedSession, SavedState, SessionMarks, SessionRecord};

/// A change that a store is asked to hold. It never contains a session's id.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreChange {
    /// A successful CONFIG_APPLY, or more route ids for a session.
    Applied {
        /// The session as this apply leaves it.
        session: Box<SessionRecord>,
        /// The number of this apply. Later applies, of whatever session, have greater numbers.
        applied: u64,
        /// The routes and defaults that change.
        delta: Arc<Delta>,
        /// The session's maintenance, with its first apply: the store holds nothing of the session before.
        maintenance: Option<Box<MaintenanceRecord>>,
    },
    /// MAINT_ENTER or MAINT_EXIT: the whole maintenance of these sessions. The store holds each of them.
    Maintenance(Vec<(SessionNo, MaintenanceRecord)>),
    /// The whole marks of these sessions. Only the leader of replicas asks for this. Those that the store does not hold
    /// have ended meanwhile, and have no marks.
    Marked(Vec<(SessionNo, SessionMarks)>),
    /// The session is over, and so are its routes, its maintenance and its marks.
    Ended(SessionNo, EndReason),
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// CLIENT_SHUTDOWN.
    ShutDown,
    /// It was lost, and did not return within its grace.
    Expired,
    /// Another session replaced it, and serves in its place.
    Superseded,
}

impl SavedState {
    /// Makes a change, as every store has to.
    pub fn apply(&mut self, change: &StoreChange) {
        match change {
            StoreChange::Applied { session, applied, delta, maintenance } => {
                let kept = self.entry(session);
                kept.session = (**session).clone();
                if let Some(maintenance) = maintenance {
                    kept.maintenance = (**maintenance).clone();
                }
                for (id, route) in &delta.routes {
                    match route {
                        Some(route) => drop(kept.routes.insert(*id, RouteRecord::new(route, *applied))),
                        None => drop(kept.routes.remove(id)),
                    }
                }
            }
            StoreChange::Maintenance(all) => {
                for (no, maintenance) in all {
                    if let Ok(at) = self.position(no.0) {
                        self.sessions[at].maintenance = maintenance.clone();
                    }
                }
            }
            StoreChange::Marked(all) => {
                for (no, marks) in all {
                    if let Ok(at) = self.position(no.0) {
                        self.sessions[at].marks = marks.clone();
                    }
                }
            }
            StoreChange::Ended(no, _) => {
                if let Ok(at) = self.position(no.0) {
                    self.sessions.remove(at);
                }
            }
        }
    }

    fn position(&self, no: u64) -> Result<usize, usize> {
        self.sessions.binary_search_by_key(&no, |saved| saved.session.no)
    }

    fn entry(&mut self, session: &SessionRecord) -> &mut SavedSession {
        let at = self.position(session.no).unwrap_or_else(|at| {
            let new = SavedSession {
                session: session.clone(),
                maintenance: MaintenanceRecord::default(),
                marks: SessionMarks::default(),
                routes: BTreeMap::new(),
            };
            self.sessions.insert(at, new);
            at
        });
        &mut self.sessions[at]
    }
}
