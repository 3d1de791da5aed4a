//! A route: what it claims, where its requests go, and its own settings.

use registry_client::protocol::{Domain, PathPrefix, RouteSpec};

use super::settings::CompactSettings;

/// A route as it is applied, or as an apply would leave it.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// What it claims, and where its requests go.
    pub spec: RouteSpec,
    /// Its own settings.
    pub settings: CompactSettings,
}

impl Route {
    /// The claims of the route: each of its domains with its path.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (&Domain, &PathPrefix)> {
        self.spec.domains.as_slice().iter().map(|domain| (domain, &self.spec.path))
    }
}
