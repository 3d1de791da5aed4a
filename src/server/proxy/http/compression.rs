//! Decides whether and how a response is compressed (PROTOCOL section 5, option `compression`), from heads alone.

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, VARY,
};
use http::request::Request;
use http::{Method, StatusCode};

use super::coding::Coding;
use super::etag;

/// Smaller bodies fit one packet anyway, in bytes.
const MIN_LENGTH: u64 = 256;
/// Headers whose values would be wrong for a compressed body.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// Which coding the client accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    coding: Option<Coding>,
    /// A HEAD request: the response has headers for a body and no body.
    head_only: bool,
    /// The tags of If-None-Match that had the coding's mark.
    revalidated: Vec<Box<[u8]>>,
}

impl Accepted {
    /// Reads a request's Accept-Encoding. HTTP/1.0 clients get no coding, because a compressed body is sent in chunks.
    pub(crate) fn by<B>(request: &Request<B>, is_http10: bool) -> Self {
        let coding = if is_http10 { None } else { best(request.headers()) };
        Accepted { coding, head_only: request.method() == Method::HEAD, revalidated: Vec::new() }
    }

    /// Removes the marks of earlier compressed responses from a request's conditions.
    pub(crate) fn undo_marks(&mut self, headers: &mut HeaderMap) {
        self.revalidated = etag::undo_in_request(headers, self.coding);
    }

    /// The same without a coding.
    pub(crate) fn identity(self) -> Self {
        Accepted { coding: None, ..self }
    }

    /// Whether a compressible response would need an encoder.
    pub(crate) fn wants_encoder(&self) -> bool {
        self.coding.is_some() && !self.head_only
    }
}

/// The coding with the highest weight, unless `identity` has a higher one.
fn best(headers: &HeaderMap) -> Option<Coding> {
    let mut weights = [None; Coding::ALL.len()];
    let (mut others, mut identity) = (None, None);
    for item in headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()) {
        for (name, weight) in item.split(',').filter_map(weighted) {
            match Coding::ALL.iter().position(|coding| name.eq_ignore_ascii_case(coding.name())) {
                Some(at) => weights[at] = Some(weight),
                None if name.eq_ignore_ascii_case("x-gzip") => weights[2] = Some(weight),
                None if name.eq_ignore_ascii_case("identity") => identity = Some(weight),
                None if name == "*" => others = Some(weight),
                None => {}
            }
        }
    }
    let weight = |at: usize| weights[at].or(others).unwrap_or(0);
    // `max_by_key` returns the last maximum, so reverse to get the first.
    let at = (0..Coding::ALL.len()).rev().max_by_key(|at| weight(*at))?;
    (weight(at) > 0 && identity.is_none_or(|identity| identity <= weight(at))).then_some(Coding::ALL[at])
}

/// A coding's name and its weight in thousandths; `None` if the item is malformed.
fn weighted(item: &str) -> Option<(&str, u16)> {
    let mut parts = item.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let q = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let Some(q) = q else { return Some((name, 1000)) };
    let q: f32 = q.trim().parse().ok()?;
    (0.0..=1.0).contains(&q).then_some((name, (q * 1000.0) as u16))
}

/// Changes a response's head for compression and returns the coding; `None` if the body is sent as it is.
///
/// A response that another client would get compressed says so in Vary, so that caches keep them apart. A response to
/// HEAD has the headers that one to GET would have, so no length if that would be compressed. `length` is the body's
/// length in bytes if it is known.
pub(crate) fn prepare(
    status: StatusCode,
    headers: &mut HeaderMap,
    accepted: Accepted,
    length: Option<u64>,
) -> Option<Coding> {
    if may_have_been_compressed(status, headers) {
        add_vary(headers);
        if let Some(coding) = accepted.coding {
            etag::mark_not_modified(headers, coding, &accepted.revalidated);
        }
        return None;
    }
    let length = if accepted.head_only { content_length(headers) } else { length };
    if !is_compressible(status, headers) || length.is_some_and(|length| length < MIN_LENGTH) {
        return None;
    }
    add_vary(headers);
    let coding = accepted.coding?;
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    headers.remove(CONTENT_LENGTH);
    headers.remove(ACCEPT_RANGES);
    etag::mark(headers, coding);
    (!accepted.head_only).then_some(coding)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_compressible(status: StatusCode, headers: &HeaderMap) -> bool {
    let has_body = !status.is_informational()
        && !matches!(
            status,
            StatusCode::NO_CONTENT
                | StatusCode::RESET_CONTENT
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::NOT_MODIFIED
        );
    let is_encoded = headers.contains_key(CONTENT_ENCODING) || headers.contains_key(CONTENT_RANGE);
    // The backend would get its own tag back without what it takes for a mark.
    let is_marked = etag::has_mark(headers);
    let is_fixed = DIGESTS.iter().any(|digest| headers.contains_key(digest)) || is_no_transform(headers);
    has_body
        && !is_encoded
        && !is_fixed
        && !is_marked
        && headers.get(CONTENT_TYPE).is_some_and(is_compressible_type)
}

fn is_no_transform(headers: &HeaderMap) -> bool {
    let directives = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    directives.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case("no-transform"))
}

/// Whether this response is about one that may have been compressed: a 304, which does not say what it is about, or a part
/// of a body that would be compressed as a whole (RFC 9110 sections 15.3.7 and 15.4.5).
fn may_have_been_compressed(status: StatusCode, headers: &HeaderMap) -> bool {
    match status {
        StatusCode::NOT_MODIFIED => true,
        StatusCode::PARTIAL_CONTENT => headers.get(CONTENT_TYPE).is_some_and(|content_type| {
            // Several ranges in one body do not name their type outside.
            is_compressible_type(content_type) || content_type.as_bytes().starts_with(b"multipart/byteranges")
        }),
        _ => false,
    }
}

/// Whether bodies of this type get smaller. `text/event-stream` does not count: its readers wait for each event.
fn is_compressible_type(content_type: &HeaderValue) -> bool {
    let text = content_type.to_str().unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.split_once('/') {
        Some(("text", what)) => what != "event-stream",
        Some(("application", what)) => {
            matches!(what, "json" | "javascript" | "x-javascript" | "xml" | "wasm" | "x-ndjson" | "graphql")
                || what.ends_with("+json")
                || what.ends_with("+xml")
        }
        Some(("image", what)) => matches!(what, "svg+xml" | "bmp" | "x-icon" | "vnd.microsoft.icon"),
        Some(("font", what)) => matches!(what, "ttf" | "otf"),
        _ => false,
    }
}

fn add_vary(headers: &mut HeaderMap) {
    let names = headers.get_all(VARY).iter().filter_map(|value| value.to_str().ok());
    let says_so = |name: &str| name == "*" || name.eq_ignore_ascii_case("accept-encoding");
    if !names.flat_map(|value| value.split(',')).any(|name| says_so(name.trim())) {
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

#[cfg(test)]
mod tests {
    use http::header::ETAG;

    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_coding_with_the_highest_weight_is_chosen() {
        use Coding::{Brotli, Gzip, Zstd};
        for (accept, coding) in [
            ("gzip, deflate, br, zstd", Some(Brotli)),
            ("gzip, zstd", Some(Zstd)),
            ("GZIP", Some(Gzip)),
            ("br;q=0.5, gzip;q=0.8", Some(Gzip)),
            ("br; q=0, *", Some(Zstd)),
            ("*;q=0.1", Some(Brotli)),
            ("gzip;q=0.5, identity", None),
            ("gzip;q=0.5, identity;q=0.5", Some(Gzip)),
            ("gzip;q=0", None),
            ("gzip;q=2", None),
            ("gzip;q=nan", None),
            ("deflate, ,;q=1", None),
            ("", None),
        ] {
            assert_eq!(best(&map(&[("accept-encoding", accept)])), coding, "{accept}");
        }
        assert_eq!(best(&map(&[])), None);
        assert_eq!(best(&map(&[("accept-encoding", "br;q=0.1"), ("accept-encoding", "gzip")])), Some(Gzip));
    }

    /// A GET request that accepts gzip.
    const GZIP: Accepted = Accepted { coding: Some(Coding::Gzip), head_only: false, revalidated: Vec::new() };

    #[test]
    fn neither_head_nor_http10_gets_a_compressed_body() {
        let by = |method: Method, is_http10| {
            let request = Request::builder().method(method).header(ACCEPT_ENCODING, "gzip").body(()).unwrap();
            Accepted::by(&request, is_http10)
        };
        assert_eq!(by(Method::GET, false), GZIP);
        let others = [by(Method::HEAD, false), by(Method::GET, true), GZIP.identity()];
        assert_eq!((GZIP.wants_encoder(), others.map(|other| other.wants_encoder())), (true, [false; 3]));
    }

    #[test]
    fn a_response_to_head_has_the_headers_of_one_to_get() {
        for length in ["1000", "10"] {
            let sent = map(&[("content-type", "text/html"), ("content-length", length), ("etag", "\"abc\"")]);
            let (mut get, mut head) = (sent.clone(), sent);
            prepare(StatusCode::OK, &mut get, GZIP, length.parse().ok());
            let head_only = Accepted { head_only: true, ..GZIP };
            assert_eq!(prepare(StatusCode::OK, &mut head, head_only, Some(0)), None);
            assert_eq!(head, get, "{length}");
        }
    }

    #[test]
    fn the_head_of_a_compressed_response_describes_the_compressed_body() {
        let mut headers = map(&[
            ("content-type", "text/html; charset=utf-8"),
            ("content-length", "1000"),
            ("etag", "\"abc\""),
            ("accept-ranges", "bytes"),
            ("vary", "Cookie"),
        ]);
        let coding = prepare(StatusCode::OK, &mut headers, GZIP, Some(1000));
        assert_eq!(coding, Some(Coding::Gzip));
        let expected = map(&[
            ("content-type", "text/html; charset=utf-8"),
            ("etag", "W/\"abc~gzip\""),
            ("vary", "Cookie"),
            ("vary", "Accept-Encoding"),
            ("content-encoding", "gzip"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn a_response_that_others_get_compressed_varies() {
        let mut headers = map(&[("content-type", "application/json"), ("etag", "\"abc\"")]);
        assert_eq!(prepare(StatusCode::OK, &mut headers, GZIP.identity(), None), None);
        assert_eq!(
            (&headers[VARY], &headers[ETAG]),
            (&"Accept-Encoding".parse().unwrap(), &"\"abc\"".parse().unwrap())
        );
    }

    #[test]
    fn responses_that_must_not_or_need_not_be_compressed_are_unchanged() {
        let html = ("content-type", "text/html");
        for (status, length, lines) in [
            (200, Some(1000), vec![html, ("content-encoding", "gzip")]),
            (200, Some(255), vec![html]),
            (200, Some(1000), vec![html, ("cache-control", "public, No-Transform")]),
            (200, Some(1000), vec![html, ("content-digest", "sha-256=:x:")]),
            (200, None, vec![("content-type", "text/event-stream")]),
            (200, Some(1000), vec![("content-type", "image/png")]),
            (200, Some(1000), vec![]),
            (200, Some(1000), vec![html, ("etag", "\"abc~br\"")]),
            (200, Some(1000), vec![html, ("etag", "W/\"abc~gzip\"")]),
            (206, Some(1000), vec![("content-type", "image/png"), ("content-range", "bytes 0-999/5000")]),
            (204, None, vec![html]),
        ] {
            let mut headers = map(&lines);
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(prepare(status, &mut headers, GZIP, length), None, "{lines:?}");
            assert_eq!(headers, map(&lines), "{lines:?}");
        }
    }

    #[test]
    fn what_is_about_a_response_that_may_be_compressed_varies_too() {
        let part = ("content-range", "bytes 0-999/5000");
        for (status, lines) in [
            (StatusCode::NOT_MODIFIED, vec![("etag", "\"abc\"")]),
            (StatusCode::PARTIAL_CONTENT, vec![("content-type", "text/html"), part]),
            (StatusCode::PARTIAL_CONTENT, vec![("content-type", "multipart/byteranges; boundary=x")]),
        ] {
            for accepted in [GZIP, GZIP.identity()] {
                let mut headers = map(&lines);
                assert_eq!(prepare(status, &mut headers, accepted, None), None);
                assert_eq!(headers.remove(VARY).unwrap(), "Accept-Encoding");
                assert_eq!(headers, map(&lines));
            }
        }
    }

    #[test]
    fn a_304_has_the_tag_of_the_copy_that_is_still_good() {
        let not_modified = |accept: &'static str, tag: &'static str| {
            let mut request = Request::new(());
            *request.headers_mut() = map(&[("accept-encoding", accept), ("if-none-match", tag)]);
            let mut accepted = Accepted::by(&request, false);
            accepted.undo_marks(request.headers_mut());
            let mut headers = map(&[("etag", "\"abc\"")]);
            prepare(StatusCode::NOT_MODIFIED, &mut headers, accepted, None);
            (request.headers()["if-none-match"].clone(), headers[ETAG].clone())
        };
        assert_eq!(
            not_modified("br", "W/\"abc~br\""),
            ("\"abc\"".parse().unwrap(), "W/\"abc~br\"".parse().unwrap())
        );
        let other = "W/\"abc~br\"";
        assert_eq!(not_modified("gzip", other), (other.parse().unwrap(), "\"abc\"".parse().unwrap()));
        assert_eq!(not_modified("", other), (other.parse().unwrap(), "\"abc\"".parse().unwrap()));
    }
}
