//! From what a store held to a registry that serves (SEMANTICS sections 4 and 7).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use registry_client::protocol::RouteId;

use crate::server::registry::api::{Effect, LogEvent};
use crate::server::registry::membership::Removal;
use crate::server::registry::model::{Applied, Now, Route, SessionEvent, SessionNo};
use crate::server::registry::persist::{MaintenanceRecord, SavedSession, SavedState, SessionRecord};
use crate::server::registry::session::{Lost, MaintenanceState, Session};

use super::Engine;
use super::role::Role;

/// A route that is being restored.
struct Returning {
    applied: u64,
    session: SessionNo,
    id: RouteId,
    in_force: Applied,
}

impl Engine {
    /// Puts in force what a store held. To be called before the first input. The grace of every session begins now. Members
    /// serve at once if the server ran in this boot of this machine and was alive less than a grace ago: then their
    /// addresses are still theirs. Otherwise they wait for their sessions.
    pub(crate) fn restore(&mut self, now: Now, saved: SavedState) {
        self.membership.set_time(now.mono);
        let serves = self.is_fresh(now, &saved);
        let follows = !self.role.leads();
        if follows {
            self.is_stale = !serves;
            // This process may have started long after the last leader ended. No server was alive later than that.
            self.led_until = match (self.led_until, saved.alive_at) {
                (Some(known), Some(alive)) => Some(known.min(alive)),
                (known, alive) => known.or(alive),
            };
        }
        let mut all_marks = Vec::new();
        let mut returning = Vec::new();
        let count = saved.sessions.len();
        for SavedSession { session: record, maintenance, marks, routes } in saved.sessions {
            let no = SessionNo(record.no);
            let defaults_applied = record.defaults_applied;
            self.restore_session(now, record);
            for (id, route) in routes {
                let applied = route.applied.max(defaults_applied);
                self.commits.skip_to(applied);
                let in_force = Applied { route: Arc::new(Route::from(route)), state: Arc::default() };
                if let Some(session) = self.sessions.get_mut(no) {
                    session.applied.insert(id, in_force.clone());
                }
                returning.push(Returning { applied, session: no, id, in_force });
            }
            self.restore_maintenance(no, maintenance);
            if follows {
                if let Some(session) = self.sessions.get_mut(no) {
                    session.superseded.clone_from(&marks.superseded);
                    session.lost_claim = session.state.lives() && !session.superseded.is_empty();
                }
                all_marks.push((no, marks));
            }
        }
        self.restore_setters();
        returning.sort_by_key(|route| (route.applied, route.session, route.id));
        let routes = returning.len();
        returning.iter().for_each(|route| self.restore_route(route, serves));
        if !follows {
            self.suspend_former_holders(&returning);
            self.membership.hold_unserved();
        }
        all_marks.into_iter().for_each(|(no, marks)| self.take_marks(now, no, marks));
        if matches!(self.role, Role::Follows(Some(_))) {
            self.trust_records();
        }
        self.push(Effect::Log(LogEvent::Restored { sessions: count, routes, serves }));
        self.tell_outside_policy();
        self.flush_membership(true);
    }

    fn is_fresh(&self, now: Now, saved: &SavedState) -> bool {
        let Some(alive_at) = saved.alive_at else { return false };
        // A clock that was set back a little is no reason to let members wait.
        let ago = now.wall.duration_since(alive_at).unwrap_or_else(|ahead| ahead.duration());
        !saved.boot_id.is_empty() && saved.boot_id == self.config.boot_id && ago < self.config.grace
    }

    fn restore_session(&mut self, now: Now, record: SessionRecord) {
        let (no, shared, peer) = (SessionNo(record.no), record.shared_address, record.peer);
        if shared {
            self.sessions.is_shared(peer, self.config.limits.shared_addresses);
        }
        for older in &record.replaced {
            self.sessions.restore_replaced(now, older, &record);
        }
        self.sessions.restore(now, record);
        self.set_grace(no, now.mono + self.config.grace);
        if self.role.leads() {
            if let Some(session) = self.sessions.get_mut(no) {
                session.lost = Some(Lost { at: now, is_prolonged: false });
            }
        } else {
            self.advance(now, no, SessionEvent::Followed);
        }
    }

    fn restore_maintenance(&mut self, no: SessionNo, record: MaintenanceRecord) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let (who, applied) = (session.label(), &session.applied);
        let has = |id| applied.contains_key(&id);
        let page = |url, peer| self.membership.page(url, &who, peer);
        session.maintenance = MaintenanceState::restore(record, has, page);
    }

    /// Notes who has entered maintenance for whom. What sessions entered that are over by now has ended with them.
    fn restore_setters(&mut self) {
        let entered = |session: &Session| {
            let no = session.no;
            session.maintenance.entered_by().into_iter().map(move |by| (by, no))
        };
        let all: Vec<(SessionNo, SessionNo)> = self.sessions.restored().flat_map(entered).collect();
        for (setter, no) in all {
            if let Some(setter) = self.sessions.get_mut(setter).filter(|setter| setter.revision > 0) {
                setter.keeps_others_in_maintenance = true;
            } else if let Some(session) = self.sessions.get_mut(no) {
                session.maintenance.end_of(setter);
            }
        }
    }

    /// Leads a route to its members. Where two services have the same claim, the one that applied last has it, as before.
    fn restore_route(&mut self, returning: &Returning, serves: bool) {
        let Returning { applied, session: no, id, in_force } = returning;
        let route = &in_force.route;
        for domain in route.spec.domains.as_slice() {
            let place = (domain, &route.spec.path);
            let Some(session) = self.sessions.get(*no) else { return };
            if session.is_superseded(place.0, place.1) {
                continue;
            }
            let Some(service) = self.sessions.get(*no).map(|session| session.registration.service.clone())
            else {
                return;
            };
            let former =
                self.membership.claim(place.0, place.1).filter(|claim| claim.terms.service != service);
            let former: Vec<_> = former
                .map(|claim| {
                    self.membership.members(claim).map(|(member, owner, _)| (member.id, owner)).collect()
                })
                .unwrap_or_default();
            for (member, owner) in former {
                self.membership.remove(member, Removal::Unwanted);
                if let Some(owner) = self.sessions.get_mut(owner) {
                    owner.lost_claim = true;
                    owner.members.remove(member);
                }
            }
            let Some(session) = self.sessions.get_mut(*no) else { return };
            let plan = session.plan(*id, in_force);
            let member = self.membership.restore(&session.owner(), *id, place, &plan, *applied, serves);
            session.members.insert(member);
        }
    }

    /// Suspends members at addresses from which another session was connected later (SEMANTICS section 4). Only the order of
    /// the applies is known: of two sessions, the one that applied last came last.
    fn suspend_former_holders(&mut self, returning: &[Returning]) {
        let mut applied: BTreeMap<SessionNo, u64> = BTreeMap::new();
        let mut holders: BTreeMap<IpAddr, SessionNo> =
            self.sessions.restored().map(|session| (session.peer, session.no)).collect();
        for route in returning {
            applied.insert(route.session, route.applied);
            holders.extend(self.sessions.get(route.session).map(|session| (session.peer, session.no)));
        }
        for (ip, no) in holders {
            self.takes_address(ip, no, |other| applied.get(&other) > applied.get(&no));
        }
    }
}
