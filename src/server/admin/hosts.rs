//! Under which names the admin listener answers.
//!
//! A page in a browser may let its own name resolve to 127.0.0.1 (DNS rebinding). The browser then takes the admin listener
//! for that page's server, and lets the page read its answers. It still sends the name in Host.

use std::net::{IpAddr, Ipv6Addr};

use http::HeaderMap;
use http::header::{HOST, HeaderValue};

/// Whether a request is for an address, for localhost or for one of `names`, which are in lower case. Without Host it is not
/// from a browser.
pub(super) fn are_ours(headers: &HeaderMap, names: &[String]) -> bool {
    headers.get_all(HOST).iter().all(|host| is_ours(host, names))
}

fn is_ours(host: &HeaderValue, names: &[String]) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if let Some(bare) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return bare.parse::<Ipv6Addr>().is_ok();
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_known_names_are_ours_and_nothing_else() {
        let names = ["proxy".to_owned(), "metrics.example.com".to_owned()];
        let ours = |host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(host));
            are_ours(&headers, &names)
        };
        for host in [
            "127.0.0.1:8081",
            "10.2.2.7",
            "[::1]:8081",
            "localhost",
            "LocalHost:8081",
            "localhost.",
            "proxy:8081",
            "Metrics.Example.com",
        ] {
            assert!(ours(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "xproxy",
            "proxy.evil.example:8081",
            "[evil]",
            "127.0.0.1@evil.example",
        ] {
            assert!(!ours(host), "{host}");
        }
        assert!(are_ours(&HeaderMap::new(), &names), "no browser leaves Host out");
        let mut both = HeaderMap::new();
        both.append(HOST, HeaderValue::from_static("localhost"));
        both.append(HOST, HeaderValue::from_static("evil.example"));
        assert!(!are_ours(&both, &names));
    }
}
