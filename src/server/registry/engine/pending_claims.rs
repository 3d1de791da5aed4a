//! The claims of applies that the store has not decided on (SEMANTICS section 1).

use std::collections::{HashMap, HashSet};

use registry_client::protocol::{Domain, PathPrefix, ServiceName};

use crate::server::registry::model::{Delta, Tx};

/// What pending applies are about to claim.
///
/// An apply is only indexed when another one is validated: with a store that answers at once that never happens, and
/// many applies may be pending otherwise.
#[derive(Default)]
pub(super) struct PendingClaims {
    /// Not indexed yet. Some of them are decided by now.
    new: Vec<Tx>,
    /// Which service is about to claim what, and with how many applies.
    by_place: HashMap<(Domain, PathPrefix), (ServiceName, usize)>,
    indexed: HashSet<Tx>,
}

impl PendingClaims {
    pub(super) fn add(&mut self, tx: Tx) {
        self.new.push(tx);
    }

    /// Indexes the applies that are new. `apply` finds one that is still pending.
    pub(super) fn index<'a>(&mut self, apply: impl Fn(Tx) -> Option<(&'a ServiceName, &'a Delta)>) {
        for tx in self.new.drain(..) {
            let Some((service, delta)) = apply(tx) else { continue };
            for claim in claims(delta) {
                self.by_place.entry(claim).or_insert_with(|| (service.clone(), 0)).1 += 1;
            }
            self.indexed.insert(tx);
        }
    }

    /// Which service is about to have a claim. There is at most one: the second service's apply was refused.
    pub(super) fn claimant(&self, domain: &Domain, path: &PathPrefix) -> Option<&ServiceName> {
        if self.by_place.is_empty() {
            return None;
        }
        self.by_place.get(&(domain.clone(), path.clone())).map(|(service, _)| service)
    }

    /// Which service other than `besides` is about to have a claim on a host.
    pub(super) fn host_claimant(&self, host: &Domain, besides: &ServiceName) -> Option<&ServiceName> {
        let on_host = self.by_place.iter().filter(|((domain, _), _)| domain == host);
        on_host.map(|(_, (service, _))| service).find(|service| *service != besides)
    }

    /// The store has decided on an apply.
    pub(super) fn remove(&mut self, tx: Tx, delta: &Delta) {
        if !self.indexed.remove(&tx) {
            return;
        }
        for claim in claims(delta) {
            if let Some((_, count)) = self.by_place.get_mut(&claim) {
                *count -= 1;
                if *count == 0 {
                    self.by_place.remove(&claim);
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_place.is_empty() && self.indexed.is_empty()
    }
}

/// Every claim of a change, once.
fn claims(delta: &Delta) -> HashSet<(Domain, PathPrefix)> {
    let routes = delta.routes.iter().filter_map(|(_, route)| route.as_ref());
    routes.flat_map(|route| route.claims()).map(|(domain, path)| (domain.clone(), path.clone())).collect()
}
