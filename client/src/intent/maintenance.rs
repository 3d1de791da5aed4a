//! Requests for maintenance, as callers make them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{Goal, Route, RouteKey};
use crate::protocol::{BackendUrl, Domain, Host, Invalid, PathPrefix};

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
    /// What it is about.
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

impl Goal {
    /// Whether the request means something: a wanted route, or maintenance that was asked for.
    pub(crate) fn knows(&self, request: &MaintenanceRequest) -> bool {
        let target = &request.target;
        let leaves_one = request.action == MaintenanceAction::Exit
            && self.maintenance.iter().any(|asked| asked.request.target == *target);
        *target == MaintenanceTarget::All
            || leaves_one
            || self.routes.iter().any(|(key, route)| target.fits(key, route))
    }

    /// Lets every URL that leads to the address `old` lead to `new`. Whether there was one.
    pub(crate) fn change_address(&mut self, old: IpAddr, new: IpAddr) -> bool {
        let backends = self.routes.values_mut().map(|route| &mut route.backend);
        let pages = self.maintenance.iter_mut().filter_map(|asked| match &mut asked.request.action {
            MaintenanceAction::Enter(page) => page.as_mut(),
            MaintenanceAction::Exit => None,
        });
        let mut has_moved = false;
        for url in backends.chain(&mut self.page).chain(pages) {
            has_moved |= old != new && *url.host() == Host::Ip(old);
            url.follow(old, new);
        }
        has_moved
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

impl FromStr for MaintenanceTarget {
    type Err = Invalid;

    /// `ALL`, `/a/path`, `route:<key>`, or a domain.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "ALL" {
            return Ok(MaintenanceTarget::All);
        }
        match text.strip_prefix("route:") {
            Some(key) => Ok(MaintenanceTarget::Route(key.into())),
            None if text.starts_with('/') => text.parse().map(MaintenanceTarget::Path),
            None => text.parse().map(MaintenanceTarget::Domain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_from_text() {
        let target = |text: &str| text.parse::<MaintenanceTarget>();
        assert_eq!(target("ALL"), Ok(MaintenanceTarget::All));
        assert_eq!(target("/api"), Ok(MaintenanceTarget::Path("/api".parse().unwrap())));
        assert_eq!(target("route:main"), Ok(MaintenanceTarget::Route("main".into())));
        let wildcard = MaintenanceTarget::Domain("*.example.com".parse().unwrap());
        assert_eq!(target("*.example.com"), Ok(wildcard));
        assert!(target("").is_err() && target("no domain").is_err());
    }
}
