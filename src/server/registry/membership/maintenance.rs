//! Members behind a maintenance page, and the backends that serve such pages (SEMANTICS section 5).

use super::Pools;
use crate::server::registry::model::{Plan, SessionNo, Who};
use crate::server::routing::{Endpoint, Extras, Member, Settings, Terms};
use registry_client::protocol::{BackendUrl, Domain, PathPrefix, RouteId};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

impl Pools {
    /// A backend that serves a maintenance page: a member of no claim.
    pub(crate) fn page(&mut self, url: BackendUrl, by: &Who, peer: IpAddr) -> Arc<Member> {
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
    pub(crate) fn replan(
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
}
