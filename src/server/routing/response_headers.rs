//! The response headers that a route sets (HEADERS_SET).

use std::collections::BTreeMap;

use http::HeaderMap;

use registry_client::protocol::{HeaderName, HeaderValue};

/// Headers that belong to a connection or frame a message. A response with false ones breaks the connection, or smuggles
/// a second response into it.
const NOT_ALLOWED: [&str; 11] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Response headers in the form in which hyper sends them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHeaders(Vec<(http::HeaderName, http::HeaderValue)>);

impl ResponseHeaders {
    /// Converts them once, so that a response costs only their copies.
    pub fn new(headers: &BTreeMap<HeaderName, HeaderValue>) -> Self {
        let convert = |(name, value): (&HeaderName, &HeaderValue)| {
            // The protocol's types allow tokens and visible text only, which hyper's types accept.
            Some((name.as_str().parse().ok()?, http::HeaderValue::from_str(value.as_str()).ok()?))
        };
        ResponseHeaders(headers.iter().filter_map(convert).collect())
    }

    /// Whether a header of this name may be set, whatever its case.
    pub fn may_set(name: &HeaderName) -> bool {
        !NOT_ALLOWED.iter().any(|other| name.as_str().eq_ignore_ascii_case(other))
    }

    /// Sets those of the headers that are not there.
    pub fn put_missing_into(&self, headers: &mut HeaderMap) {
        for (name, value) in self.0.iter().filter(|(name, _)| !headers.contains_key(name)).collect::<Vec<_>>()
        {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// Whether the route sets this header.
    pub fn contains(&self, name: &http::HeaderName) -> bool {
        self.0.iter().any(|(set, _)| set == name)
    }

    /// Sets the headers and removes others with the same names.
    pub fn put_into(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.insert(name.clone(), value.clone());
        }
    }
}
