//! Removes trailer fields that must not be forwarded (RFC 9110 section 6.5.1).
//!
//! A reader may merge trailers into the headers. So nothing may come as a trailer that is removed or written by the
//! proxy in the headers, or that says how long the message is, whom it is for or how its body is coded.

use http::HeaderMap;
use http::header::HeaderName;

use super::forwarded;

/// Fields that are no trailers, beside the forwarding headers. Names with `_` for `-` count too, because CGI cannot
/// tell them apart.
const FORBIDDEN: [&str; 27] = [
    // Of one connection only.
    "connection",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "upgrade",
    // Framing, routing and the form of the body.
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "host",
    "max-forwards",
    "range",
    "trailer",
    "transfer-encoding",
    // Credentials and control of caches.
    "authorization",
    "cache-control",
    "cookie",
    "pragma",
    "set-cookie",
    "www-authenticate",
    // Written by the proxy.
    "via",
    "x-request-id",
];

/// Which trailers of one message are removed.
#[derive(Debug, Default)]
pub(crate) struct TrailerFilter {
    /// Those that the Connection header of the message's head names (RFC 9110 section 7.6.1).
    named_by_connection: Vec<HeaderName>,
}

impl TrailerFilter {
    pub(crate) fn new(named_by_connection: Vec<HeaderName>) -> Self {
        TrailerFilter { named_by_connection }
    }

    /// `is_written`: whether the proxy writes this field into the message's head.
    pub(crate) fn apply(&self, trailers: &mut HeaderMap, is_written: impl Fn(&HeaderName) -> bool) {
        let is_removed = |name: &&HeaderName| {
            is_forbidden(name) || self.named_by_connection.contains(name) || is_written(name)
        };
        let removed: Vec<HeaderName> = trailers.keys().filter(is_removed).cloned().collect();
        for name in removed {
            trailers.remove(name);
        }
    }
}

fn is_forbidden(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    FORBIDDEN.contains(&name.as_str()) || forwarded::is_protected(&name)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// The names that are left of `names`.
    fn left(filter: &TrailerFilter, names: &[&'static str]) -> Vec<String> {
        let mut trailers = HeaderMap::new();
        for name in names {
            trailers.append(*name, HeaderValue::from_static("1"));
        }
        filter.apply(&mut trailers, |name| name == "x-route");
        trailers.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn what_the_proxy_writes_or_removes_in_headers_is_no_trailer() {
        let filter = TrailerFilter::default();
        for forbidden in FORBIDDEN {
            assert_eq!(left(&filter, &[forbidden]), [""; 0], "{forbidden}");
        }
        let written = [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-real-ip",
            "cf-connecting-ip",
            "forwarded",
            "x-route",
        ];
        assert_eq!(left(&filter, &written), [""; 0]);
        assert_eq!(left(&filter, &["x_forwarded_for", "content_length", "x_real-ip"]), [""; 0]);
    }

    #[test]
    fn other_trailers_stay() {
        let filter = TrailerFilter::default();
        let kept = ["grpc-status", "grpc-message", "grpc-status-details-bin", "digest", "etag", "x-sum"];
        assert_eq!(left(&filter, &kept), kept);
    }

    #[test]
    fn the_heads_connection_field_names_trailers_too() {
        let filter = TrailerFilter::new(vec![HeaderName::from_static("x-private")]);
        assert_eq!(left(&filter, &["x-private", "x-sum"]), ["x-sum"]);
    }
}
