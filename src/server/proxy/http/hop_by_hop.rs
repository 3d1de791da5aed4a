//! Removes headers that concern one connection only and must not be forwarded (RFC 9110 section 7.6.1).

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};

use http::StatusCode;

use super::trailers::TrailerFilter;

/// Hop-by-hop headers of requests.
static REQUEST_HEADERS: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    UPGRADE,
    TE,
    EXPECT,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("http2-settings"),
];
/// Hop-by-hop headers of responses.
static RESPONSE_HEADERS: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    UPGRADE,
    PROXY_AUTHENTICATE,
];

/// The protocol that a client asks to upgrade to: the value of Upgrade, if Connection names that header.
///
/// A request for `h2c` is treated as one without an upgrade: the backend would answer it in HTTP/2 on a connection
/// that the proxy no longer parses.
pub(crate) fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(UPGRADE)?;
    let is_h2c = tokens(upgrade).any(|token| token.eq_ignore_ascii_case("h2c"));
    let named = || {
        headers.get_all(CONNECTION).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case("upgrade"))
    };
    (!is_h2c && named()).then(|| upgrade.clone())
}

/// Removes a request's hop-by-hop headers, and returns which trailers go too.
///
/// `TE: trailers` stays for gRPC, whose servers refuse a request without it. Otherwise it would promise the backend that
/// trailers arrive, which the client's next proxy may not keep. Transfer-Encoding is left to
/// [`framing`](super::framing).
pub(crate) fn remove_from_request(headers: &mut HeaderMap) -> TrailerFilter {
    let found = Present::among(headers, &REQUEST_HEADERS);
    let trailers = found.has(&TE)
        && is_grpc(headers)
        && headers.get_all(TE).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case("trailers"));
    let named = found.remove_from(headers);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    TrailerFilter::new(named)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let (kind, rest) = content_type.split_at(content_type.len().min(GRPC.len()));
    // `application/grpc-web` is another protocol, without trailers.
    kind.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// Names TE in Connection, as HTTP/1.1 asks of whoever sends it (RFC 9110 section 10.1.4).
pub(crate) fn name_te(headers: &mut HeaderMap) {
    if headers.contains_key(TE) {
        let options = if headers.contains_key(UPGRADE) { "upgrade, te" } else { "te" };
        headers.insert(CONNECTION, HeaderValue::from_static(options));
    }
}

/// The protocols that a client must upgrade to (RFC 9110 section 15.5.22), which is the one response that keeps them
/// although nobody switches.
pub(crate) fn required_upgrade(status: StatusCode, headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = || headers.get_all(UPGRADE).iter().map(HeaderValue::as_bytes);
    if status != StatusCode::UPGRADE_REQUIRED || lines().next().is_none() {
        return None;
    }
    HeaderValue::from_bytes(&lines().collect::<Vec<_>>().join(&b", "[..])).ok()
}

/// Joins the lines of Cookie into one. HTTP/2 clients may send several, HTTP/1.1 allows one (RFC 9113 section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Removes a response's hop-by-hop headers, and returns which trailers go too.
pub(crate) fn remove_from_response(headers: &mut HeaderMap) -> TrailerFilter {
    TrailerFilter::new(Present::among(headers, &RESPONSE_HEADERS).remove_from(headers))
}

/// Which of `names` a message has. One pass over its headers is cheaper than a lookup for each name, because most names
/// are absent.
struct Present {
    names: &'static [HeaderName],
    /// One bit for each name.
    bits: u32,
}

impl Present {
    fn among(headers: &HeaderMap, names: &'static [HeaderName]) -> Self {
        let bit = |name| names.iter().position(|other| other == name).map_or(0, |at| 1 << at);
        Present { names, bits: headers.keys().map(bit).fold(0, |bits, bit| bits | bit) }
    }

    fn iter(&self) -> impl Iterator<Item = &'static HeaderName> {
        let (names, mut rest) = (self.names, self.bits);
        std::iter::from_fn(move || {
            let name = names.get(rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(name)
        })
    }

    fn has(&self, name: &HeaderName) -> bool {
        self.iter().any(|present| present == name)
    }

    /// Removes these headers, and those that Connection names, which it returns.
    fn remove_from(&self, headers: &mut HeaderMap) -> Vec<HeaderName> {
        let mut named = Vec::new();
        if self.has(&CONNECTION) {
            let values = headers.get_all(CONNECTION).iter();
            // Usually empty, and an empty Vec does not allocate.
            let naming: Vec<HeaderValue> = values.filter(|value| !names_nothing(value)).cloned().collect();
            for connection in &naming {
                remove_named(headers, connection, &mut named);
            }
        }
        for name in self.iter() {
            headers.remove(name);
        }
        named
    }
}

/// Whether a Connection header names no other header.
fn names_nothing(connection: &HeaderValue) -> bool {
    let connection = connection.as_bytes();
    connection.eq_ignore_ascii_case(b"keep-alive") || connection.eq_ignore_ascii_case(b"close")
}

fn remove_named(headers: &mut HeaderMap, connection: &HeaderValue, named: &mut Vec<HeaderName>) {
    for token in tokens(connection) {
        // Removing these would change how the message is framed or routed.
        match HeaderName::from_bytes(token.as_bytes()) {
            Ok(HOST | CONTENT_LENGTH | TRANSFER_ENCODING) | Err(_) => {}
            Ok(name) => {
                headers.remove(&name);
                named.push(name);
            }
        }
    }
}

/// The elements of a comma-separated list.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn names(map: &HeaderMap) -> Vec<&str> {
        map.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn hop_by_hop_headers_are_removed() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Private"),
            ("connection", "x-other"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("expect", "100-continue"),
            ("x-private", "1"),
            ("x-other", "1"),
            ("x-kept", "1"),
        ]);
        remove_from_request(&mut headers);
        assert_eq!(names(&headers), ["x-kept"]);
        let mut headers = map(&[
            ("connection", "close, x-private"),
            ("proxy-authenticate", "Basic"),
            ("x-private", "1"),
            ("x-kept", "1"),
        ]);
        remove_from_response(&mut headers);
        assert_eq!(names(&headers), ["x-kept"]);
    }

    #[test]
    fn connection_cannot_remove_host_or_length() {
        let mut headers = map(&[
            ("connection", "Host, Content-Length, close, not a token"),
            ("host", "h"),
            ("content-length", "3"),
        ]);
        remove_from_request(&mut headers);
        assert_eq!(headers.len(), 2);
        assert_eq!((headers.get("host").is_some(), headers.get("content-length").is_some()), (true, true));
    }

    #[test]
    fn te_trailers_is_forwarded_for_grpc_and_named_in_connection() {
        let sent = |content_type: &'static str| {
            let te = [("te", "gzip, Trailers"), ("connection", "te"), ("trailer", "x-sum")];
            let mut headers = map(&te);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            remove_from_request(&mut headers);
            name_te(&mut headers);
            assert_eq!(headers["trailer"], "x-sum");
            (headers.contains_key(TE), headers.contains_key(CONNECTION))
        };
        for grpc in ["application/grpc", "application/grpc+proto", "Application/gRPC; x=y"] {
            assert_eq!(sent(grpc), (true, true), "{grpc}");
        }
        for other in ["application/grpc-web", "application/grpcx", "application/json", ""] {
            assert_eq!(sent(other), (false, false), "{other}");
        }
    }

    #[test]
    fn only_a_426_says_which_protocol_it_wants() {
        let headers = map(&[("upgrade", "websocket"), ("upgrade", "TLS/1.3")]);
        let required = |status| required_upgrade(status, &headers);
        assert_eq!(required(StatusCode::UPGRADE_REQUIRED).unwrap(), "websocket, TLS/1.3");
        assert_eq!(required(StatusCode::OK), None);
        assert_eq!(required_upgrade(StatusCode::UPGRADE_REQUIRED, &HeaderMap::new()), None);
    }

    #[test]
    fn an_upgrade_is_wanted_when_both_headers_say_so_and_it_is_not_h2c() {
        let wanted =
            |lines: &[_]| requested_upgrade(&map(lines)).map(|value| value.to_str().unwrap().to_owned());
        let upgrade = ("upgrade", "websocket");
        assert_eq!(wanted(&[upgrade, ("connection", "keep-alive, Upgrade")]).as_deref(), Some("websocket"));
        assert_eq!(wanted(&[upgrade, ("connection", "keep-alive")]), None);
        assert_eq!(wanted(&[upgrade]), None);
        assert_eq!(wanted(&[("connection", "upgrade")]), None);
        assert_eq!(wanted(&[("upgrade", "h2c"), ("connection", "upgrade, http2-settings")]), None);
    }
}
