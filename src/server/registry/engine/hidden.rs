//! Paths that no request reaches, because a shorter one of the same service goes before them (SEMANTICS section 2).

use super::Engine;
use crate::server::registry::api::Happening;
use crate::server::registry::model::{Route, SessionNo};
use crate::server::routing::Claim;
use registry_client::protocol::{Domain, PathPrefix};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

impl Engine {
    /// Says once for an apply that what it changed is hidden, or hides something.
    pub(super) fn tell_of_hidden<'a>(
        &mut self,
        no: SessionNo,
        changed: impl Iterator<Item = &'a Route>,
        crowded: &HashSet<&Domain>,
    ) {
        if crowded.is_empty() {
            return;
        }
        let mut hidden = BTreeSet::new();
        for (domain, path) in changed.flat_map(Route::claims) {
            if !crowded.contains(domain) {
                continue;
            }
            let pairs = hidden_with(self.pools.host(domain), path);
            hidden.extend(pairs.into_iter().map(|(path, by)| (domain.clone(), path, by)));
        }
        let count = hidden.len();
        if let (Some((domain, path, by)), Some(session)) = (hidden.pop_first(), self.sessions.get(no)) {
            let who = session.who();
            self.log(Happening::Hidden { who, domain, path, by, count });
        }
    }
}

/// What is hidden by the claim on `path`, and what hides it: each hidden path with the one that does it. `claims` are a
/// host's, in the order in which they are tried.
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
