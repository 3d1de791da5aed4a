//! A member as the registry knows it.

use std::net::IpAddr;
use std::sync::Arc;

use registry_client::protocol::{Domain, PathPrefix, RouteId};

use crate::server::registry::model::{
    FALL, HealthQuestion, MemberLabel, MemberPlan, MemberState, Owner, RISE, RareSettings, SessionNo,
    address_of, probe,
};
use crate::server::routing::{Endpoint, Probe, ProbeFailure, Terms};

use super::Membership;
use super::route_list::EarlierRoutes;

/// What the registry knows of a member beyond what the proxy sees.
pub(crate) struct TrackedMember {
    pub(crate) domain: Domain,
    pub(crate) path: PathPrefix,
    /// The last of the session's routes that lead here. It decides the settings.
    pub(crate) route: RouteId,
    pub(crate) earlier: EarlierRoutes,
    pub(crate) state: MemberState,
    /// Failed probes in a row.
    pub(crate) failures: u8,
    /// Passed probes in a row.
    pub(crate) passes: u8,
    /// A probe has failed since it joined, and not because the answer came too late.
    pub(crate) is_rejected: bool,
    /// Its last probe passed.
    pub(crate) answers: bool,
    /// Why its last probe failed, unless it passed.
    pub(crate) error: Option<Box<ProbeFailure>>,
    pub(crate) lost: bool,
    /// Whether the data plane leaves it out because requests failed, as far as is known.
    pub(crate) ejected: bool,
    pub(crate) shared: Arc<SharedTerms>,
    /// The number of the apply that it was applied with last.
    pub(crate) applied: u64,
    /// The probe that is asked for it. Members with the same probe share it.
    pub(crate) asked: Option<Arc<Probe>>,
    pub(crate) endpoint: Arc<Endpoint>,
}

/// What a member has from its session and its route. Most routes of a session have the same, so members share it.
#[derive(Debug)]
pub(crate) struct SharedTerms {
    pub(crate) session: SessionNo,
    /// The settings that few routes have.
    pub(crate) rare: Option<Box<RareSettings>>,
    pub(crate) terms: Arc<Terms>,
}

impl Membership {
    /// The terms of a member of this session with this route.
    pub(crate) fn shared_terms(&mut self, owner: &Owner<'_>, plan: &MemberPlan) -> Arc<SharedTerms> {
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

    /// The terms with the settings of another route.
    pub(super) fn terms_with_plan(
        &mut self,
        before: &Arc<SharedTerms>,
        plan: &MemberPlan,
    ) -> Arc<SharedTerms> {
        let terms = Terms {
            priority: plan.priority,
            hold: plan.hold.unwrap_or(self.hold),
            settings: plan.settings,
            extras: plan.extras.clone(),
            ..Terms::clone(&before.terms)
        };
        self.share(before.session, plan.rare.clone(), terms, Some(before))
    }

    /// The terms with a change.
    pub(super) fn with_terms(
        &mut self,
        before: &Arc<SharedTerms>,
        change: impl FnOnce(&mut Terms),
    ) -> Arc<SharedTerms> {
        let mut terms = Terms::clone(&before.terms);
        change(&mut terms);
        self.share(before.session, before.rare.clone(), terms, Some(before))
    }

    /// Takes the terms from before, or those made last, if they are equal: the routes of a session come one after another.
    fn share(
        &mut self,
        session: SessionNo,
        rare: Option<Box<RareSettings>>,
        terms: Terms,
        before: Option<&Arc<SharedTerms>>,
    ) -> Arc<SharedTerms> {
        let same =
            |one: &&Arc<SharedTerms>| one.session == session && one.rare == rare && *one.terms == terms;
        if let Some(one) = before.into_iter().chain(&self.last_shared).find(same) {
            return Arc::clone(one);
        }
        Arc::clone(self.last_shared.insert(Arc::new(SharedTerms { session, rare, terms: Arc::new(terms) })))
    }
}

impl TrackedMember {
    /// Whether a route of the session leads here.
    pub(super) fn is_of(&self, route: RouteId) -> bool {
        self.route == route || self.earlier.contains(route)
    }

    /// How the log names it.
    pub(crate) fn label(&self) -> MemberLabel {
        MemberLabel {
            session: self.shared.session,
            instance: self.shared.terms.instance.clone(),
            endpoint: self.endpoint.clone(),
            domain: self.domain.clone(),
            path: self.path.clone(),
        }
    }

    /// Whether requests may go to it, if it is considered by itself.
    pub(crate) fn serves(&self) -> bool {
        self.state.serves() && self.shared.terms.extras.maintenance().is_none()
    }

    /// Whether it has not answered since it joined.
    pub(super) fn is_new(&self) -> bool {
        matches!(self.state, MemberState::Provisional | MemberState::Joining)
    }

    /// Whether it joined and nothing speaks against it but that its answers to probes come too late, while its port
    /// accepts connections.
    pub(super) fn is_merely_slow(&self) -> bool {
        let terms = &self.shared.terms;
        let may_serve = !self.lost && terms.drain.is_none() && terms.extras.maintenance().is_none();
        self.is_new() && self.failures > 0 && !self.is_rejected && may_serve
    }

    fn check(&self) -> Option<&HealthQuestion> {
        self.shared.rare.as_ref()?.check.as_ref()
    }

    /// How many probes in a row must pass to bring it back.
    pub(super) fn rise(&self) -> u8 {
        self.check().map_or(RISE, |check| check.rise)
    }

    /// How many probes in a row must fail to take it out.
    pub(super) fn fall(&self) -> u8 {
        self.check().map_or(FALL, |check| check.fall)
    }

    /// The backend's address, if it is given as one.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        address_of(&self.endpoint.backend)
    }

    /// Where it is, and its session, if that is connected and the member has answered.
    pub(super) fn proven_at(&self) -> Option<(IpAddr, SessionNo)> {
        let is_proven = self.state == MemberState::Usable && !self.lost;
        Some((self.ip().filter(|_| is_proven)?, self.shared.session))
    }

    /// Whether it keeps its claim for its service although its session is lost (SEMANTICS section 1). A suspended member
    /// gets no requests, and its backend may be another's. But the claim is not given away while one answers there.
    pub(super) fn keeps_claim(&self) -> bool {
        self.state.serves() || (self.state == MemberState::Suspended && self.answers)
    }

    /// The probe that decides whether it serves. `None`: none does.
    pub(crate) fn wanted_probe(&self) -> Option<Probe> {
        let quick = self.lost || self.is_new();
        let check = self.check();
        let settled = self.state == MemberState::Usable && !quick;
        if self.state == MemberState::Dormant || (settled && check.is_none()) {
            return None;
        }
        Some(probe(&self.endpoint.backend, self.shared.terms.peer, check, quick))
    }
}
