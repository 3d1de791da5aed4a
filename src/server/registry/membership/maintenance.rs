//! Members in maintenance, and the backends that serve maintenance pages (SEMANTICS section 5).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use registry_client::protocol::{BackendUrl, Domain, PathPrefix, RouteId};

use crate::server::registry::model::{MemberPlan, SessionLabel, SessionNo};
use crate::server::routing::{Endpoint, Extras, Member, Settings, Terms};

use super::Membership;

impl Membership {
    /// A backend that serves a maintenance page: a member of no claim.
    pub(crate) fn page(&mut self, url: BackendUrl, by: &SessionLabel, peer: IpAddr) -> Arc<Member> {
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

    /// Gives a route's member the settings that the route has now, unless a later route decides about the member.
    pub(crate) fn replan(
        &mut self,
        session: SessionNo,
        route: RouteId,
        (domain, path): (&Domain, &PathPrefix),
        plan: &MemberPlan,
    ) {
        let Some(id) = self.find(session, domain, path, &plan.backend) else { return };
        if self.members.get(&id).is_some_and(|record| record.route == route) {
            self.set_plan(id, plan);
        }
    }
}
