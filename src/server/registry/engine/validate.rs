//! The first step of an apply: whether the change may be made (SEMANTICS section 1).

use registry_client::protocol::{Domain, PathPrefix, Refusal, Reply, ServiceName};

use crate::server::registry::api::LogEvent;
use crate::server::registry::model::{Delta, SessionNo};
use crate::server::routing::Claim;

use super::Engine;

impl Engine {
    /// CONFIG_VALIDATE.
    pub(crate) fn validate(&mut self, no: SessionNo) -> Result<Reply, Refusal> {
        let Some(session) = self.sessions.get(no) else { return Err(Refusal::SessionNotFound) };
        let delta = session.stage.delta(&session.applied, &session.defaults);
        self.objection(no, &delta).map_or(Ok(Reply::Ok), Err)
    }

    /// Why a change may not be made: the policy, which may be newer than the stage, forbids one of its claims, or a claim
    /// belongs to another service whose owner lives.
    pub(super) fn objection(&mut self, no: SessionNo, delta: &Delta) -> Option<Refusal> {
        let session = self.sessions.get(no)?;
        let mut routes = delta.routes.iter().filter_map(|(id, route)| Some((id, route.as_ref()?)));
        let forbidden = routes.find_map(|(id, route)| Some((*id, self.forbidden(session, &route.spec)?)));
        if let Some((id, (domain, refusal))) = forbidden {
            let (who, domain) = (session.label(), domain.clone());
            self.log(LogEvent::NotPermitted { who, domain });
            return Some(Refusal::Other(format!("route {id}: {refusal}")));
        }
        self.conflict(no, delta)
    }

    /// The first claim of `delta` that belongs to another service whose owner lives.
    fn conflict(&mut self, no: SessionNo, delta: &Delta) -> Option<Refusal> {
        self.commits.index_claims();
        let session = self.sessions.get(no)?;
        let service = &session.registration.service;
        let claims = delta.routes.iter().filter_map(|(id, route)| Some((*id, route.as_ref()?)));
        let claims = claims.flat_map(|(id, route)| {
            route.spec.domains.as_slice().iter().map(move |domain| (id, domain, &route.spec.path))
        });
        let taken = |(id, domain, path)| {
            Some((
                id,
                domain,
                path,
                self.owner_besides(service, domain, path).or_else(|| self.host_owner(service, domain))?,
            ))
        };
        let (route, domain, path, owner) = claims.into_iter().find_map(taken)?;
        let shown =
            if self.hides_others() { "another service".to_owned() } else { format!("service {owner}") };
        let refusal = Refusal::Other(format!("route {route}: {domain}{path} belongs to {shown}"));
        let (who, domain, path, owner) = (session.label(), domain.clone(), path.clone(), owner.clone());
        self.log(LogEvent::Conflict { who, route, domain, path, owner });
        Some(refusal)
    }

    /// The other service that has a claim, or is about to have it.
    fn owner_besides(
        &self,
        service: &ServiceName,
        domain: &Domain,
        path: &PathPrefix,
    ) -> Option<&ServiceName> {
        let claim = self.membership.claim(domain, path).filter(|claim| claim.terms.service != *service);
        if let Some(claim) = claim.filter(|claim| self.owner_lives(claim)) {
            return Some(&claim.terms.service);
        }
        self.commits.claimant(domain, path).filter(|other| *other != service)
    }

    /// The other service to which a host belongs as a whole, because it has claimed or is about to claim a part of it.
    fn host_owner(&self, service: &ServiceName, host: &Domain) -> Option<&ServiceName> {
        if !self.membership.is_exclusive(host) {
            return None;
        }
        let others = self.membership.host(host).iter().filter(|claim| claim.terms.service != *service);
        let mut living = others.filter(|claim| self.owner_lives(claim)).map(|claim| &claim.terms.service);
        living.next().or_else(|| self.commits.host_claimant(host, service))
    }

    /// Whether a claim's owner lives: connected, or in grace with a member that passes its probe.
    fn owner_lives(&self, claim: &Claim) -> bool {
        self.membership.members(claim).any(|(_, no, serves)| {
            serves || self.sessions.get(no).is_some_and(|session| session.state.is_bound())
        })
    }
}
