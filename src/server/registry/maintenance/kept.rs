//! What a store holds of maintenance (SEMANTICS section 7).
//!
//! It holds the maintenance of a session from the session's first apply on, whole, beside what is applied: the two
//! change by themselves. A change that is asked for is made when the store holds it. Where the store turns out to
//! hold something else after all, because two requests about one session came by different ways, it is told again.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::protocol::RouteId;
use crate::server::registry::Registry;
use crate::server::registry::apply::Pending;
use crate::server::registry::io::{Change, SessionNo, Who};
use crate::server::registry::persist::{EnteredRecord, MaintenanceRecord, PageRecord};
use crate::server::registry::pools::Pools;
use crate::server::registry::session::Session;
use crate::server::routing::Maintenance;

use super::{Entered, Maintained, Place};

/// The maintenance of sessions as a store is to hold it.
pub(in super::super) type Kept = Vec<(SessionNo, MaintenanceRecord)>;

impl Maintained {
    fn record(&self) -> MaintenanceRecord {
        let routes = self.routes.iter().map(|(id, entered)| (*id, entered.as_ref().map(Entered::record)));
        MaintenanceRecord { all: self.all.as_ref().map(Entered::record), routes: routes.collect() }
    }

    /// As a store held it, for a session that has these routes.
    pub(in super::super) fn restore(
        record: MaintenanceRecord,
        who: &Who,
        has: impl Fn(RouteId) -> bool,
        pools: &mut Pools,
    ) -> Self {
        let mut entered = |record: &EnteredRecord| {
            let page = record.page.as_ref().map(|page| pools.page(page.url.clone(), who, page.peer));
            Entered { shown: Arc::new(Maintenance { page }), at: record.at }
        };
        let all = record.all.as_ref().map(&mut entered);
        let of_routes = record.routes.iter().filter(|(id, _)| has(**id));
        let routes: BTreeMap<_, _> =
            of_routes.map(|(id, record)| (*id, record.as_ref().map(&mut entered))).collect();
        Maintained { all, routes, kept: record, ..Maintained::default() }
    }
}

impl Entered {
    fn record(&self) -> EnteredRecord {
        let page = self.shown.page.as_ref();
        EnteredRecord {
            at: self.at,
            page: page.map(|page| PageRecord { url: page.backend.clone(), peer: page.terms.peer }),
        }
    }
}

impl Registry {
    /// What a store is to hold once something has been entered, or left, at these places: the sessions of which
    /// that changes anything, and which the store holds.
    pub(super) fn kept_after(&self, places: &[Place], entered: Option<&Entered>) -> Kept {
        let mut after: BTreeMap<SessionNo, Maintained> = BTreeMap::new();
        for (no, slot) in places {
            let Some(session) = self.sessions.get(*no).filter(|session| is_held(session)) else { continue };
            let maintained = after.entry(*no).or_insert_with(|| Maintained {
                all: session.maintained.all.clone(),
                routes: session.maintained.routes.clone(),
                ..Maintained::default()
            });
            maintained.set(*slot, entered.cloned());
        }
        let changes = |(no, record): &(SessionNo, MaintenanceRecord)| {
            self.sessions.get(*no).is_some_and(|session| session.maintained.kept != *record)
        };
        after.into_iter().map(|(no, maintained)| (no, maintained.record())).filter(changes).collect()
    }

    /// What a session was given before its first apply, which is when the store takes it up.
    pub(in super::super) fn first_maintenance(&self, no: SessionNo) -> Option<Box<MaintenanceRecord>> {
        let session = self.sessions.get(no).filter(|session| !is_held(session))?;
        Some(session.maintained.record()).filter(|record| !record.is_empty()).map(Box::new)
    }

    /// The store holds this.
    pub(in super::super) fn is_kept(&mut self, kept: &Kept) {
        for (no, record) in kept {
            if let Some(session) = self.sessions.get_mut(*no) {
                session.maintained.kept.clone_from(record);
            }
        }
    }

    /// Lets the store know of a session's maintenance if it holds another.
    pub(in super::super) fn keep_up(&mut self, no: SessionNo) {
        let is_behind = |session: &Session| session.maintained.record() != session.maintained.kept;
        if self.sessions.get(no).is_some_and(|session| is_held(session) && is_behind(session)) {
            self.remember_maintenance(no);
        }
    }

    /// Tells the store what the maintenance of a session is. Nobody waits for it.
    pub(in super::super) fn remember_maintenance(&mut self, no: SessionNo) {
        let Some(session) = self.sessions.get(no).filter(|session| is_held(session)) else { return };
        let kept = vec![(no, session.maintained.record())];
        self.commit(no, Change::Maintained(kept.clone()), Pending::Remember(kept));
    }
}

/// Whether a store holds the session.
fn is_held(session: &Session) -> bool {
    session.revision > 0
}
