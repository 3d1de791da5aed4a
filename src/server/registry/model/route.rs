//! A route: what it claims, where its requests go, and its own settings.

use super::settings::OwnCells;
use registry_client::protocol::{Domain, PathPrefix, RouteSpec};

/// A route as it is, or is to be, applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// What it claims, and where its requests go.
    pub spec: RouteSpec,
    /// Its own settings.
    pub cells: OwnCells,
}

impl Route {
    /// The claims of the route: each of its domains with its path.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (&Domain, &PathPrefix)> {
        self.spec.domains.as_slice().iter().map(|domain| (domain, &self.spec.path))
    }
}
