//! The routing table: an immutable snapshot that is cheap to copy with one claim replaced.

use std::sync::Arc;

use registry_client::protocol::{Domain, PathPrefix, ServiceName};

use super::claim::Claim;
use super::host_trie::{Claims, Hosts};
use super::normalise::hostname;

/// Every claim, by host. A clone copies a pointer. Replacing a claim copies the claims of its host.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// By the domain's text (`*.` included); each host's claims in the order in which they are tried.
    hosts: Hosts,
}

/// No domain is longer (RFC 1035).
const MAX_HOST: usize = 253;

impl Table {
    /// The claim that serves a request (SEMANTICS section 2): the exact host before wildcards, the longest
    /// wildcard suffix first, and among a host's claims the higher priority, then the longer path. A host
    /// without a matching path falls through to its wildcards, or, where a service owns it, to those of that service.
    ///
    /// `host` is a Host header: case, port and a trailing dot are ignored. `path` must be [normalised](super::normalise).
    /// Does not allocate.
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Claim>> {
        let host = hostname(host);
        if host.is_empty() || host.len() > MAX_HOST {
            return None;
        }
        let mut buffer = [0; MAX_HOST];
        let name = &mut buffer[..host.len()];
        name.copy_from_slice(host.as_bytes());
        name.make_ascii_lowercase();
        let exact = std::str::from_utf8(name).ok()?;
        let mut owner = None;
        self.find_on(exact, path, &mut owner).or_else(|| self.find_on_wildcards(name, path, owner))
    }

    /// Tries `*.b.example.com`, `*.example.com` and `*.com`, in this order, for `a.b.example.com`. Each of them is an
    /// end of the name with a `*` written over the byte before the dot.
    fn find_on_wildcards<'a>(
        &'a self,
        name: &mut [u8],
        path: &str,
        mut owner: Option<&'a ServiceName>,
    ) -> Option<&'a Arc<Claim>> {
        for dot in 1..name.len() {
            if name[dot] != b'.' {
                continue;
            }
            name[dot - 1] = b'*';
            let wildcard = std::str::from_utf8(&name[dot - 1..]).ok()?;
            if let Some(claim) = self.find_on(wildcard, path, &mut owner) {
                return Some(claim);
            }
        }
        None
    }

    /// `owner`: the service to which the request's host belongs as a whole, as far as is known by now.
    fn find_on<'a>(
        &'a self,
        domain: &str,
        path: &str,
        owner: &mut Option<&'a ServiceName>,
    ) -> Option<&'a Arc<Claim>> {
        let claims = self.hosts.get(domain)?;
        let may = |claim: &Claim| owner.is_none_or(|owner| *owner == claim.terms.service);
        let found = claims.iter().find(|claim| claim.path.matches(path) && may(claim));
        if found.is_none() && owner.is_none() {
            *owner = claims.iter().find(|claim| claim.owns_host).map(|claim| &claim.terms.service);
        }
        found
    }

    /// Adds a claim. It replaces the one with its domain and path.
    pub fn put(&mut self, claim: Claim) {
        let domain = claim.domain.clone();
        self.hosts.change(domain.as_str(), |before| {
            if before.is_none() {
                return Some(Claims::One(Arc::new(claim)));
            }
            let mut claims = without(before, &claim.path);
            let priority = |c: &Claim| std::cmp::Reverse(c.terms.priority);
            let rank = |c: &Claim| (priority(c), std::cmp::Reverse(c.path.as_str().len()));
            let at = claims.partition_point(|other| rank(other) <= rank(&claim));
            claims.insert(at, Arc::new(claim));
            Claims::new(claims)
        });
    }

    /// Removes a claim, if it is there.
    pub fn remove(&mut self, domain: &Domain, path: &PathPrefix) {
        self.hosts.change(domain.as_str(), |before| Claims::new(without(before, path)));
    }

    /// The claim with exactly this domain and path.
    pub fn get(&self, domain: &Domain, path: &PathPrefix) -> Option<&Arc<Claim>> {
        self.hosts.get(domain.as_str())?.iter().find(|claim| claim.path == *path)
    }

    /// The claims of exactly this domain, in the order in which they are tried.
    pub fn host(&self, domain: &Domain) -> &[Arc<Claim>] {
        self.hosts.get(domain.as_str()).unwrap_or_default()
    }

    /// Every claim, in any order.
    pub fn claims(&self) -> impl Iterator<Item = &Arc<Claim>> {
        self.hosts.iter().flatten()
    }
}

/// A host's claims except the one for `path`.
fn without(claims: Option<Claims>, path: &PathPrefix) -> Vec<Arc<Claim>> {
    let all = claims.iter().flat_map(Claims::as_slice);
    all.filter(|claim| claim.path != *path).cloned().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture::claim;
    use super::*;

    fn table(claims: &[(&str, &str, i32)]) -> Table {
        let mut table = Table::default();
        for (domain, path, priority) in claims {
            table.put(claim(domain, path, *priority));
        }
        table
    }

    fn found(table: &Table, host: &str, path: &str) -> Option<String> {
        table.find(host, path).map(|claim| format!("{}{}", claim.domain, claim.path))
    }

    #[test]
    fn an_exact_host_wins_over_wildcards_and_the_longest_suffix_wins_among_them() {
        let table = table(&[
            ("a.example.com", "/", 0),
            ("*.example.com", "/", 99),
            ("*.b.example.com", "/", 0),
            ("*.com", "/", 99),
        ]);
        for (host, expected) in [
            ("a.example.com", Some("a.example.com/")),
            ("x.example.com", Some("*.example.com/")),
            ("x.b.example.com", Some("*.b.example.com/")),
            ("x.y.b.example.com", Some("*.b.example.com/")),
            ("b.example.com", Some("*.example.com/")),
            ("example.com", Some("*.com/")),
            ("example.org", None),
            ("com", None),
            ("", None),
            (".com", None),
            ("[::1]:80", None),
            ("*.example.com", Some("*.example.com/")),
        ] {
            assert_eq!(found(&table, host, "/").as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn a_host_without_a_matching_path_falls_through_to_its_wildcards() {
        let table = table(&[
            ("a.b.example.com", "/api", 0),
            ("*.b.example.com", "/app", 0),
            ("*.example.com", "/", 0),
        ]);
        for (path, expected) in
            [("/api/x", "a.b.example.com/api"), ("/app", "*.b.example.com/app"), ("/other", "*.example.com/")]
        {
            assert_eq!(found(&table, "a.b.example.com", path).as_deref(), Some(expected), "{path}");
        }
    }

    #[test]
    fn a_host_that_is_owned_falls_through_to_its_owners_wildcards_only() {
        let of = |service: &str, domain: &str, path: &str| {
            let mut claim = claim(domain, path, 0);
            claim.owns_host = service == "owner";
            Arc::make_mut(&mut claim.terms).service = service.parse().unwrap();
            claim
        };
        let mut table = Table::default();
        for claim in [
            of("owner", "a.b.example.com", "/api"),
            of("other", "*.b.example.com", "/"),
            of("owner", "*.example.com", "/app"),
            of("other", "*.com", "/"),
        ] {
            table.put(claim);
        }
        for (host, path, expected) in [
            ("a.b.example.com", "/api", Some("a.b.example.com/api")),
            ("a.b.example.com", "/other", None),
            ("a.b.example.com", "/app", Some("*.example.com/app")),
            ("x.b.example.com", "/other", Some("*.b.example.com/")),
            ("x.example.com", "/other", None),
            ("x.com", "/", Some("*.com/")),
        ] {
            assert_eq!(found(&table, host, path).as_deref(), expected, "{host}{path}");
        }
    }

    #[test]
    fn a_higher_priority_wins_over_a_longer_path() {
        let table =
            table(&[("h", "/", 10), ("h", "/api", 10), ("h", "/api/v2", 10), ("h", "/api/v2/old", 5)]);
        for (path, expected) in [
            ("/", "h/"),
            ("/apixyz", "h/"),
            ("/api", "h/api"),
            ("/api/", "h/api"),
            ("/api/v1", "h/api"),
            ("/api/v2/x", "h/api/v2"),
            ("/api/v2/old", "h/api/v2"),
        ] {
            assert_eq!(found(&table, "h", path).as_deref(), Some(expected), "{path}");
        }
        let raised = {
            let mut table = table.clone();
            table.put(claim("h", "/", 11));
            table
        };
        assert_eq!(found(&raised, "h", "/api").as_deref(), Some("h/"));
        assert_eq!(found(&table, "h", "/api").as_deref(), Some("h/api"), "the old snapshot stays");
    }

    #[test]
    fn case_port_and_trailing_dot_of_the_host_are_ignored() {
        let table = table(&[("example.com", "/", 0), ("*.example.com", "/", 0)]);
        for host in ["EXAMPLE.com", "example.com:8080", "example.com.", "Example.Com.:80"] {
            assert_eq!(found(&table, host, "/").as_deref(), Some("example.com/"), "{host}");
        }
        assert_eq!(found(&table, "A.Example.com:1", "/").as_deref(), Some("*.example.com/"));
        assert_eq!(found(&table, &"a.".repeat(200), "/"), None);
        assert!(found(&table, "\u{e4}.example.com", "/").is_some(), "survived, whatever it is");
    }

    #[test]
    fn a_claim_is_replaced_and_taken_out() {
        let mut table = table(&[("h", "/", 0), ("h", "/a", 0)]);
        table.put(claim("h", "/a", 5));
        assert_eq!(table.claims().count(), 2);
        assert_eq!(table.get(&"h".parse().unwrap(), &"/a".parse().unwrap()).unwrap().terms.priority, 5);
        table.remove(&"h".parse().unwrap(), &"/a".parse().unwrap());
        assert_eq!(found(&table, "h", "/a").as_deref(), Some("h/"));
        table.remove(&"h".parse().unwrap(), &"/".parse().unwrap());
        table.remove(&"h".parse().unwrap(), &"/".parse().unwrap());
        assert_eq!(table.claims().count(), 0);
    }

    #[test]
    fn replacing_a_claim_does_not_copy_the_claims_of_other_hosts() {
        let before = table(&[("a", "/", 0), ("b", "/", 0), ("b", "/x", 0)]);
        let mut after = before.clone();
        after.put(claim("a", "/", 1));
        let list = |table: &Table, host: &str| table.hosts.get(host).unwrap().as_ptr();
        assert_eq!(list(&before, "b"), list(&after, "b"));
        assert_ne!(list(&before, "a"), list(&after, "a"));
    }

    /// A second, naive implementation of SEMANTICS section 2.
    fn find_slowly(claims: &[(&str, &str, i32)], host: &str, path: &str) -> Option<String> {
        let matches = |domain: &str| match domain.strip_prefix("*.") {
            Some(suffix) => {
                host.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            None => domain == host,
        };
        let mut fitting: Vec<_> = claims
            .iter()
            .filter(|(domain, prefix, _)| {
                let under = path.strip_prefix(prefix.trim_end_matches('/'));
                matches(domain) && under.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
            .collect();
        fitting.sort_by_key(|(domain, prefix, priority)| {
            (domain.starts_with('*'), std::cmp::Reverse((domain.len(), *priority, prefix.len())))
        });
        fitting.first().map(|(domain, prefix, _)| format!("{domain}{prefix}"))
    }

    proptest! {
        #[test]
        fn find_agrees_with_the_naive_implementation(
            priorities in prop::collection::vec(prop::option::of(0..3i32), 18),
            host in prop::sample::select(vec!["b.c", "a.b.c", "x.a.b.c", "c", "d.c"]),
            path in prop::sample::select(vec!["/", "/p", "/p/", "/p/q", "/p/q/r", "/pq"]),
        ) {
            let domains = ["a.b.c", "b.c", "*.c", "*.b.c", "*.a.b.c", "c"];
            let paths = ["/", "/p", "/p/q"];
            let all = domains.iter().flat_map(|domain| paths.iter().map(move |path| (*domain, *path)));
            let claims: Vec<_> = all
                .zip(&priorities)
                .filter_map(|((domain, path), priority)| Some((domain, path, (*priority)?)))
                .collect();
            prop_assert_eq!(found(&table(&claims), host, path), find_slowly(&claims, host, path));
        }
    }
}
