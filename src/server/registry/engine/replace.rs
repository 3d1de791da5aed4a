//! A session replaces another, make before break: the old members serve until the new ones answer (SEMANTICS section 4).

use crate::server::registry::membership::{FirstAnswer, Removal};
use crate::server::registry::model::{Now, SessionEvent, SessionNo, SessionState};
use crate::server::registry::persist::PlaceRecord;
use crate::server::registry::session::Session;
use crate::server::routing::MemberId;

use super::Engine;

impl Engine {
    /// `new` replaces `old` and all sessions that `old` had replaced.
    pub(super) fn replace(&mut self, now: Now, old: SessionNo, new: SessionNo) {
        let Some(session) = self.sessions.get_mut(old) else { return };
        // One that is replaced already belongs to its successor, which may have another address by now.
        if session.replaced_by.is_some() {
            return;
        }
        let mut lineage = std::mem::take(&mut session.predecessors);
        lineage.push(old);
        for no in &lineage {
            if let Some(older) = self.sessions.get_mut(*no) {
                older.replaced_by = Some(new);
            }
        }
        if let Some(newer) = self.sessions.get_mut(new) {
            newer.predecessors.extend(lineage);
        }
        self.advance(now, old, SessionEvent::Replaced);
        self.retire_if_idle(now, old);
        self.bound_predecessors(now, new);
    }

    /// Bounds the number of predecessors that are remembered for a session.
    fn bound_predecessors(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get(no) else { return };
        let surplus = session.predecessors.len().saturating_sub(self.config.limits.predecessors);
        let idle = |no: &&SessionNo| {
            let older = self.sessions.get(**no);
            older.is_none_or(|older| older.state == SessionState::Retired && older.conn.is_none())
        };
        let surplus: Vec<SessionNo> =
            session.predecessors.iter().filter(idle).take(surplus).copied().collect();
        for older in surplus {
            if let Some(session) = self.sessions.get_mut(no) {
                session.predecessors.retain(|other| *other != older);
            }
            self.advance(now, older, SessionEvent::Forgotten);
        }
    }

    /// Retires a replaced session that has no members any more.
    pub(super) fn retire_if_idle(&mut self, now: Now, no: SessionNo) {
        if !self.role.leads() {
            return;
        }
        let idle = |session: &Session| session.members.is_empty() && session.pending.is_none();
        if self.sessions.get(no).is_some_and(idle) {
            self.advance(now, no, SessionEvent::Succeeded);
        }
    }

    /// A member answered for the first time, so its session's predecessors are not needed in its claim any more. With the
    /// session's first answer they are not needed in claims either where the session has no member. Where it has one that
    /// has not answered yet, they stay.
    pub(crate) fn member_answered(&mut self, now: Now, answered: &FirstAnswer) {
        if !self.role.leads() {
            return;
        }
        let Some(session) = self.sessions.get_mut(answered.session) else { return };
        let first = !std::mem::replace(&mut session.answered, true);
        let (no, predecessors) = (session.no, session.predecessors.clone());
        if predecessors.is_empty() {
            return;
        }
        let claim = self.membership.claim(&answered.domain, &answered.path);
        let here = claim.map(|claim| self.membership.members_of(&predecessors, claim));
        let mut superseded = here.unwrap_or_default();
        if first {
            let members = predecessors.iter().filter_map(|no| self.sessions.get(*no));
            let members = members.flat_map(|older| older.members.iter().map(|id| (id, older.no)));
            let needed = |id| {
                self.membership
                    .place(id)
                    .is_some_and(|(domain, path)| self.membership.awaits_answer(no, domain, path))
            };
            superseded.extend(members.filter(|(id, _)| !needed(*id)));
        }
        self.drop_superseded(now, superseded);
    }

    /// Removes members because another session serves in their place: the successor of theirs, or one of another service
    /// that took the claim over. Replicas have to know where.
    pub(super) fn drop_superseded(&mut self, now: Now, members: Vec<(MemberId, SessionNo)>) {
        for (id, no) in &members {
            let place = self.membership.place(*id);
            let place =
                place.map(|(domain, path)| PlaceRecord { domain: domain.clone(), path: path.clone() });
            if let Some(session) = self.sessions.get_mut(*no) {
                session.superseded.extend(place);
            }
            self.touch(*no);
        }
        self.drop_members(now, members);
    }

    /// Removes members from their claims and their sessions.
    pub(super) fn drop_members(&mut self, now: Now, members: Vec<(MemberId, SessionNo)>) {
        for (id, owner) in members {
            self.membership.remove(id, Removal::Unwanted);
            if let Some(session) = self.sessions.get_mut(owner) {
                session.members.remove(id);
                if session.state == SessionState::Replaced {
                    self.retire_if_idle(now, owner);
                }
            }
        }
    }
}
