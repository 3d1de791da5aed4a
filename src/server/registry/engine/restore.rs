//! From what a store held back to a registry that serves (SEMANTICS sections 4 and 7).

use super::Engine;
use super::route_ids;
use super::timers::Timer;
use crate::server::registry::api::Happening;
use crate::server::registry::membership::Leaving;
use crate::server::registry::model::{Applied, Now, Route, SessionNo};
use crate::server::registry::persist::{MaintenanceRecord, Saved, SavedSession, SessionRecord};
use crate::server::registry::session::Maintained;
use registry_client::protocol::{Host, RouteId};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A route on its way back, in the order in which routes were applied.
struct Returning {
    applied: u64,
    session: SessionNo,
    id: RouteId,
    in_force: Applied,
}

impl Engine {
    /// Takes up what a store held, before anything else happens. Every session is in its grace, which begins
    /// now. Its members serve at once if the server ran on this boot of this machine and was alive less than
    /// a grace ago: then their addresses are still theirs. Otherwise they wait for their sessions.
    pub(crate) fn restore(&mut self, now: Now, saved: Saved) {
        self.pools.set_time(now.mono);
        let serves = self.is_fresh(now, &saved);
        let mut returning = Vec::new();
        let count = saved.sessions.len();
        for SavedSession { session: record, maintenance, routes } in saved.sessions {
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
        }
        returning.sort_by_key(|route| (route.applied, route.session, route.id));
        let routes = returning.len();
        returning.iter().for_each(|route| self.restore_route(route, serves));
        self.suspend_former_holders(&returning);
        self.log(Happening::Restored { sessions: count, routes, serves });
        self.tell_outside_policy();
        self.flush_pools(true);
    }

    fn is_fresh(&self, now: Now, saved: &Saved) -> bool {
        let Some(alive_at) = saved.alive_at else { return false };
        // A clock that was set back a little is no reason to wait.
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
        self.sessions.restore(now, record, route_ids::RESERVED);
        self.timers.set(Timer::Grace(no), now.mono + self.config.grace);
    }

    fn restore_maintenance(&mut self, no: SessionNo, record: MaintenanceRecord) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let (who, applied) = (session.who(), &session.applied);
        let has = |id| applied.contains_key(&id);
        let page = |url, peer| self.pools.page(url, &who, peer);
        session.maintained = Maintained::restore(record, has, page);
    }

    /// Where two services have a claim, the one that applied last has it, as it had before.
    fn restore_route(&mut self, returning: &Returning, serves: bool) {
        let Returning { applied, session: no, id, in_force } = returning;
        let route = &in_force.route;
        for domain in route.spec.domains.as_slice() {
            let place = (domain, &route.spec.path);
            let Some(service) = self.sessions.get(*no).map(|session| session.registration.service.clone())
            else {
                return;
            };
            let former = self.pools.claim(place.0, place.1).filter(|claim| claim.terms.service != service);
            let former: Vec<_> = former
                .map(|claim| self.pools.members(claim).map(|(member, owner, _)| (member.id, owner)).collect())
                .unwrap_or_default();
            for (member, owner) in former {
                self.pools.remove(member, Leaving::Unwanted);
                if let Some(owner) = self.sessions.get_mut(owner) {
                    owner.robbed = true;
                    owner.members.remove(member);
                }
            }
            let Some(session) = self.sessions.get_mut(*no) else { return };
            let plan = session.plan(*id, in_force);
            let member = self.pools.restore(&session.owner(), *id, place, &plan, *applied, serves);
            session.members.insert(member);
        }
    }

    /// An address belongs to the session that came there last, by its connection or with a backend (SEMANTICS
    /// section 4). Of both only the applies have kept their order: who applied last was there last.
    fn suspend_former_holders(&mut self, returning: &[Returning]) {
        let mut holders: BTreeMap<IpAddr, SessionNo> =
            self.sessions.restored().map(|session| (session.peer, session.no)).collect();
        for Returning { session: no, in_force: Applied { route, .. }, .. } in returning {
            let peer = self.sessions.get(*no).map(|session| session.peer);
            let backend = match route.spec.backend.host() {
                Host::Ip(ip) => Some(ip.to_canonical()),
                Host::Name(_) => None,
            };
            holders.extend([peer, backend].into_iter().flatten().map(|ip| (ip, *no)));
        }
        for (ip, no) in holders {
            if self.sessions.is_one_container(ip) {
                let Some(session) = self.sessions.get(no) else { continue };
                self.pools.address_taken(ip, &session.who(), &session.kin());
            }
        }
    }
}
