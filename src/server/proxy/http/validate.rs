//! Refuses requests that must not be forwarded, before the routing table is looked at.

use http::header::{HOST, HeaderValue};
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
    if request.method() == Method::CONNECT {
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
    // The target's authority replaces the header. An authority without a scheme is CONNECT's form.
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
    fn tunnels_and_unknown_codings_are_refused() {
        let connect = check(|r| r.method("CONNECT").uri("a:80").header(HOST, "a:80"));
        assert_eq!(connect, Err(Page::MethodNotAllowed));
        let coded = |coding: &str| check(|r| r.uri("/").header(HOST, "a").header(TRANSFER_ENCODING, coding));
        assert_eq!(coded("gzip, chunked"), Err(Page::UnknownTransferCoding));
        assert!(coded("Chunked").is_ok());
    }
}
