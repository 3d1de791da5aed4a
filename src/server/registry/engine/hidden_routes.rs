//! Claims that no request reaches, because a shorter path of the same service has a higher priority (SEMANTICS section 2).

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use registry_client::protocol::{Domain, PathPrefix};

use crate::server::registry::api::LogEvent;
use crate::server::registry::model::{Route, SessionNo};
use crate::server::routing::Claim;

use super::Engine;

impl Engine {
    /// Logs, once for an apply, that claims of its changed routes are hidden or hide others.
    pub(super) fn tell_of_hidden<'a>(
        &mut self,
        no: SessionNo,
        changed: impl Iterator<Item = &'a Route>,
        shared_hosts: &HashSet<&Domain>,
    ) {
        if shared_hosts.is_empty() {
            return;
        }
        let mut hidden = BTreeSet::new();
        for (domain, path) in changed.flat_map(Route::claims) {
            if !shared_hosts.contains(domain) {
                continue;
            }
            let pairs = hidden_with(self.membership.host(domain), path);
            hidden.extend(pairs.into_iter().map(|(path, by)| (domain.clone(), path, by)));
        }
        let count = hidden.len();
        if let (Some((domain, path, by)), Some(session)) = (hidden.pop_first(), self.sessions.get(no)) {
            let who = session.label();
            self.log(LogEvent::Hidden { who, domain, path, by, count });
        }
    }
}

/// The paths that the claim on `path` hides, and `path` itself if it is hidden, each with the path that hides it. `claims`
/// are a host's, in the order in which they are tried.
fn hidden_with(claims: &[Arc<Claim>], path: &PathPrefix) -> Vec<(PathPrefix, PathPrefix)> {
    let Some(at) = claims.iter().position(|claim| claim.path == *path) else { return Vec::new() };
    let own = &claims[at];
    let hides = |one: &Claim, other: &Claim| {
        one.terms.service == other.terms.service && one.path.matches(other.path.as_str())
    };
    let above = claims[..at].iter().find(|other| hides(other, own)).map(|other| (own, other));
    let below = claims[at + 1..].iter().filter(|other| hides(own, other)).map(|other| (other, own));
    above.into_iter().chain(below).map(|(one, by)| (one.path.clone(), by.path.clone())).collect()
}
