//! What is between two neighbours only and is not passed on (RFC 9110 section 7.6.1).

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};

/// What a client says to us alone.
static OF_REQUESTS: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    UPGRADE,
    TE,
    EXPECT,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("http2-settings"),
];
/// What a backend says to us alone.
static OF_RESPONSES: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    UPGRADE,
    TRANSFER_ENCODING,
    PROXY_AUTHENTICATE,
];

/// What a client wants its connection to become: the value of Upgrade, if Connection names it too.
///
/// `h2c` does not count: its request would be answered on a connection that we no longer read.
pub(super) fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(UPGRADE)?;
    let is_h2c = tokens(upgrade).any(|token| token.eq_ignore_ascii_case("h2c"));
    let named = || {
        headers.get_all(CONNECTION).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case("upgrade"))
    };
    (!is_h2c && named()).then(|| upgrade.clone())
}

/// Takes out of a request what is meant for us. Trailers stay announced; so does the length.
///
/// Transfer-Encoding stays where it is: it can only be `chunked`, and tells hyper that there is a body.
pub(super) fn strip_request(headers: &mut HeaderMap) {
    let found = Found::look(headers, &OF_REQUESTS);
    let trailers = found.has(&TE)
        && headers.get_all(TE).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case("trailers"));
    found.strip(headers);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// HTTP/2 clients may send cookies in several lines, which HTTP/1.1 does not know (RFC 9113 section 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Takes out of a response what is meant for us. Whether its body can be passed on: of transfer codings only `chunked` is
/// taken off, and nobody asks for others.
#[must_use]
pub(super) fn strip_response(headers: &mut HeaderMap) -> bool {
    let found = Found::look(headers, &OF_RESPONSES);
    let mut is_known = true;
    if found.has(&TRANSFER_ENCODING) {
        let codings = headers.get_all(TRANSFER_ENCODING);
        is_known = codings.iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        // The chunks say how long it is, and no length beside them (RFC 9112 section 6.3).
        headers.remove(CONTENT_LENGTH);
    }
    found.strip(headers);
    is_known
}

/// Which of some names there are. One look at each header is cheaper than one search for each name, most of which
/// are not there.
struct Found {
    names: &'static [HeaderName],
    /// A bit for each.
    there: u32,
}

impl Found {
    fn look(headers: &HeaderMap, names: &'static [HeaderName]) -> Self {
        let bit = |name| names.iter().position(|other| other == name).map_or(0, |at| 1 << at);
        Found { names, there: headers.keys().map(bit).fold(0, |there, bit| there | bit) }
    }

    /// Those that are there.
    fn all(&self) -> impl Iterator<Item = &'static HeaderName> {
        let (names, mut rest) = (self.names, self.there);
        std::iter::from_fn(move || {
            let name = names.get(rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(name)
        })
    }

    fn has(&self, name: &HeaderName) -> bool {
        self.all().any(|there| there == name)
    }

    /// Takes them out, and what Connection names.
    fn strip(&self, headers: &mut HeaderMap) {
        if self.has(&CONNECTION) {
            let values = headers.get_all(CONNECTION).iter();
            // An empty Vec costs nothing.
            let naming: Vec<HeaderValue> = values.filter(|value| !is_plain(value)).cloned().collect();
            for connection in &naming {
                strip_tokens(headers, connection);
            }
        }
        for name in self.all() {
            headers.remove(name);
        }
    }
}

fn is_plain(connection: &HeaderValue) -> bool {
    let connection = connection.as_bytes();
    connection.eq_ignore_ascii_case(b"keep-alive") || connection.eq_ignore_ascii_case(b"close")
}

fn strip_tokens(headers: &mut HeaderMap, connection: &HeaderValue) {
    for token in tokens(connection) {
        // A message cannot do without these, whoever names them.
        match HeaderName::from_bytes(token.as_bytes()) {
            Ok(HOST | CONTENT_LENGTH | TRANSFER_ENCODING) | Err(_) => {}
            Ok(name) => {
                headers.remove(name);
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
    fn what_is_for_a_neighbour_is_not_passed_on() {
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
        strip_request(&mut headers);
        assert_eq!(names(&headers), ["x-kept"]);
        let mut headers = map(&[
            ("connection", "close, x-private"),
            ("transfer-encoding", "chunked"),
            ("proxy-authenticate", "Basic"),
            ("x-private", "1"),
            ("x-kept", "1"),
        ]);
        assert!(strip_response(&mut headers));
        assert_eq!(names(&headers), ["x-kept"]);
        assert!(!strip_response(&mut map(&[("transfer-encoding", "gzip, chunked")])));
    }

    #[test]
    fn nobody_can_name_away_what_a_message_needs() {
        let mut headers = map(&[
            ("connection", "Host, Content-Length, close, not a token"),
            ("host", "h"),
            ("content-length", "3"),
        ]);
        strip_request(&mut headers);
        assert_eq!(headers.len(), 2);
        assert_eq!((headers.get("host").is_some(), headers.get("content-length").is_some()), (true, true));
    }

    #[test]
    fn that_trailers_are_welcome_is_passed_on() {
        let mut headers = map(&[("te", "gzip, Trailers"), ("connection", "te"), ("trailer", "x-sum")]);
        strip_request(&mut headers);
        assert_eq!(headers.get("te").unwrap(), "trailers");
        assert_eq!(headers.get("trailer").unwrap(), "x-sum");
    }

    #[test]
    fn an_upgrade_is_wanted_when_both_headers_say_so_and_it_is_not_h2c() {
        let wanted =
            |lines: &[_]| wanted_upgrade(&map(lines)).map(|value| value.to_str().unwrap().to_owned());
        let upgrade = ("upgrade", "websocket");
        assert_eq!(wanted(&[upgrade, ("connection", "keep-alive, Upgrade")]).as_deref(), Some("websocket"));
        assert_eq!(wanted(&[upgrade, ("connection", "keep-alive")]), None);
        assert_eq!(wanted(&[upgrade]), None);
        assert_eq!(wanted(&[("connection", "upgrade")]), None);
        assert_eq!(wanted(&[("upgrade", "h2c"), ("connection", "upgrade, http2-settings")]), None);
    }
}
