//! Brings a request's path and host into the form in which they are matched (SEMANTICS section 2).
//!
//! Only matching uses this form. Backends get the target as the client sent it.

use std::borrow::Cow;

/// A path with dot segments and an encoded slash, which is answered with 400: readers disagree whether `..` removes
/// `a%2Fb` or only `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path has an encoded slash beside a dot segment")]
pub struct AmbiguousPath;

/// Decodes percent-escapes of unreserved characters (once), and then removes dot segments (RFC 3986 section 5.2.4).
/// Borrows if there is nothing to do, which is nearly always.
///
/// Other escapes, malformed escapes and repeated slashes stay as they are.
///
/// # Errors
/// [`AmbiguousPath`].
pub fn normalise(path: &str) -> Result<Cow<'_, str>, AmbiguousPath> {
    if is_normal(path) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path);
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

/// Whether the path has no escape and no dot segment.
fn is_normal(path: &str) -> bool {
    let bytes = path.as_bytes();
    let ends_segment = |at: usize| bytes.get(at).is_none_or(|b| *b == b'/');
    !bytes.iter().enumerate().any(|(at, b)| match b {
        b'%' => true,
        b'/' if bytes.get(at + 1) == Some(&b'.') => {
            ends_segment(at + 2) || (bytes[at + 2] == b'.' && ends_segment(at + 3))
        }
        _ => false,
    })
}

fn decode_unreserved(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at..];
        match escape(rest).filter(|b| is_unreserved(*b)) {
            Some(byte) => {
                decoded.push(char::from(byte));
                rest = &rest[3..];
            }
            None => {
                decoded.push('%');
                rest = &rest[1..];
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

/// The byte that the escape at the start of `text` stands for.
fn escape(text: &str) -> Option<u8> {
    let digits = text.as_bytes().get(1..3)?;
    let value = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(value(digits[0])? * 16 + value(digits[1])?).ok()
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
            ("/a%2Fb", "/a%2Fb"),
            ("/%2561", "/%2561"),
            ("/100%", "/100%"),
            ("/%zz%4", "/%zz%4"),
            ("/%c3%a4", "/%c3%a4"),
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
            "/", ".", "..", "a", "api", "%2e", "%2E", "%2f", "%61", "%", "%4", "%25", "-", "\u{e4}",
        ]);
        prop::collection::vec(part, 0..12).prop_map(|parts| format!("/{}", parts.concat()))
    }

    fn well_formed(path: &str) -> bool {
        path.match_indices('%').all(|(at, _)| escape(&path[at..]).is_some())
    }

    proptest! {
        #[test]
        fn no_normal_path_has_a_dot_segment(path in paths()) {
            if let Ok(normal) = normalise(&path) {
                prop_assert!(normal.starts_with('/'));
                prop_assert!(!normal.split('/').any(|segment| matches!(segment, "." | "..")));
                prop_assert!(normal.len() <= path.len().max(1));
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
