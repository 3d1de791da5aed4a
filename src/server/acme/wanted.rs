//! For which of the claims there may be a certificate.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::server::routing::Table;

/// The exact hosts that are claimed, which REGISTRY_POLICY has permitted then, and that an authority would take.
pub(super) fn wanted(table: &Table, has_file_for: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let hosts = table.claims().map(|claim| claim.domain.as_str());
    hosts.filter(|host| is_orderable(host) && !has_file_for(host)).map(str::to_owned).collect()
}

/// Whether it is an exact name that an authority may know: no wildcard, no address, more than one label.
fn is_orderable(host: &str) -> bool {
    let is_address = host.parse::<IpAddr>().is_ok();
    host.contains('.') && !host.starts_with("*.") && !host.contains('_') && !is_address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_are_ordered() {
        for host in ["a.example.com", "example.com", "xn--bcher-kva.example"] {
            assert!(is_orderable(host), "{host}");
        }
        for host in ["*.example.com", "localhost", "10.0.0.1", "127.0.0.53", "my_app.example.com"] {
            assert!(!is_orderable(host), "{host}");
        }
    }
}
