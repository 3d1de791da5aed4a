//! A follower is told everything that the store holds: when it starts, when it has missed changes, and when it has led.
//!
//! What differs from what it has becomes changes, which it takes as if they had come one by one. So members that are in
//! both stay as they are, with their counters, breakers and probes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use registry_client::protocol::RouteId;

use crate::server::registry::model::{Delta, Now, Route, SessionNo, SessionState, StoreRevision};
use crate::server::registry::persist::{EndReason, PlaceRecord, SavedSession, SavedState, SessionMarks};

use super::Engine;

/// The routes of one session that one apply made as they are.
type Applies = BTreeMap<u64, Delta>;

impl Engine {
    /// Everything that the store holds at a revision.
    pub(super) fn load(&mut self, now: Now, revision: StoreRevision, saved: SavedState) {
        if self.role.leads() || revision < self.store_revision {
            return;
        }
        self.store_revision = revision;
        if self.sessions.is_unused() {
            return self.restore(now, saved);
        }
        let known: BTreeSet<SessionNo> =
            saved.sessions.iter().map(|saved| SessionNo(saved.session.no)).collect();
        for no in self.sessions.numbers() {
            let is_over = |state| state != SessionState::Retired && !known.contains(&no);
            if self.sessions.get(no).is_some_and(|session| is_over(session.state)) {
                let is_replaced = self.sessions.get(no).is_some_and(|session| session.replaced_by.is_some());
                let reason = if is_replaced { EndReason::Superseded } else { EndReason::Expired };
                self.take_end(now, no, reason);
            }
        }
        self.take_different_routes(now, &saved.sessions);
        for SavedSession { session, maintenance, marks, .. } in saved.sessions {
            let no = SessionNo(session.no);
            self.take_apply(now, &session, 0, &Delta { routes: Vec::new(), defaults: None }, None);
            self.take_maintenance(no, maintenance);
            self.take_marks(now, no, marks);
        }
    }

    /// Takes the routes and defaults that differ, in the order in which they were applied.
    fn take_different_routes(&mut self, now: Now, all: &[SavedSession]) {
        let mut applies: Vec<(u64, &SavedSession, Delta)> = Vec::new();
        for saved in all {
            let of_session = self.differences(saved);
            applies.extend(of_session.into_iter().map(|(applied, delta)| (applied, saved, delta)));
        }
        applies.sort_by_key(|(applied, saved, _)| (*applied, saved.session.no));
        for (applied, saved, delta) in applies {
            let no = SessionNo(saved.session.no);
            let is_new = self.sessions.get(no).is_none();
            let maintenance = is_new.then_some(&saved.maintenance);
            self.know(now, &saved.session);
            self.note_places_of_others(no, applied, &saved.marks, &delta);
            self.take_apply(now, &saved.session, applied, &delta, maintenance);
        }
    }

    /// Notes in which of its claims others serve in a session's place: where the marks say so, and where another service
    /// has applied the claim later.
    fn note_places_of_others(&mut self, no: SessionNo, applied: u64, marks: &SessionMarks, delta: &Delta) {
        let Some(session) = self.sessions.get(no) else { return };
        let service = &session.registration.service;
        let mut superseded = marks.superseded.clone();
        for (domain, path) in delta.claims() {
            let claim = self.membership.claim(domain, path).filter(|claim| claim.terms.service != *service);
            if claim.is_some_and(|claim| self.membership.last_apply(claim) > applied) {
                superseded.insert(PlaceRecord { domain: domain.clone(), path: path.clone() });
            }
        }
        if let Some(session) = self.sessions.get_mut(no) {
            session.superseded = superseded;
        }
    }

    /// What the store holds of a session and this replica does not, by the applies that made it. Routes that are gone go
    /// with the first of them.
    fn differences(&self, saved: &SavedSession) -> Applies {
        let none = BTreeMap::new();
        let session = self.sessions.get(SessionNo(saved.session.no));
        let session = session.filter(|session| session.state != SessionState::Retired);
        let applied = session.map_or(&none, |session| &session.applied);
        // A leader that stepped down may have superseded members of which the marks do not tell.
        let is_whole = session.is_none_or(|session| session.superseded == saved.marks.superseded);
        let mut applies = Applies::new();
        for (id, record) in &saved.routes {
            let route = Route::from(record.clone());
            if is_whole && applied.get(id).is_some_and(|applied| *applied.route == route) {
                continue;
            }
            delta(&mut applies, record.applied).routes.push((*id, Some(Arc::new(route))));
        }
        let has_other_defaults = session.is_none_or(|session| *session.defaults != saved.session.defaults);
        if has_other_defaults {
            delta(&mut applies, saved.session.defaults_applied).defaults =
                Some(saved.session.defaults.clone());
        }
        let gone: Vec<RouteId> =
            applied.keys().filter(|id| !saved.routes.contains_key(id)).copied().collect();
        if !gone.is_empty() {
            let first = applies.keys().next().copied().unwrap_or_default();
            let routes = &mut delta(&mut applies, first).routes;
            routes.extend(gone.into_iter().map(|id| (id, None)));
            routes.sort_by_key(|(id, _)| *id);
        }
        applies
    }
}

fn delta(applies: &mut Applies, applied: u64) -> &mut Delta {
    applies.entry(applied).or_insert_with(|| Delta { routes: Vec::new(), defaults: None })
}
