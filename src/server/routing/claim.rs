//! A claim: a host and path prefix that a service owns, and the members that serve it.

use std::sync::Arc;
use std::time::Instant;

use registry_client::protocol::{Domain, PathPrefix};

use super::hold::Hold;
use super::member::{Maintenance, Terms};
use super::members::Members;
use super::rate_limit::AddressLimit;

/// (domain, path, service) and the members that serve it (SEMANTICS section 1).
#[derive(Debug, Clone)]
pub struct Claim {
    /// The domain, exact or wildcard.
    pub domain: Domain,
    /// The path prefix.
    pub path: PathPrefix,
    /// Its service owns the host as a whole: what of it nobody claims goes to no wildcard of another service.
    pub owns_host: bool,
    /// The settings of the claim as a whole: those of the member applied last.
    pub terms: Arc<Terms>,
    /// The rate limit for each client: that of the member applied last.
    pub limit: Option<AddressLimit>,
    /// Whether requests wait while no member is usable.
    pub hold: Hold,
    /// Usable or not, in the order in which they joined. Empty: all have left, and the claim is held.
    pub members: Members,
}

impl Claim {
    /// When the claim lost the last of its usable members because none can be connected to. `None`: one can, or there
    /// is none.
    pub fn unreachable_since(&self) -> Option<Instant> {
        let mut last = None;
        for member in self.members.iter().filter(|member| member.usable) {
            last = last.max(Some(member.load.unreachable_since()?));
        }
        last
    }

    /// The maintenance that people see when no member is usable: that of the member that joined last.
    pub fn maintenance(&self) -> Option<&Maintenance> {
        self.members.iter().rev().find_map(|member| member.terms.extras.maintenance())
    }
}
