//! Members that are in maintenance, and questions that are asked until they are answered well (SEMANTICS
//! section 5).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::{BackendUrl, Domain, PathPrefix, RouteId};
use crate::server::routing::{Endpoint, Extras, Member, MemberId, Probe, Settings, Terms};

use super::super::io::{Effect, SessionNo, Who};
use super::super::route::Plan;
use super::{MemberSet, Pools, Watched};

impl Pools {
    /// A backend that serves a maintenance page: a member of no claim.
    pub(in super::super) fn page(&mut self, url: BackendUrl, by: &Who, peer: IpAddr) -> Arc<Member> {
        let terms = Terms {
            service: by.service.clone(),
            instance: by.instance.clone(),
            peer,
            priority: 0,
            hold: Duration::ZERO,
            settings: Settings { one_page: url.is_file(), ..Settings::default() },
            extras: Extras::default(),
            drain: None,
        };
        Arc::new(Member {
            endpoint: Arc::new(Endpoint::new(self.next_id(), url)),
            terms: Arc::new(terms),
            route: Arc::default(),
            usable: true,
        })
    }

    /// Gives the member that a route leads to what the route says now, if it is the route that counts there.
    pub(in super::super) fn replan(
        &mut self,
        session: SessionNo,
        route: RouteId,
        (domain, path): (&Domain, &PathPrefix),
        plan: &Plan,
    ) {
        let Some(id) = self.find(session, domain, path, &plan.backend) else { return };
        if self.members.get(&id).is_some_and(|record| record.route == route) {
            self.set_plan(id, plan);
        }
    }

    /// Asks until [`Pools::answer_for`] is called with what this returns.
    pub(in super::super) fn ask_once_for(&mut self, probe: Probe) -> MemberId {
        let token = self.next_id();
        let shared = self.start_asking(token, probe);
        self.tokens.insert(token, shared);
        token
    }

    /// Stops to ask.
    pub(in super::super) fn answer_for(&mut self, token: MemberId) {
        let probe = self.tokens.remove(&token);
        self.stop_asking(token, probe);
    }

    /// Who waits for this probe to pass.
    pub(in super::super) fn waiting_for(&self, probe: &Probe) -> Vec<MemberId> {
        let watchers = self.watched.get(probe).into_iter().flat_map(|watched| watched.by.iter());
        watchers.filter(|id| self.tokens.contains_key(id)).collect()
    }

    /// Asks on behalf of `id`. Returns the question as everybody has it who asks the same.
    pub(super) fn start_asking(&mut self, id: MemberId, probe: Probe) -> Arc<Probe> {
        if let Some(watched) = self.watched.get_mut(&probe) {
            watched.by.insert(id);
            return Arc::clone(&watched.probe);
        }
        self.effects.push(Effect::Watch(probe.clone()));
        let probe = Arc::new(probe);
        let watched = Watched { probe: Arc::clone(&probe), by: MemberSet::from_iter([id]) };
        self.watched.insert(Arc::clone(&probe), watched);
        probe
    }

    pub(super) fn next_id(&mut self) -> MemberId {
        self.last_member += 1;
        MemberId(self.last_member)
    }
}
