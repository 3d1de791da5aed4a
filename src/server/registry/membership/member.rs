//! What the registry knows of a member beyond what the proxy sees.

use super::Pools;
use super::route_list::Earlier;
use crate::server::registry::model::{MemberState, Owner, Plan, Rare, SessionNo, Which, probe};
use crate::server::routing::{Endpoint, Probe, Terms};
use registry_client::protocol::{Domain, Host, PathPrefix, RouteId};
use std::net::IpAddr;
use std::sync::Arc;

/// What the registry knows of a member beyond what the proxy sees.
pub(crate) struct Record {
    pub(crate) domain: Domain,
    pub(crate) path: PathPrefix,
    /// The session's last route that leads here, which has the settings, and the others.
    pub(crate) route: RouteId,
    pub(crate) earlier: Earlier,
    pub(crate) state: MemberState,
    /// Failed probes in a row.
    pub(crate) failures: u8,
    /// A probe has failed since it joined, and not because the answer came too late.
    pub(crate) is_rejected: bool,
    pub(crate) lost: bool,
    /// The data plane was last known to leave it out because requests failed.
    pub(crate) ejected: bool,
    pub(crate) says: Arc<Says>,
    /// Which apply of all it was applied with last.
    pub(crate) applied: u64,
    /// Members with the same question share it.
    pub(crate) asked: Option<Arc<Probe>>,
    pub(crate) endpoint: Arc<Endpoint>,
}

/// What a member's session says, and the route that it shows. Most routes of a session say the same, and share it.
#[derive(Debug)]
pub(crate) struct Says {
    pub(crate) session: SessionNo,
    /// What few routes say.
    pub(crate) rare: Option<Box<Rare>>,
    pub(crate) terms: Arc<Terms>,
}

impl Pools {
    /// What a session and its route say.
    pub(crate) fn says(&mut self, owner: &Owner<'_>, plan: &Plan) -> Arc<Says> {
        let terms = Terms {
            service: owner.service.clone(),
            instance: owner.instance.clone(),
            peer: owner.peer,
            priority: plan.priority,
            hold: plan.hold.unwrap_or(self.hold),
            settings: plan.settings,
            extras: plan.extras.clone(),
            drain: owner.drain.map(Box::new),
        };
        self.share(owner.no, plan.rare.clone(), terms, None)
    }

    /// The same with what another route says.
    pub(super) fn says_now(&mut self, before: &Arc<Says>, plan: &Plan) -> Arc<Says> {
        let terms = Terms {
            priority: plan.priority,
            hold: plan.hold.unwrap_or(self.hold),
            settings: plan.settings,
            extras: plan.extras.clone(),
            ..Terms::clone(&before.terms)
        };
        self.share(before.session, plan.rare.clone(), terms, Some(before))
    }

    /// The same with other terms.
    pub(super) fn with_terms(&mut self, before: &Arc<Says>, change: impl FnOnce(&mut Terms)) -> Arc<Says> {
        let mut terms = Terms::clone(&before.terms);
        change(&mut terms);
        self.share(before.session, before.rare.clone(), terms, Some(before))
    }

    /// What was said before, or last, if that is the same: routes of one session are looked at one after another.
    fn share(
        &mut self,
        session: SessionNo,
        rare: Option<Box<Rare>>,
        terms: Terms,
        before: Option<&Arc<Says>>,
    ) -> Arc<Says> {
        let same = |one: &&Arc<Says>| one.session == session && one.rare == rare && *one.terms == terms;
        if let Some(one) = before.into_iter().chain(&self.said_last).find(same) {
            return Arc::clone(one);
        }
        Arc::clone(self.said_last.insert(Arc::new(Says { session, rare, terms: Arc::new(terms) })))
    }
}

impl Record {
    /// Whether a route of the session leads here.
    pub(super) fn is_of(&self, route: RouteId) -> bool {
        self.route == route || self.earlier.contains(route)
    }

    /// What people know it by.
    pub(crate) fn which(&self) -> Which {
        Which {
            session: self.says.session,
            instance: self.says.terms.instance.clone(),
            endpoint: self.endpoint.clone(),
            domain: self.domain.clone(),
            path: self.path.clone(),
        }
    }

    /// Whether requests may go to it, its siblings aside.
    pub(crate) fn serves(&self) -> bool {
        self.state.serves() && self.says.terms.extras.maintenance().is_none()
    }

    /// Whether it has not answered since it joined.
    pub(super) fn is_new(&self) -> bool {
        matches!(self.state, MemberState::Hopeful | MemberState::Joining)
    }

    /// Whether it joined and nothing speaks against it but that its answers to probes come too late, while its port
    /// accepts connections.
    pub(super) fn is_merely_slow(&self) -> bool {
        let terms = &self.says.terms;
        let may_serve = !self.lost && terms.drain.is_none() && terms.extras.maintenance().is_none();
        self.is_new() && self.failures > 0 && !self.is_rejected && may_serve
    }

    /// The backend's address, where it is given as one.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self.endpoint.backend.host() {
            Host::Ip(ip) => Some(ip.to_canonical()),
            Host::Name(_) => None,
        }
    }

    /// What decides whether it serves.
    pub(crate) fn question(&self) -> Option<Probe> {
        let quick = self.lost || self.is_new();
        let check = self.says.rare.as_ref().and_then(|rare| rare.check.as_ref());
        let settled = self.state == MemberState::Usable && !quick;
        if self.state.waits_for_session() || (settled && check.is_none()) {
            return None;
        }
        Some(probe(&self.endpoint.backend, self.says.terms.peer, check, quick))
    }
}
