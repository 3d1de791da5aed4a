//! Claims that are on their way to the store.

use std::collections::{HashMap, HashSet};

use crate::protocol::{Domain, PathPrefix, ServiceName};

use super::super::io::Tx;
use super::{Delta, Pending, places};

/// What applies that the store has not decided on are about to claim. Many may be on their way at once, and
/// with a store that answers at once none is: so they are only looked into when another one comes.
#[derive(Default)]
pub(in super::super) struct Claimed {
    /// Not looked into yet; some are decided meanwhile.
    new: Vec<Tx>,
    /// Who is about to claim what, and by how many applies.
    by: HashMap<(Domain, PathPrefix), (ServiceName, usize)>,
    known: HashSet<Tx>,
}

impl Claimed {
    /// An apply is on its way.
    pub(super) fn note(&mut self, tx: Tx) {
        self.new.push(tx);
    }

    /// Looks into those of which nothing more than that is known.
    pub(super) fn look_into(&mut self, pending: &HashMap<Tx, Pending>) {
        for tx in self.new.drain(..) {
            let Some(Pending::Apply { service, delta, .. }) = pending.get(&tx) else { continue };
            for claim in all_claims(delta) {
                self.by.entry(claim).or_insert_with(|| (service.clone(), 0)).1 += 1;
            }
            self.known.insert(tx);
        }
    }

    /// Who is about to have a claim. Two services never have one at once: the second one's apply was refused.
    pub(super) fn owner(&self, domain: &Domain, path: &PathPrefix) -> Option<&ServiceName> {
        if self.by.is_empty() {
            return None;
        }
        self.by.get(&(domain.clone(), path.clone())).map(|(service, _)| service)
    }

    /// The store has decided on an apply.
    pub(super) fn decided(&mut self, tx: Tx, delta: &Delta) {
        if !self.known.remove(&tx) {
            return;
        }
        for claim in all_claims(delta) {
            if let Some((_, count)) = self.by.get_mut(&claim) {
                *count -= 1;
                if *count == 0 {
                    self.by.remove(&claim);
                }
            }
        }
    }

    #[cfg(test)]
    pub(in super::super) fn is_empty(&self) -> bool {
        self.by.is_empty() && self.known.is_empty()
    }
}

/// Every place that a change claims, once.
fn all_claims(delta: &Delta) -> HashSet<(Domain, PathPrefix)> {
    let routes = delta.routes.iter().filter_map(|(_, route)| route.as_ref());
    routes.flat_map(|route| places(route)).map(|(domain, path)| (domain.clone(), path.clone())).collect()
}
