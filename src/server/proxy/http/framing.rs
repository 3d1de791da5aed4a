//! Lets a message say how long its body is once and in one way, so that every reader finds the same end
//! (RFC 9112 sections 6.1 to 6.3, RFC 9110 section 8.6).
//!
//! hyper finds the end of a body by itself. This concerns what the next reader is told, who may take the first of two
//! fields where hyper takes the last. Whatever says the same twice is written once, and what contradicts itself or
//! names a coding other than `chunked` is refused.

use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};

/// Why the fields about a message's length must not be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FramingError {
    /// A transfer coding other than `chunked`, which hyper does not decode.
    UnknownCoding,
    /// `chunked` is there twice, or the field is malformed.
    AmbiguousCoding,
    /// Content-Length has different values, or one that is not a number.
    AmbiguousLength,
}

/// Leaves one Content-Length in a request, and at most one Transfer-Encoding, which is `chunked`.
///
/// Transfer-Encoding stays, because hyper's client needs it to know that there is a body.
pub(crate) fn check_request(headers: &HeaderMap) -> Result<(), FramingError> {
    check_coding(headers)?;
    length(headers).map(|_| ())
}

/// Writes a Content-Length that is there more than once into one field. The request has passed [`check_request`].
pub(crate) fn merge_request_lengths(headers: &mut HeaderMap) {
    let is_repeated = headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some();
    if is_repeated && let Ok(Some(length)) = length(headers) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// Leaves at most one Content-Length in a response, and no Transfer-Encoding: hyper's server chooses it anew.
///
/// Chunks replace a Content-Length beside them (RFC 9112 section 6.3). A response that never has a body loses the
/// length that it must not name (RFC 9110 section 8.6).
pub(crate) fn prepare_response(status: StatusCode, headers: &mut HeaderMap) -> Result<(), FramingError> {
    check_coding(headers)?;
    let is_chunked = headers.remove(TRANSFER_ENCODING).is_some();
    if is_chunked || status == StatusCode::NO_CONTENT || status.is_informational() {
        headers.remove(CONTENT_LENGTH);
        return Ok(());
    }
    let Some(first) = headers.get(CONTENT_LENGTH) else { return Ok(()) };
    // Nearly every response has one plain number, which stays as it is.
    let is_plain = first.as_bytes().iter().all(u8::is_ascii_digit);
    let is_single = headers.get_all(CONTENT_LENGTH).iter().nth(1).is_none();
    if let Some(length) = length(headers)?
        && !(is_plain && is_single)
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

fn check_coding(headers: &HeaderMap) -> Result<(), FramingError> {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    let (first, second) = (lines.next(), lines.next());
    let Some(first) = first else { return Ok(()) };
    if second.is_none() && first.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let is_unknown = |coding: &str| !coding.is_empty() && !coding.eq_ignore_ascii_case("chunked");
    for line in headers.get_all(TRANSFER_ENCODING) {
        let line = line.to_str().map_err(|_| FramingError::AmbiguousCoding)?;
        if line.split(',').map(str::trim).any(is_unknown) {
            return Err(FramingError::UnknownCoding);
        }
    }
    Err(FramingError::AmbiguousCoding)
}

/// The one value of Content-Length, in any number of lines and list elements.
fn length(headers: &HeaderMap) -> Result<Option<u64>, FramingError> {
    let mut found = None;
    for line in headers.get_all(CONTENT_LENGTH) {
        let line = line.to_str().map_err(|_| FramingError::AmbiguousLength)?;
        for element in line.split(',').map(str::trim) {
            let is_number = !element.is_empty() && element.bytes().all(|b| b.is_ascii_digit());
            // `parse` alone would accept a sign.
            let length = element.parse().ok().filter(|_| is_number).ok_or(FramingError::AmbiguousLength)?;
            if *found.get_or_insert(length) != length {
                return Err(FramingError::AmbiguousLength);
            }
        }
    }
    Ok(found)
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

    /// What is left of a message's fields about its length.
    fn left(headers: &HeaderMap) -> Vec<(&str, &str)> {
        headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
    }

    #[test]
    fn a_request_says_once_that_it_is_chunked() {
        let check = |lines: &[&'static str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("transfer-encoding", *line)).collect();
            check_request(&map(&lines))
        };
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&["Chunked"]), Ok(()));
        for twice in [&["chunked", "chunked"][..], &["chunked, chunked"], &["chunked", ""], &["chunked,"]] {
            assert_eq!(check(twice), Err(FramingError::AmbiguousCoding), "{twice:?}");
        }
        for other in [&["gzip, chunked"][..], &["gzip", "chunked"], &["chunked;q=1"], &["identity"]] {
            assert_eq!(check(other), Err(FramingError::UnknownCoding), "{other:?}");
        }
    }

    #[test]
    fn equal_lengths_become_one_and_different_ones_are_refused() {
        for equal in [&["5", "5"][..], &["5, 5"], &["05", "5"], &["5,5", "5"]] {
            let lines: Vec<_> = equal.iter().map(|line| ("content-length", *line)).collect();
            let mut headers = map(&lines);
            assert_eq!(check_request(&headers), Ok(()), "{equal:?}");
            if equal.len() > 1 {
                merge_request_lengths(&mut headers);
                assert_eq!(left(&headers), [("content-length", "5")], "{equal:?}");
            }
            let mut headers = map(&lines);
            assert_eq!(prepare_response(StatusCode::OK, &mut headers), Ok(()));
            assert_eq!(left(&headers), [("content-length", "5")], "{equal:?}");
        }
        for wrong in [&["5", "6"][..], &["5, 6"], &["+5"], &["5, "], &[""], &["99999999999999999999"]] {
            let lines: Vec<_> = wrong.iter().map(|line| ("content-length", *line)).collect();
            assert_eq!(check_request(&map(&lines)), Err(FramingError::AmbiguousLength), "{wrong:?}");
            let response = prepare_response(StatusCode::NOT_MODIFIED, &mut map(&lines));
            assert_eq!(response, Err(FramingError::AmbiguousLength), "{wrong:?}");
        }
    }

    #[test]
    fn a_response_keeps_no_coding_and_no_length_that_it_must_not_name() {
        let prepared = |status: StatusCode, lines: &[_]| {
            let mut headers = map(lines);
            prepare_response(status, &mut headers).map(|()| headers)
        };
        let (chunked, length) = (("transfer-encoding", "chunked"), ("content-length", "2"));
        assert_eq!(prepared(StatusCode::OK, &[chunked, length]), Ok(HeaderMap::new()));
        assert_eq!(prepared(StatusCode::NO_CONTENT, &[length]), Ok(HeaderMap::new()));
        assert_eq!(prepared(StatusCode::SWITCHING_PROTOCOLS, &[length]), Ok(HeaderMap::new()));
        assert_eq!(left(&prepared(StatusCode::OK, &[length]).unwrap()), [("content-length", "2")]);
        let twice = prepared(StatusCode::OK, &[chunked, chunked]);
        assert_eq!(twice, Err(FramingError::AmbiguousCoding));
        let coded = prepared(StatusCode::OK, &[("transfer-encoding", "gzip"), chunked]);
        assert_eq!(coded, Err(FramingError::UnknownCoding));
    }
}
