//! Requests for maintenance, as callers make them.

use std::fmt;

use super::{Goal, Route, RouteKey};
use crate::protocol::{BackendUrl, Domain, PathPrefix};

/// What maintenance is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MaintenanceTarget {
    /// Every route of the instance, also those that are added later.
    All,
    /// The route of this key.
    Route(RouteKey),
    /// Every route of this path.
    Path(PathPrefix),
    /// Every route that claims this domain, among others or alone.
    Domain(Domain),
}

/// Entering, or leaving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaintenanceAction {
    /// With the page's URL as the proxy reaches it; `None`: the proxy's own page.
    Enter(Option<BackendUrl>),
    /// No longer; of [`MaintenanceTarget::All`]: of nothing.
    Exit,
}

/// One request. Of several about a route the last counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaintenanceRequest {
    /// Of what.
    pub target: MaintenanceTarget,
    /// What is asked for.
    pub action: MaintenanceAction,
}

/// How many targets may be asked for at once; the oldest goes.
pub(crate) const MAX_REQUESTS: usize = 256;

/// A request with its number in the order of all of a client's, so that each is heard of once.
#[derive(Debug, Clone)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) request: MaintenanceRequest,
}

impl Goal {
    /// One more request for maintenance; what it overrides is forgotten.
    pub fn request(&mut self, request: MaintenanceRequest) {
        match &request.target {
            MaintenanceTarget::All => self.maintenance.clear(),
            target => self.maintenance.retain(|older| older.request.target != *target),
        }
        if self.maintenance.len() >= MAX_REQUESTS {
            self.maintenance.remove(0);
        }
        self.requests += 1;
        self.maintenance.push(Numbered { number: self.requests, request });
    }
}

impl MaintenanceTarget {
    /// Whether it means this route.
    pub fn fits(&self, key: &RouteKey, route: &Route) -> bool {
        match self {
            MaintenanceTarget::All => true,
            MaintenanceTarget::Route(wanted) => wanted == key,
            MaintenanceTarget::Path(path) => *path == route.path,
            MaintenanceTarget::Domain(domain) => route.domains.as_slice().contains(domain),
        }
    }
}

impl fmt::Display for MaintenanceTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaintenanceTarget::All => f.write_str("ALL"),
            MaintenanceTarget::Route(key) => key.fmt(f),
            MaintenanceTarget::Path(path) => path.fmt(f),
            MaintenanceTarget::Domain(domain) => domain.fmt(f),
        }
    }
}
