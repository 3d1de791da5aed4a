//! The routing table: an immutable snapshot that is cheap to copy with one claim replaced.

use std::sync::Arc;

use crate::protocol::{Domain, PathPrefix, ServiceName};

use super::Member;

/// (domain, path, service) and the members that serve it (SEMANTICS section 1).
#[derive(Debug, Clone)]
pub struct Claim {
    /// The domain, exact or wildcard.
    pub domain: Domain,
    /// The path prefix.
    pub path: PathPrefix,
    /// Who owns it.
    pub service: ServiceName,
    /// From the member applied last; higher wins over a longer path.
    pub priority: i32,
    /// In the order in which they joined; usable or not. Empty: claimed, and nobody serves it.
    pub members: Vec<Arc<Member>>,
}

/// Every claim, by host. Cloning costs a pointer; replacing one claim costs what its host has.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// By the domain's text (`*.` included); each host's claims in the order in which they are tried.
    hosts: imbl::HashMap<Domain, Arc<Vec<Arc<Claim>>>>,
}

impl Table {
    /// The table in which `claim` stands, in place of the one with its domain and path.
    pub fn put(&mut self, claim: Claim) {
        let mut claims = self.without(&claim.domain, &claim.path);
        let rank = |c: &Claim| (std::cmp::Reverse(c.priority), std::cmp::Reverse(c.path.as_str().len()));
        let at = claims.partition_point(|other| rank(other) <= rank(&claim));
        let domain = claim.domain.clone();
        claims.insert(at, Arc::new(claim));
        self.hosts.insert(domain, Arc::new(claims));
    }

    /// Takes a claim out; nothing happens where there is none.
    pub fn remove(&mut self, domain: &Domain, path: &PathPrefix) {
        let claims = self.without(domain, path);
        if claims.is_empty() {
            self.hosts.remove(domain);
        } else {
            self.hosts.insert(domain.clone(), Arc::new(claims));
        }
    }

    fn without(&self, domain: &Domain, path: &PathPrefix) -> Vec<Arc<Claim>> {
        let claims = self.hosts.get(domain).map(|claims| claims.as_slice()).unwrap_or_default();
        claims.iter().filter(|claim| claim.path != *path).cloned().collect()
    }

    /// The claim with exactly this domain and path.
    pub fn get(&self, domain: &Domain, path: &PathPrefix) -> Option<&Arc<Claim>> {
        self.hosts.get(domain)?.iter().find(|claim| claim.path == *path)
    }

    /// Every claim, in no order.
    pub fn claims(&self) -> impl Iterator<Item = &Arc<Claim>> {
        self.hosts.values().flat_map(|claims| claims.iter())
    }
}
