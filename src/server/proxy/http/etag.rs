//! Marks the entity-tags of responses that the proxy compresses, and undoes the marks in requests.
//!
//! A strong tag promises the same bytes, so a compressed body needs a tag of its own (RFC 9110 section 8.8.3.3). `"abc"`
//! becomes `W/"abc~br"`: weak, because two runs of an encoder may differ, and with the coding's name, so that the
//! proxy can give the backend the tag that it knows. Weak tags say nothing about bytes and stay as they are.
//!
//! Only weak tags count as marked in a request: a backend's own `"abc~br"` is strong and comes back as it went.

use http::header::{ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};

use super::coding::Coding;

/// WebDAV's conditions (RFC 4918 section 10.4), in which a tag stands in brackets.
const IF: HeaderName = HeaderName::from_static("if");

/// Marks a response's tag. A weak one stays.
pub(super) fn mark(headers: &mut HeaderMap, coding: Coding) {
    let Some(etag) = headers.get(ETAG) else { return };
    let Some(opaque) = strong(etag) else { return };
    let marked = [b"W/\"", opaque, b"~", coding.name().as_bytes(), b"\""].concat();
    match HeaderValue::from_bytes(&marked) {
        Ok(marked) => headers.insert(ETAG, marked),
        Err(_) => headers.remove(ETAG),
    };
}

/// Whether a response's tag looks as if it had been marked. A client would send it back and the proxy would change it.
pub(super) fn has_mark(headers: &HeaderMap) -> bool {
    let opaque = |etag: &HeaderValue| {
        let etag = etag.as_bytes();
        let quoted = etag.strip_prefix(b"W/").unwrap_or(etag);
        quoted.strip_suffix(b"\"").is_some_and(|opaque| marked(opaque).is_some())
    };
    headers.get(ETAG).is_some_and(opaque)
}

/// Marks the tag of a 304 if the client's copy has the mark. `undone` is what [`undo_in_request`] returned.
pub(super) fn mark_not_modified(headers: &mut HeaderMap, coding: Coding, undone: &[Box<[u8]>]) {
    let is_undone = |opaque: &[u8]| undone.iter().any(|tag| **tag == *opaque);
    if headers.get(ETAG).and_then(strong).is_some_and(is_undone) {
        mark(headers, coding);
    }
}

/// Gives the backend the tags that it knows, and returns those of If-None-Match, without quotes, that had the mark of
/// `coding`, the one that the response to this request would get.
///
/// If-Match and If are about the resource whatever its coding. If-None-Match is about the client's copy, which is of use
/// only if the response would have the same coding. Bytes of a compressed body are no range of the backend's, so beside
/// a marked tag Range and If-Range are removed, and the client gets the whole body.
pub(super) fn undo_in_request(headers: &mut HeaderMap, coding: Option<Coding>) -> Vec<Box<[u8]>> {
    let mut undone = Vec::new();
    // Most requests have no condition, and one pass is cheaper than four lookups.
    if !headers.keys().any(|name| [IF_MATCH, IF_NONE_MATCH, IF_RANGE, IF].contains(name)) {
        return undone;
    }
    let mut is_marked = headers.get(IF_RANGE).is_some_and(|tag| undo(tag, |_, _| true).is_some());
    for name in [IF_MATCH, IF] {
        is_marked |= undo_in(headers, &name, |_, _| true);
    }
    is_marked |= undo_in(headers, &IF_NONE_MATCH, |opaque, of| {
        let is_same = Some(of) == coding;
        if is_same {
            undone.push(opaque.into());
        }
        is_same
    });
    if is_marked {
        headers.remove(RANGE);
        headers.remove(IF_RANGE);
    }
    undone
}

/// Changes the lines of a header. Returns whether any mark was undone.
fn undo_in(headers: &mut HeaderMap, name: &HeaderName, mut which: impl FnMut(&[u8], Coding) -> bool) -> bool {
    let mut is_changed = false;
    if let http::header::Entry::Occupied(mut lines) = headers.entry(name) {
        for line in lines.iter_mut() {
            if let Some(undone) = undo(line, &mut which) {
                *line = undone;
                is_changed = true;
            }
        }
    }
    is_changed
}

/// A list of tags without the marks for which `which` holds, given a tag and its mark; `None`: nothing is changed.
fn undo(line: &HeaderValue, mut which: impl FnMut(&[u8], Coding) -> bool) -> Option<HeaderValue> {
    let (mut text, mut rest) = (Vec::new(), line.as_bytes());
    let mut is_changed = false;
    while let Some(start) = rest.iter().position(|b| *b == b'"') {
        let Some(length) = rest[start + 1..].iter().position(|b| *b == b'"') else { break };
        let (before, opaque) = (&rest[..start], &rest[start + 1..start + 1 + length]);
        let weak = before.strip_suffix(b"W/");
        match weak.zip(marked(opaque)) {
            Some((before, (opaque, coding))) if which(opaque, coding) => {
                text.extend_from_slice(before);
                text.extend_from_slice(&[b"\"", opaque, b"\""].concat());
                is_changed = true;
            }
            _ => text.extend_from_slice(&rest[..start + length + 2]),
        }
        rest = &rest[start + length + 2..];
    }
    text.extend_from_slice(rest);
    is_changed.then(|| HeaderValue::from_bytes(&text).ok()).flatten()
}

/// What stands between a tag's quotes, if it is strong.
fn strong(etag: &HeaderValue) -> Option<&[u8]> {
    etag.as_bytes().strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// A tag without its mark, and the mark.
fn marked(opaque: &[u8]) -> Option<(&[u8], Coding)> {
    Coding::ALL.into_iter().find_map(|coding| {
        let tag = opaque.strip_suffix(coding.name().as_bytes())?.strip_suffix(b"~")?;
        Some((tag, coding))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_strong_tag_is_marked_with_its_coding() {
        let marked = |etag: &str, coding| {
            let mut headers = one(ETAG, etag);
            mark(&mut headers, coding);
            headers[ETAG].to_str().unwrap().to_owned()
        };
        assert_eq!(marked("\"abc\"", Coding::Brotli), "W/\"abc~br\"");
        assert_eq!(marked("\"\"", Coding::Zstd), "W/\"~zstd\"");
        assert_eq!(marked("\"a,b\"", Coding::Gzip), "W/\"a,b~gzip\"");
        for stays in ["W/\"abc\"", "abc", "\"abc"] {
            assert_eq!(marked(stays, Coding::Gzip), stays);
        }
        assert!(has_mark(&one(ETAG, "\"x~br\"")) && has_mark(&one(ETAG, "W/\"x~gzip\"")));
        assert!(!has_mark(&one(ETAG, "\"x~brx\"")) && !has_mark(&one(ETAG, "\"br\"")));
    }

    #[test]
    fn if_match_and_webdavs_if_are_about_the_resource_whatever_its_coding() {
        for (sent, then) in [
            ("W/\"abc~br\"", "\"abc\""),
            ("W/\"a~gzip\", \"b\", W/\"c~zstd\"", "\"a\", \"b\", \"c\""),
            ("*", "*"),
            ("\"abc~br\"", "\"abc~br\""),
            ("W/\"abc\"", "W/\"abc\""),
            ("W/\"abc~deflate\"", "W/\"abc~deflate\""),
            ("W/\"abc~br", "W/\"abc~br"),
            ("W/\"a, W/~br\"", "\"a, W/\""),
        ] {
            let mut headers = one(IF_MATCH, sent);
            assert!(undo_in_request(&mut headers, None).is_empty());
            assert_eq!(headers[IF_MATCH], then);
        }
        let sent = "</a> (<urn:uuid:1> [W/\"a~br\"]) (Not [W/\"b~gzip\"] [\"c\"])";
        let mut headers = one(IF, sent);
        undo_in_request(&mut headers, Some(Coding::Zstd));
        assert_eq!(headers[IF], "</a> (<urn:uuid:1> [\"a\"]) (Not [\"b\"] [\"c\"])");
    }

    #[test]
    fn if_none_match_is_about_the_copy_in_the_coding_that_would_be_sent() {
        let mut headers = one(IF_NONE_MATCH, "W/\"abc~br\", W/\"def~gzip\", \"ghi\"");
        headers.append(IF_NONE_MATCH, HeaderValue::from_static("W/\"x~br\""));
        let undone = undo_in_request(&mut headers, Some(Coding::Brotli));
        let lines: Vec<_> = headers.get_all(IF_NONE_MATCH).iter().collect();
        assert_eq!(lines, ["\"abc\", W/\"def~gzip\", \"ghi\"", "\"x\""]);
        let response = |etag: &str| {
            let mut headers = one(ETAG, etag);
            mark_not_modified(&mut headers, Coding::Brotli, &undone);
            headers[ETAG].to_str().unwrap().to_owned()
        };
        assert_eq!(response("\"abc\""), "W/\"abc~br\"");
        assert_eq!(response("\"ghi\""), "\"ghi\"", "the client's copy of it has no mark");
    }

    #[test]
    fn a_range_is_never_asked_for_beside_a_marked_tag() {
        for (name, tag, stays) in [
            (IF_RANGE, "W/\"abc~br\"", false),
            (IF_MATCH, "W/\"abc~br\"", false),
            (IF_RANGE, "\"abc\"", true),
            (IF_MATCH, "\"abc\"", true),
            (IF_NONE_MATCH, "W/\"abc~gzip\"", true),
        ] {
            let mut headers = one(name.clone(), tag);
            headers.insert(RANGE, HeaderValue::from_static("bytes=0-1"));
            undo_in_request(&mut headers, Some(Coding::Brotli));
            assert_eq!(headers.contains_key(RANGE), stays, "{name}: {tag}");
            assert_eq!(headers.contains_key(IF_RANGE), stays && name == IF_RANGE, "{name}: {tag}");
        }
    }
}
