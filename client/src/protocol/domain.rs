//! Host names as routes have them, and path prefixes.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Invalid;

/// A domain that a route claims: ASCII, lower-case, at most 253 characters, with at most one leading `*.`.
///
/// Copies share the text, of which a server with many routes would otherwise have four.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Arc<str>);

const DOMAIN_EXAMPLE: &str = "app.example.com";
const MAX_DOMAIN: usize = 253;
const MAX_LABEL: usize = 63;

impl Domain {
    /// The text, lower-case, `*.` included.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For `*.example.com` its suffix `example.com`; `None` for an exact name.
    pub fn wildcard_suffix(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }

    /// Whether this is a `*.` domain.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard_suffix().is_some()
    }
}

/// Maps with domains as keys are searched with the text of a request's Host.
impl Borrow<str> for Domain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |reason: &'static str| Err(Invalid::new("domain", text, reason, DOMAIN_EXAMPLE));
        if text.is_empty() {
            return refuse("it is empty");
        }
        if !text.is_ascii() {
            return refuse("only ASCII; write an international name in its xn-- form");
        }
        if text.len() > MAX_DOMAIN {
            return refuse("longer than 253 characters");
        }
        if text.contains("://") {
            return refuse("a domain, not a URL: leave out the scheme");
        }
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_prefix("*.").unwrap_or(&lower);
        if name.contains('*') {
            return refuse("a wildcard is one leading \"*.\" and nothing else");
        }
        if name.contains('/') {
            return refuse("a domain has no path: that is another field");
        }
        if name.contains(':') {
            return refuse("a domain has no port: requests match on any");
        }
        for label in name.split('.') {
            if label.is_empty() {
                return refuse("it has an empty label (two dots, or one at an end)");
            }
            if label.len() > MAX_LABEL {
                return refuse("a label is longer than 63 characters");
            }
            if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                return refuse("only letters, digits, '-', '_' and '.' may stand in it");
            }
            if label.starts_with('-') || label.ends_with('-') {
                return refuse("a label starts or ends with '-'");
            }
        }
        Ok(Domain(lower.into()))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path prefix that a route claims. It matches itself and what follows it on a `/` boundary.
///
/// `/api` and `/api/` are the same prefix ([SEMANTICS section 2](crate::spec::semantics#2-matching)), so the trailing slash is dropped.
///
/// Escapes have capital digits, so that two spellings of one path are one prefix (RFC 3986 section 6.2.2).
///
/// Copies share the text. `None` is `/`, which most routes have.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathPrefix(Option<Arc<str>>);

const PATH_EXAMPLE: &str = "/api";
const MAX_PATH: usize = 1024;

impl PathPrefix {
    /// `/`, which matches every path.
    pub fn root() -> Self {
        PathPrefix(None)
    }

    /// The text: `/`, or a path without a trailing slash.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("/")
    }

    /// Whether this prefix matches `path`, which must be normalised and start with `/`.
    pub fn matches(&self, path: &str) -> bool {
        let Some(prefix) = &self.0 else { return true };
        path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for PathPrefix {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |reason: &'static str| Err(Invalid::new("path", text, reason, PATH_EXAMPLE));
        if text.is_empty() {
            return refuse("it is empty");
        }
        if !text.starts_with('/') {
            return refuse("it must start with '/'");
        }
        if text.len() > MAX_PATH {
            return refuse("longer than 1024 characters");
        }
        if !text.bytes().all(is_path_byte) {
            return refuse("only what may stand in a URL's path, without '?', '#', '|' and spaces");
        }
        if has_needless_escape(text) {
            return refuse("an escaped letter, digit, '-', '.', '_' or '~' never matches: write it plainly");
        }
        let trimmed = text.trim_end_matches('/');
        if trimmed.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) {
            return refuse("it has an empty segment, \".\" or \"..\": requests are matched without them");
        }
        Ok(if trimmed.is_empty() {
            PathPrefix::root()
        } else {
            PathPrefix(Some(capital_escapes(trimmed).into()))
        })
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Writes the digits of escapes in capitals.
fn capital_escapes(path: &str) -> String {
    let mut pieces = path.split('%');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        text.push('%');
        match piece.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit())) {
            Some(digits) => {
                text.push_str(&digits.to_ascii_uppercase());
                text.push_str(&piece[2..]);
            }
            None => text.push_str(piece),
        }
    }
    text
}

/// Whether a character is escaped that needs no escape. Requests are matched without such escapes, so a
/// prefix with one would never match.
fn has_needless_escape(path: &str) -> bool {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    path.match_indices('%').any(|(at, _)| {
        let digits = path.get(at + 1..at + 3);
        digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).is_some_and(unreserved)
    })
}

/// The characters of RFC 3986's path, percent signs included; never the protocol's separator.
pub(super) fn is_path_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_lower_case_and_may_start_with_one_wildcard() {
        for (given, kept) in [
            ("Example.COM", "example.com"),
            ("*.Example.com", "*.example.com"),
            ("localhost", "localhost"),
            ("xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
            ("my_app.internal", "my_app.internal"),
            ("10.2.2.7", "10.2.2.7"),
        ] {
            assert_eq!(given.parse::<Domain>().unwrap().as_str(), kept);
        }
    }

    #[test]
    fn what_is_no_domain_is_refused_with_the_reason() {
        for (given, reason) in [
            ("", "empty"),
            ("münchen.de", "xn--"),
            ("http://example.com", "scheme"),
            ("example.com/", "path"),
            ("example.com:80", "port"),
            ("a..b", "empty label"),
            ("example.com.", "empty label"),
            (".example.com", "empty label"),
            ("*", "wildcard"),
            ("a.*.b", "wildcard"),
            ("*.*.b", "wildcard"),
            ("-a.de", "'-'"),
            ("a b", "only letters"),
            ("a|b", "only letters"),
            (&"a".repeat(64), "63"),
            (&"a.".repeat(140), "253"),
        ] {
            let error = given.parse::<Domain>().unwrap_err();
            assert!(error.reason.contains(reason), "{given:?}: {error}");
        }
    }

    #[test]
    fn escapes_of_a_prefix_have_one_spelling() {
        let kept = |given: &str| given.parse::<PathPrefix>().unwrap().to_string();
        for given in ["/k%c3%a4se", "/k%C3%A4se", "/k%c3%A4se/"] {
            assert_eq!(kept(given), "/k%C3%A4se");
        }
        assert_eq!(kept("/a%2fb/%7bx"), "/a%2Fb/%7Bx");
        assert_eq!(kept("/100%/%zz/%4"), "/100%/%zz/%4", "malformed escapes stay as they are");
    }

    #[test]
    fn a_prefix_matches_only_on_a_segment_boundary() {
        let api: PathPrefix = "/api/".parse().unwrap();
        assert_eq!(api.as_str(), "/api");
        assert_eq!(api, "/api".parse().unwrap());
        assert!(api.matches("/api"));
        assert!(api.matches("/api/x"));
        assert!(!api.matches("/apixyz"));
        assert!(!api.matches("/"));
        assert!(PathPrefix::root().matches("/anything"));
    }

    #[test]
    fn what_is_no_path_is_refused_with_the_reason() {
        for (given, reason) in [
            ("", "empty"),
            ("api", "start with '/'"),
            ("/a b", "only what may"),
            ("/a?b", "only what may"),
            ("/a|b", "only what may"),
            ("/a/../b", "\"..\""),
            ("/a//b", "empty segment"),
            ("/./a", "\".\""),
            ("/%61pi", "plainly"),
            ("/a%2E", "plainly"),
        ] {
            let error = given.parse::<PathPrefix>().unwrap_err();
            assert!(error.reason.contains(reason), "{given:?}: {error}");
        }
    }
}
