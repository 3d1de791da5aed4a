//! Which responses are compressed, and how (PROTOCOL section 5, option `compression`). Only heads are looked at here.

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, VARY,
};
use http::request::Request;
use http::{Method, StatusCode};

/// What is smaller fits a packet anyway.
const SMALLEST: u64 = 256;
/// Their values would be wrong of a compressed body.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Brotli,
    Zstd,
    Gzip,
}

/// What a client's request says about codings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepted {
    coding: Option<Coding>,
    /// It wants to know what a body would be like, and no body.
    head_only: bool,
}

impl Coding {
    /// In the order in which they are preferred where the client does not care.
    const ALL: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

    fn name(self) -> &'static str {
        match self {
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
            Coding::Gzip => "gzip",
        }
    }
}

impl Accepted {
    /// Reads a request. A client of HTTP/1.0 may not know chunks.
    pub(super) fn by<B>(request: &Request<B>, is_old: bool) -> Self {
        let coding = if is_old { None } else { best(request.headers()) };
        Accepted { coding, head_only: request.method() == Method::HEAD }
    }

    /// Nothing but what there is.
    pub(super) fn unencoded(self) -> Self {
        Accepted { coding: None, ..self }
    }

    /// Whether there is a body to encode, if the response is fit for it.
    pub(super) fn wants_encoder(self) -> bool {
        self.coding.is_some() && !self.head_only
    }
}

/// The coding with the highest weight, if the client does not like none better.
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
    // The first of those with the same weight.
    let at = (0..Coding::ALL.len()).rev().max_by_key(|at| weight(*at))?;
    (weight(at) > 0 && identity.is_none_or(|identity| identity <= weight(at))).then_some(Coding::ALL[at])
}

/// A name and its weight in thousandths. What cannot be read is not there.
fn weighted(item: &str) -> Option<(&str, u16)> {
    let mut parts = item.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let q = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let Some(q) = q else { return Some((name, 1000)) };
    let q: f32 = q.trim().parse().ok()?;
    (0.0..=1.0).contains(&q).then_some((name, (q * 1000.0) as u16))
}

/// Prepares a response's head for compression. `None`: there is no body to compress.
///
/// A response that would be compressed for somebody else says so in Vary, so that no cache mixes them up. An answer to
/// HEAD says what one to GET would, and not a length that this would not have.
pub(super) fn prepare(
    status: StatusCode,
    headers: &mut HeaderMap,
    accepted: Accepted,
    length: Option<u64>,
) -> Option<Coding> {
    let length = if accepted.head_only { announced(headers) } else { length };
    if !is_compressible(status, headers) || length.is_some_and(|length| length < SMALLEST) {
        return None;
    }
    vary(headers);
    let coding = accepted.coding?;
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    headers.remove(CONTENT_LENGTH);
    headers.remove(ACCEPT_RANGES);
    weaken(headers);
    (!accepted.head_only).then_some(coding)
}

fn announced(headers: &HeaderMap) -> Option<u64> {
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
    let is_pinned = DIGESTS.iter().any(|digest| headers.contains_key(digest)) || is_no_transform(headers);
    has_body && !is_encoded && !is_pinned && headers.get(CONTENT_TYPE).is_some_and(is_text)
}

fn is_no_transform(headers: &HeaderMap) -> bool {
    let directives = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    directives.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case("no-transform"))
}

/// Whether a body of this type gets smaller. Events are left alone: their readers wait for each one.
fn is_text(content_type: &HeaderValue) -> bool {
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

fn vary(headers: &mut HeaderMap) {
    let names = headers.get_all(VARY).iter().filter_map(|value| value.to_str().ok());
    let says_so = |name: &str| name == "*" || name.eq_ignore_ascii_case("accept-encoding");
    if !names.flat_map(|value| value.split(',')).any(|name| says_so(name.trim())) {
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// The same meaning in other bytes: what a strong ETag promises does not hold any more.
fn weaken(headers: &mut HeaderMap) {
    let Some(etag) = headers.get(ETAG).filter(|etag| etag.as_bytes().starts_with(b"\"")) else { return };
    match HeaderValue::from_bytes(&[b"W/", etag.as_bytes()].concat()) {
        Ok(weak) => headers.insert(ETAG, weak),
        Err(_) => headers.remove(ETAG),
    };
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

    #[test]
    fn the_client_weighs_and_of_equals_the_better_one_is_taken() {
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

    /// What a GET would be.
    const GZIP: Accepted = Accepted { coding: Some(Coding::Gzip), head_only: false };

    #[test]
    fn neither_head_nor_an_old_client_gets_a_compressed_body() {
        let by = |method: Method, is_old| {
            let request = Request::builder().method(method).header(ACCEPT_ENCODING, "gzip").body(()).unwrap();
            Accepted::by(&request, is_old)
        };
        assert_eq!(by(Method::GET, false), GZIP);
        let others = [by(Method::HEAD, false), by(Method::GET, true), GZIP.unencoded()];
        assert_eq!((GZIP.wants_encoder(), others.map(Accepted::wants_encoder)), (true, [false; 3]));
    }

    #[test]
    fn an_answer_to_head_is_that_to_get() {
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
    fn a_compressed_response_says_what_it_is_and_lies_about_nothing() {
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
            ("etag", "W/\"abc\""),
            ("vary", "Cookie"),
            ("vary", "Accept-Encoding"),
            ("content-encoding", "gzip"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn what_would_be_compressed_for_others_varies_and_keeps_the_rest() {
        let mut headers = map(&[("content-type", "application/json"), ("etag", "\"abc\"")]);
        assert_eq!(prepare(StatusCode::OK, &mut headers, GZIP.unencoded(), None), None);
        assert_eq!(
            (&headers[VARY], &headers[ETAG]),
            (&"Accept-Encoding".parse().unwrap(), &"\"abc\"".parse().unwrap())
        );
    }

    #[test]
    fn what_is_encoded_tiny_pinned_partial_or_no_text_is_left_alone() {
        let html = ("content-type", "text/html");
        for (status, length, lines) in [
            (200, Some(1000), vec![html, ("content-encoding", "gzip")]),
            (200, Some(255), vec![html]),
            (200, Some(1000), vec![html, ("cache-control", "public, No-Transform")]),
            (200, Some(1000), vec![html, ("content-digest", "sha-256=:x:")]),
            (200, None, vec![("content-type", "text/event-stream")]),
            (200, Some(1000), vec![("content-type", "image/png")]),
            (200, Some(1000), vec![]),
            (206, Some(1000), vec![html, ("content-range", "bytes 0-999/5000")]),
            (204, None, vec![html]),
            (304, None, vec![html]),
        ] {
            let mut headers = map(&lines);
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(prepare(status, &mut headers, GZIP, length), None, "{lines:?}");
            assert_eq!(headers, map(&lines), "{lines:?}");
        }
    }
}
