//! Refuses requests that must not be forwarded, before the routing table is looked at.

use http::header::{HOST, HeaderMap, HeaderValue, MAX_FORWARDS};
use http::{Method, Request, Version};

use super::framing::{self, FramingError};
use super::page::Page;

/// The longest authority: 253 bytes of name, 6 of port, a few for brackets.
const MAX_HOST: usize = 264;

/// Returns the host that a request is for: the authority of its target if it has one (absolute form, RFC 9112
/// section 3.2.2), otherwise its Host header.
///
/// # Errors
/// The page that tells the client what is wrong with the request.
pub(crate) fn requested_host<B>(request: &Request<B>) -> Result<HeaderValue, Page> {
    if request.method() == Method::CONNECT || echoes_its_request(request.method()) {
        return Err(Page::MethodNotAllowed);
    }
    framing::check_request(request.headers()).map_err(|error| match error {
        FramingError::UnknownCoding => Page::UnknownTransferCoding,
        FramingError::AmbiguousCoding => {
            Page::BadRequest("The request's Transfer-Encoding is not \"chunked\", once.")
        }
        FramingError::AmbiguousLength => {
            Page::BadRequest("The request's Content-Length is no number, or there are different ones.")
        }
    })?;
    let mut hosts = request.headers().get_all(HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(Page::BadRequest("The request has more than one Host header.")),
        (header, _) => header,
    };
    if header.is_none() && request.version() == Version::HTTP_11 {
        return Err(Page::BadRequest("The request has no Host header."));
    }
    if request.uri().path() == "*" && request.method() != Method::OPTIONS {
        return Err(Page::BadRequest("Only OPTIONS may be about the host as a whole (the target *)."));
    }
    // In HTTP/1.1 the target's authority replaces the header (RFC 9112 section 3.2.2). In HTTP/2 an application may look
    // at either, so they must not differ (RFC 9113 section 8.3.1).
    if request.version() == Version::HTTP_2
        && let (Some(authority), Some(header)) = (request.uri().authority(), header)
        && !header
            .to_str()
            .is_ok_and(|header| is_same_host(authority.as_str(), header, request.uri().scheme_str()))
    {
        return Err(Page::BadRequest("The request names one host in :authority and another in Host."));
    }
    // An authority without a scheme is CONNECT's form.
    let host = match request.uri().authority() {
        Some(_) if request.uri().scheme().is_none() => {
            return Err(Page::BadRequest("The request's target is neither a path nor a URL."));
        }
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => header.cloned(),
    };
    match host {
        None => Err(Page::BadRequest("The request does not say which host it is for.")),
        Some(host) if is_host(host.as_bytes()) => Ok(host),
        Some(_) => Err(Page::BadRequest("The request's Host is no host name.")),
    }
}

/// Answers a request that asks not to be forwarded any further (RFC 9110 section 7.6.2).
///
/// # Errors
/// The answer.
pub(crate) fn check_max_forwards<B>(request: &Request<B>) -> Result<(), Page> {
    match max_forwards(request.method(), request.headers()) {
        Some(0) => Err(Page::LastForward),
        _ => Ok(()),
    }
}

/// Counts this proxy in a request's Max-Forwards.
pub(crate) fn decrement_max_forwards(method: &Method, headers: &mut HeaderMap) {
    if let Some(left) = max_forwards(method, headers) {
        headers.insert(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

/// How often a request may be forwarded. Only these methods count; TRACE is never forwarded.
fn max_forwards(method: &Method, headers: &HeaderMap) -> Option<u64> {
    let text = (method == Method::OPTIONS).then(|| headers.get(MAX_FORWARDS))??.to_str().ok()?;
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether two authorities name one host and port. `scheme` says which port needs no name.
fn is_same_host(one: &str, other: &str, scheme: Option<&str>) -> bool {
    let default = if scheme == Some("https") { ":443" } else { ":80" };
    let name = |authority: &str| {
        let name = authority.strip_suffix(default).or_else(|| authority.strip_suffix(':'));
        name.unwrap_or(authority).to_ascii_lowercase()
    };
    name(one) == name(other)
}

/// Whether the response is the request itself, with cookies and credentials that scripts must not read (RFC 9110 section
/// 9.3.8). TRACK is the name that Microsoft's servers had for it. Methods differ by case, but not for every backend.
fn echoes_its_request(method: &Method) -> bool {
    ["TRACE", "TRACK"].iter().any(|echo| method.as_str().eq_ignore_ascii_case(echo))
}

/// Accepts a name or an address with an optional port, and no user information.
fn is_host(text: &[u8]) -> bool {
    let (name, port) = match text.iter().rposition(|b| matches!(b, b':' | b']')) {
        Some(at) if text[at] == b':' => (&text[..at], &text[at + 1..]),
        _ => (text, &[][..]),
    };
    let is_name = match name.strip_prefix(b"[") {
        Some(address) => address.strip_suffix(b"]").is_some_and(|address| {
            !address.is_empty() && address.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        }),
        None => name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    };
    !name.is_empty() && text.len() <= MAX_HOST && is_name && port.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use http::header::TRANSFER_ENCODING;

    use super::*;

    fn check(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Result<String, Page> {
        let request = build(Request::builder()).body(()).unwrap();
        requested_host(&request).map(|host| host.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_request_names_its_host_exactly_once() {
        assert_eq!(check(|r| r.uri("/").header(HOST, "a.b:80")).as_deref(), Ok("a.b:80"));
        for host in ["a.b", "a.b.", "a:", "a_b", "10.2.2.7:81", "[::1]", "[::1]:80", "[::ffff:10.2.2.7]"] {
            assert_eq!(check(|r| r.uri("/").header(HOST, host)).as_deref(), Ok(host));
        }
        assert!(check(|r| r.method("OPTIONS").uri("*").header(HOST, "a")).is_ok());
        let refused = [
            check(|r| r.uri("/")),
            check(|r| r.uri("/").header(HOST, "a").header(HOST, "a")),
            check(|r| r.uri("/").version(Version::HTTP_10)),
            check(|r| r.uri("/").header(HOST, "")),
            check(|r| r.uri("/").header(HOST, "a/b")),
            check(|r| r.uri("/").header(HOST, "a, b")),
            check(|r| r.uri("/").header(HOST, "user@a")),
            check(|r| r.uri("/").header(HOST, "a".repeat(300))),
            check(|r| r.uri("http://user@a/").header(HOST, "a")),
            check(|r| r.uri("/").header(HOST, "a:80:81")),
            check(|r| r.uri("/").header(HOST, "a:http")),
            check(|r| r.uri("/").header(HOST, ":80")),
            check(|r| r.uri("/").header(HOST, "[::1")),
            check(|r| r.uri("/").header(HOST, "::1]")),
            check(|r| r.uri("/").header(HOST, "[a.example]")),
            check(|r| r.uri("a.example:80").header(HOST, "a.example")),
            check(|r| r.uri("*").header(HOST, "a")),
        ];
        for refused in refused {
            assert!(matches!(refused, Err(Page::BadRequest(_))), "{refused:?}");
        }
    }

    #[test]
    fn the_targets_authority_replaces_the_host_header() {
        let absolute = |r: http::request::Builder| r.uri("http://a.example:81/x");
        assert_eq!(check(|r| absolute(r).header(HOST, "b.example")).as_deref(), Ok("a.example:81"));
        assert_eq!(check(|r| absolute(r).version(Version::HTTP_10)).as_deref(), Ok("a.example:81"));
        assert!(check(absolute).is_err(), "HTTP/1.1 must have a Host in any case");
    }

    #[test]
    fn in_http2_a_host_header_must_name_the_authority() {
        let named = |target: &'static str, host: &'static str| {
            check(|r| r.uri(target).version(Version::HTTP_2).header(HOST, host))
        };
        for same in ["a.example", "A.Example", "a.example:443", "a.example:"] {
            assert_eq!(named("https://a.example/", same).as_deref(), Ok("a.example"), "{same}");
        }
        assert!(named("https://a.example:443/", "a.example").is_ok());
        assert!(named("http://a.example:80/", "a.example").is_ok());
        for (target, other) in [
            ("https://a.example/", "b.example"),
            ("https://a.example/", "a.example:80"),
            ("http://a.example/", "a.example:443"),
            ("https://a.example:8443/", "a.example"),
            ("https://a.example/", "a.example, b.example"),
            ("https://a.example/", ""),
        ] {
            assert!(matches!(named(target, other), Err(Page::BadRequest(_))), "{target} {other}");
        }
        assert!(check(|r| r.uri("https://a.example/").version(Version::HTTP_2)).is_ok());
    }

    #[test]
    fn the_last_forward_is_answered_and_others_are_counted() {
        let left = |method: Method, value: &'static str| {
            let mut request = Request::new(());
            *request.method_mut() = method.clone();
            request.headers_mut().insert(MAX_FORWARDS, HeaderValue::from_static(value));
            check_max_forwards(&request)?;
            decrement_max_forwards(&method, request.headers_mut());
            Ok::<_, Page>(request.headers()[MAX_FORWARDS].to_str().unwrap().to_owned())
        };
        assert_eq!(left(Method::OPTIONS, "0"), Err(Page::LastForward));
        assert_eq!(left(Method::OPTIONS, "00"), Err(Page::LastForward));
        for (given, then) in [("1", "0"), ("10", "9"), ("-1", "-1"), ("+1", "+1"), ("x", "x")] {
            assert_eq!(left(Method::OPTIONS, given).as_deref(), Ok(then));
        }
        assert_eq!(left(Method::GET, "0").as_deref(), Ok("0"), "other methods ignore it");
    }

    #[test]
    fn tunnels_echoes_and_unknown_codings_are_refused() {
        let connect = check(|r| r.method("CONNECT").uri("a:80").header(HOST, "a:80"));
        assert_eq!(connect, Err(Page::MethodNotAllowed));
        for method in ["TRACE", "TRACK", "trace", "Track"] {
            let trace = check(|r| r.method(method).uri("/").header(HOST, "a"));
            assert_eq!(trace, Err(Page::MethodNotAllowed), "{method}");
        }
        assert!(check(|r| r.method("TRACED").uri("/").header(HOST, "a")).is_ok());
        let coded = |coding: &str| check(|r| r.uri("/").header(HOST, "a").header(TRANSFER_ENCODING, coding));
        assert_eq!(coded("gzip, chunked"), Err(Page::UnknownTransferCoding));
        assert!(coded("Chunked").is_ok());
    }
}
