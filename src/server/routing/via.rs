//! Names this proxy in messages that it forwards (RFC 9110 section 7.6.3), where the operator wants that.

use std::str::FromStr;

use http::Version;
use http::header::{HeaderMap, HeaderValue, VIA};

/// The longest name.
const MAX_NAME: usize = 100;

/// VIA: the name by which the proxy is known, as elements of the header Via.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

/// The name is no host with or without a port, and no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoName;

impl FromStr for Via {
    type Err = NoName;

    fn from_str(name: &str) -> Result<Self, NoName> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:[]".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_legal) {
            return Err(NoName);
        }
        let element = |version: &str| HeaderValue::try_from(format!("{version} {name}")).map_err(|_| NoName);
        Ok(Via { http10: element("1.0")?, http11: element("1.1")?, http2: element("2")? })
    }
}

impl Via {
    /// Adds the proxy to a message that it received in `version`, behind those that had it before.
    pub fn add_to(&self, headers: &mut HeaderMap, version: Version) {
        let element = match version {
            Version::HTTP_2 => &self.http2,
            Version::HTTP_11 => &self.http11,
            _ => &self.http10,
        };
        headers.append(VIA, element.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_added_behind_those_before_with_the_version_that_came() {
        let via: Via = "proxy.example:8080".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.append(VIA, HeaderValue::from_static("1.1 cdn"));
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            via.add_to(&mut headers, version);
        }
        let all: Vec<_> = headers.get_all(VIA).iter().collect();
        assert_eq!(
            all,
            ["1.1 cdn", "1.0 proxy.example:8080", "1.1 proxy.example:8080", "2 proxy.example:8080"]
        );
    }

    #[test]
    fn a_name_is_a_token_or_a_host() {
        for name in ["proxy", "edge_1", "proxy.example:80", "[::1]:80"] {
            assert!(name.parse::<Via>().is_ok(), "{name}");
        }
        for name in ["", "my proxy", "a,b", "a(b)", "a\r\nX: y", "caf\u{e9}", &"a".repeat(101)] {
            assert_eq!(name.parse::<Via>(), Err(NoName), "{name}");
        }
    }
}
