//! A follower takes up what the leader decided (docs/internals/cluster.md).
//!
//! The sessions, routes, members and owners of claims are a function of the records. Whether a member answers is each
//! replica's own finding. Taking a change twice changes nothing.

use std::collections::BTreeSet;

use registry_client::protocol::{RouteId, RouteOrAll};

use crate::server::registry::model::{Delta, Now, SessionEvent, SessionNo, SessionState, StoreRevision};
use crate::server::registry::persist::{
    EndReason, MaintenanceRecord, SessionMarks, SessionRecord, StoreChange,
};
use crate::server::registry::session::{Draining, Lost, MaintenanceState};
use crate::server::routing::MemberId;

use super::Engine;

impl Engine {
    /// The changes of one revision, or of several. The table is published when all of them are in it.
    pub(super) fn replicate(&mut self, now: Now, revision: StoreRevision, changes: Vec<StoreChange>) {
        if self.role.leads() || revision <= self.store_revision {
            return;
        }
        self.store_revision = revision;
        for change in changes {
            match change {
                StoreChange::Applied { session, applied, delta, maintenance } => {
                    self.take_places_back(SessionNo(session.no), &delta);
                    self.take_apply(now, &session, applied, &delta, maintenance.as_deref());
                }
                StoreChange::Maintenance(all) => {
                    for (no, record) in all {
                        self.take_maintenance(no, record);
                    }
                }
                StoreChange::Marked(all) => {
                    for (no, marks) in all {
                        self.take_marks(now, no, marks);
                    }
                }
                StoreChange::Ended(no, reason) => self.take_end(now, no, reason),
            }
        }
    }

    /// An apply. One without routes and defaults only tells how many route ids were given out.
    pub(super) fn take_apply(
        &mut self,
        now: Now,
        record: &SessionRecord,
        applied: u64,
        delta: &Delta,
        maintenance: Option<&MaintenanceRecord>,
    ) {
        let no = SessionNo(record.no);
        self.commits.skip_to(applied);
        self.know(now, record);
        if record.shared_address {
            self.sessions.is_shared(record.peer, self.config.limits.shared_addresses);
        }
        self.take_predecessors(now, record);
        if let Some(maintenance) = maintenance {
            let routes: BTreeSet<_> = delta.routes.iter().map(|(id, _)| *id).collect();
            self.set_maintenance_record(no, maintenance.clone(), |id| routes.contains(&id));
        }
        if !delta.routes.is_empty() || delta.defaults.is_some() {
            self.install(now, no, applied, delta, None);
        }
        self.sessions.update(record);
    }

    /// Adds the session of a record, unless it is known.
    pub(super) fn know(&mut self, now: Now, record: &SessionRecord) {
        let no = SessionNo(record.no);
        if self.sessions.get(no).is_some_and(|session| session.state == SessionState::Retired) {
            // The former leader had ended it, and the store does not hold that.
            self.advance(now, no, SessionEvent::Ended);
        }
        if self.sessions.get(no).is_none() {
            self.sessions.restore(now, record.clone());
            self.advance(now, no, SessionEvent::Followed);
        }
    }

    /// The sessions that this one replaced.
    fn take_predecessors(&mut self, now: Now, record: &SessionRecord) {
        let no = SessionNo(record.no);
        for older in &record.replaced {
            let Some(session) = self.sessions.get_mut(SessionNo(older.no)) else {
                self.sessions.restore_replaced(now, older, record);
                continue;
            };
            session.replaced_by = Some(no);
            session.predecessors.clear();
            self.advance(now, SessionNo(older.no), SessionEvent::Replaced);
        }
        let before = self.sessions.get(no).map(|session| session.predecessors.clone()).unwrap_or_default();
        for older in before {
            if record.replaced.iter().all(|replaced| replaced.no != older.0) {
                self.advance(now, older, SessionEvent::Forgotten);
            }
        }
    }

    /// MAINT_ENTER or MAINT_EXIT.
    pub(super) fn take_maintenance(&mut self, no: SessionNo, record: MaintenanceRecord) {
        let Some(session) = self.sessions.get(no) else { return };
        if *session.maintenance.stored() == record && session.maintenance.record() == record {
            return;
        }
        let known: BTreeSet<_> = session.applied.keys().copied().collect();
        self.set_maintenance_record(no, record, |id| known.contains(&id));
        self.show_maintenance(no, RouteOrAll::All);
    }

    fn set_maintenance_record(
        &mut self,
        no: SessionNo,
        record: MaintenanceRecord,
        has: impl Fn(RouteId) -> bool,
    ) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let who = session.label();
        let page = |url, peer| self.membership.page(url, &who, peer);
        session.maintenance = MaintenanceState::restore(record, has, page);
        for setter in session.maintenance.entered_by() {
            if let Some(setter) = self.sessions.get_mut(setter) {
                setter.keeps_others_in_maintenance = true;
            }
        }
    }

    /// Makes a session as its marks say. What is so already stays as it is.
    pub(super) fn take_marks(&mut self, now: Now, no: SessionNo, marks: SessionMarks) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        session.marks = marks.clone();
        let peer_before = session.peer;
        if let Some(peer) = marks.peer {
            self.sessions.set_peer(no, peer);
        }
        if let Some(session) = self.sessions.get_mut(no) {
            session.is_rebound = marks.peer.is_some();
        }
        self.take_loss(now, no, &marks);
        if marks.shared_address
            && let Some(peer) = self.sessions.get(no).map(|session| session.peer)
        {
            self.sessions.is_shared(peer, self.config.limits.shared_addresses);
        }
        let Some(session) = self.sessions.get(no) else { return };
        if session.peer != peer_before && session.state.is_bound() {
            self.tell_members(no, false);
        }
        self.take_superseded(now, no, &marks);
        let members: Vec<MemberId> =
            self.sessions.get(no).into_iter().flat_map(|session| session.members.iter()).collect();
        self.membership.set_suspended(&members, &marks.suspended);
        self.take_drain(now, no, &marks);
    }

    fn take_loss(&mut self, now: Now, no: SessionNo, marks: &SessionMarks) {
        let Some(session) = self.sessions.get(no) else { return };
        match (&marks.lost, session.state) {
            (Some(_), SessionState::Remote) => self.advance(now, no, SessionEvent::Lost),
            (None, SessionState::Grace) => self.advance(now, no, SessionEvent::Followed),
            _ => {}
        }
        if let (Some(lost), Some(session)) = (marks.lost, self.sessions.get_mut(no)) {
            let ago = now.wall.duration_since(lost.at).unwrap_or_default();
            session.lost = Some(Lost { at: now.back_by(ago), is_prolonged: lost.is_prolonged });
        }
    }

    /// Removes the members in whose place a successor serves. The leader has seen it answer, so it serves here, too,
    /// where nobody else does.
    fn take_superseded(&mut self, now: Now, no: SessionNo, marks: &SessionMarks) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        session.superseded.clone_from(&marks.superseded);
        session.lost_claim |= session.state.lives() && !session.superseded.is_empty();
        for place in &marks.superseded {
            let Some(claim) = self.membership.claim(&place.domain, &place.path) else { continue };
            let members = self.membership.members_of(&[no], claim);
            if members.is_empty() {
                continue;
            }
            self.drop_members(now, members);
            self.membership.serve_untried(&place.domain, &place.path);
        }
    }

    fn take_drain(&mut self, now: Now, no: SessionNo, marks: &SessionMarks) {
        let Some(session) = self.sessions.get(no) else { return };
        if session.drain.as_ref().map(Draining::record) == marks.drain {
            return;
        }
        match marks.drain {
            None => self.cancel_drain(no),
            Some(record) => {
                let draining = Draining::restore(now, record);
                let end = draining.drain.since.checked_add(draining.drain.time).unwrap_or(now.mono);
                self.begin_drain(no, draining, end.max(now.mono));
            }
        }
    }

    /// A session is over. One that was replaced is remembered for as long as its successor lives.
    pub(super) fn take_end(&mut self, now: Now, no: SessionNo, reason: EndReason) {
        let Some(session) = self.sessions.get(no) else { return };
        let is_replaced = session.replaced_by.is_some() && session.state == SessionState::Replaced;
        match reason {
            EndReason::Superseded if is_replaced => self.advance(now, no, SessionEvent::Succeeded),
            _ => self.advance(now, no, SessionEvent::Ended),
        }
    }
}
