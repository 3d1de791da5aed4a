//! Brings a request's path and host into the form in which they are matched (SEMANTICS section 2).
//!
//! Only matching uses this form. Backends get the target as the client sent it.

use std::borrow::Cow;

/// A path with dot segments and an encoded slash, which is answered with 400: readers disagree whether `..` removes
/// `a%2Fb` or only `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path has an encoded slash beside a dot segment")]
pub struct AmbiguousPath;

/// Writes each character in the one form that [`PathPrefix`](registry_client::protocol::PathPrefix) has too (RFC 3986 section
/// 6.2.2): unreserved characters plainly, what may not stand in a path as an escape, escapes with capital digits. Then it
/// removes dot segments (RFC 3986 section 5.2.4). Borrows if there is nothing to do, which is nearly always.
///
/// Malformed escapes and repeated slashes stay as they are. An escape is decoded once.
///
/// # Errors
/// [`AmbiguousPath`].
pub fn normalise(path: &str) -> Result<Cow<'_, str>, AmbiguousPath> {
    if is_normal(path) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = in_one_form(path);
    without_dot_segments(&decoded).map(Cow::Owned)
}

/// The host name in a Host header or an authority, without port and trailing dot.
pub(super) fn hostname(authority: &str) -> &str {
    let name = match authority.rfind(':') {
        // Colons in brackets belong to an IPv6 address.
        Some(at) if !authority[at..].contains(']') => &authority[..at],
        _ => authority,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether the path has no escape, needs none, and has no dot segment.
fn is_normal(path: &str) -> bool {
    let bytes = path.as_bytes();
    let ends_segment = |at: usize| bytes.get(at).is_none_or(|b| *b == b'/');
    !bytes.iter().enumerate().any(|(at, b)| match b {
        b'%' => true,
        b if !is_path_byte(*b) => true,
        b'/' if bytes.get(at + 1) == Some(&b'.') => {
            ends_segment(at + 2) || (bytes[at + 2] == b'.' && ends_segment(at + 3))
        }
        _ => false,
    })
}

fn in_one_form(path: &str) -> String {
    let mut form = String::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match (*byte == b'%').then(|| escape(after)).flatten() {
            Some(escaped) => {
                rest = &after[2..];
                if is_unreserved(escaped) {
                    form.push(char::from(escaped));
                } else {
                    push_escape(&mut form, escaped);
                }
            }
            None if is_path_byte(*byte) => form.push(char::from(*byte)),
            None => push_escape(&mut form, *byte),
        }
    }
    form
}

fn push_escape(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// The byte that two hexadecimal digits at the start of `text` stand for.
fn escape(text: &[u8]) -> Option<u8> {
    let digits = text.get(..2)?;
    let value = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(value(digits[0])? * 16 + value(digits[1])?).ok()
}

/// What may stand in a path (RFC 3986 section 3.3): unreserved characters, delimiters, `/`, and `%` before digits.
fn is_path_byte(b: u8) -> bool {
    is_unreserved(b) || b"!$&'()*+,;=:@/%".contains(&b)
}

fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

fn without_dot_segments(path: &str) -> Result<String, AmbiguousPath> {
    let mut kept: Vec<&str> = Vec::new();
    let (mut slash, mut dots) = (false, false);
    let mut ends_in_dots = false;
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        slash |= contains_encoded_slash(segment);
        // `..%2fx` is one segment here, and two for a reader that decodes first.
        dots |= pieces(segment).any(|piece| matches!(piece, "." | ".."));
        ends_in_dots = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    if slash && dots {
        return Err(AmbiguousPath);
    }
    let mut normal = String::with_capacity(path.len());
    for segment in &kept {
        normal.push('/');
        normal.push_str(segment);
    }
    if ends_in_dots || kept.is_empty() {
        normal.push('/');
    }
    Ok(normal)
}

fn contains_encoded_slash(segment: &str) -> bool {
    segment.as_bytes().windows(3).any(|w| w.eq_ignore_ascii_case(b"%2f"))
}

/// The segments that a reader sees that takes `%2F` for `/`.
fn pieces(segment: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(segment);
    std::iter::from_fn(move || {
        let text = rest?;
        match text.as_bytes().windows(3).position(|w| w.eq_ignore_ascii_case(b"%2f")) {
            Some(at) => {
                rest = Some(&text[at + 3..]);
                Some(&text[..at])
            }
            None => rest.take(),
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dot_segments_and_needless_escapes_are_removed() {
        for (given, matched) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a//b/", "/a//b/"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/...", "/a/..."),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/%61pi", "/api"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/%2561", "/%2561"),
            ("/100%", "/100%"),
            ("/%zz%4", "/%zz%4"),
            ("/%c3%a4", "/%C3%A4"),
            ("/%C3%a4", "/%C3%A4"),
            ("/\u{e4}", "/%C3%A4"),
            ("/\u{e4}/../%21", "/%21"),
            ("/a{b}|\\^`\"", "/a%7Bb%7D%7C%5C%5E%60%22"),
            ("/%7bb%7D", "/%7Bb%7D"),
            ("/!$&'()*+,;=:@", "/!$&'()*+,;=:@"),
        ] {
            assert_eq!(normalise(given).as_deref(), Ok(matched), "{given}");
        }
    }

    #[test]
    fn an_encoded_slash_beside_a_dot_segment_is_refused() {
        for given in
            ["/a/..%2fb", "/a%2f..%2fb", "/%2e%2e%2fetc", "/a%2Fb/../c", "/a/../b%2fc", "/a%2f.", "/.%2f"]
        {
            assert_eq!(normalise(given), Err(AmbiguousPath), "{given}");
        }
    }

    #[test]
    fn an_ordinary_path_is_not_copied() {
        for given in ["/", "/a/b.c/.d/..e/f...", "/.well-known/acme-challenge/x"] {
            assert!(matches!(normalise(given), Ok(Cow::Borrowed(_))), "{given}");
        }
    }

    #[test]
    fn port_and_trailing_dot_of_a_host_are_removed() {
        for (given, name) in [
            ("example.com", "example.com"),
            ("example.com:8080", "example.com"),
            ("example.com.:80", "example.com"),
            ("example.com.", "example.com"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(hostname(given), name, "{given}");
        }
    }

    /// Paths made of dots, slashes and escapes.
    fn paths() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            "/", ".", "..", "a", "api", "%2e", "%2E", "%2f", "%61", "%", "%4", "%25", "-", "\u{e4}", "%c3",
            "{",
        ]);
        prop::collection::vec(part, 0..12).prop_map(|parts| format!("/{}", parts.concat()))
    }

    fn well_formed(path: &str) -> bool {
        path.match_indices('%').all(|(at, _)| escape(&path.as_bytes()[at + 1..]).is_some())
    }

    proptest! {
        #[test]
        fn no_normal_path_has_a_dot_segment(path in paths()) {
            if let Ok(normal) = normalise(&path) {
                prop_assert!(normal.starts_with('/'));
                prop_assert!(!normal.split('/').any(|segment| matches!(segment, "." | "..")));
                prop_assert!(normal.bytes().all(is_path_byte));
            }
        }

        #[test]
        fn normalising_twice_changes_nothing(path in paths()) {
            prop_assume!(well_formed(&path));
            if let Ok(normal) = normalise(&path) {
                prop_assert_eq!(normalise(&normal).unwrap(), normal.clone());
            }
        }

        #[test]
        fn a_borrowed_path_is_unchanged_and_no_text_panics(path in "\\PC*") {
            if let Ok(Cow::Borrowed(normal)) = normalise(&path) {
                prop_assert_eq!(normal, path.as_str());
            }
        }
    }
}
