//! What the operator lets sessions claim and reach (SEMANTICS section 9).

use std::net::SocketAddr;

use registry_client::protocol::{BackendUrl, Domain, Host, Refusal, RouteSpec};

use crate::server::registry::api::LogEvent;
use crate::server::registry::model::{ClaimPolicy, ExclusiveHosts, SessionNo};
use crate::server::registry::session::Session;

use super::Engine;

impl Engine {
    /// Checks a route against REGISTRY_POLICY.
    pub(crate) fn check_policy(&mut self, no: SessionNo, spec: &RouteSpec) -> Result<(), Refusal> {
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        let Some((domain, refusal)) = self.forbidden(session, spec) else { return Ok(()) };
        let (who, domain) = (session.label(), domain.clone());
        self.log(LogEvent::NotPermitted { who, domain });
        Err(refusal)
    }

    /// The first domain of a route that the policy does not let its service claim.
    pub(super) fn forbidden<'a>(
        &self,
        session: &Session,
        spec: &'a RouteSpec,
    ) -> Option<(&'a Domain, Refusal)> {
        let policy = self.config.policy.as_ref()?;
        let service = &session.registration.service;
        let domain = spec.domains.as_slice().iter().find(|domain| !policy.permits(service, domain))?;
        Some((domain, Refusal::NotAllowed(format!("domain {domain} for service {service}"))))
    }

    /// Whether a service learns nothing of others: with a policy that does not say that it may.
    pub(super) fn hides_others(&self) -> bool {
        self.config.policy.as_ref().is_some_and(|policy| !policy.shows_others())
    }

    /// Takes a new REGISTRY_POLICY.
    pub(super) fn set_policy(&mut self, policy: ClaimPolicy) {
        self.membership.set_exclusive(ExclusiveHosts::new(self.config.exclusive_hosts, Some(&policy)));
        self.config.policy = Some(policy);
        self.tell_outside_policy();
    }

    /// Logs that claims in force are not permitted. They stay until they are changed or removed.
    pub(super) fn tell_outside_policy(&mut self) {
        let Some(policy) = &self.config.policy else { return };
        let mut outside =
            self.membership.claims().filter(|claim| !policy.permits(&claim.terms.service, &claim.domain));
        let Some(first) = outside.next() else { return };
        let (domain, service) = (first.domain.clone(), first.terms.service.clone());
        let claims = 1 + outside.count();
        self.log(LogEvent::OutsidePolicy { claims, domain, service });
    }

    /// Checks a backend against BACKEND_ALLOW, if it is given as an address (SEMANTICS section 9). A name is checked when it
    /// is resolved.
    pub(crate) fn check_backend(&self, no: SessionNo, backend: &BackendUrl) -> Result<(), Refusal> {
        let Host::Ip(ip) = backend.host() else { return Ok(()) };
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        if self.config.backends.permits(session.peer, SocketAddr::new(*ip, backend.port())) {
            return Ok(());
        }
        Err(Refusal::NotAllowed(backend.to_string()))
    }
}
