//! Where a backend listens: the URL of a route, a maintenance page or a check.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use super::Invalid;
use super::domain::is_path_byte;

/// A backend's URL: scheme, host, port and base path; never user info, query or fragment.
///
/// The default port, and the slash behind an authority without a path, make no difference: two such URLs are
/// equal ([PROTOCOL section 5](crate::spec::protocol#5-values)). Any other path is kept as it was written, because the URL of a maintenance page
/// may name a file.
///
/// Copies are one word and share what they say: a server has several for each route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendUrl(Arc<Parts>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Parts {
    scheme: Scheme,
    host: Host,
    port: u16,
    /// As written, starting with `/`; at least that.
    path: String,
}

/// How the proxy talks to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// HTTP/1.1 in plain text. `ws://` is read as this: an upgrade starts as a request.
    Http,
    /// HTTP over TLS. `wss://` is read as this.
    Https,
    /// HTTP/2 in plain text, with prior knowledge (ours).
    H2c,
}

/// A name to be resolved, or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A DNS name, lower-case.
    Name(String),
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
}

const EXAMPLE: &str = "http://10.2.2.7:8080/";
/// What is read at all; whatever is accepted is written shorter than this.
const MAX_URL: usize = 2048;
const MAX_BASE_PATH: usize = 1024;

impl BackendUrl {
    /// `scheme://host:port/`.
    pub fn new(scheme: Scheme, host: Host, port: u16) -> Self {
        Parts { scheme, host, port, path: "/".to_owned() }.into()
    }

    /// The same at another host.
    #[must_use]
    pub fn at_host(&self, host: Host) -> Self {
        Parts { host, ..self.parts() }.into()
    }

    /// What led to the address `old` leads to `new`; what leads elsewhere stays.
    pub fn follow(&mut self, old: IpAddr, new: IpAddr) {
        if self.0.host == Host::Ip(old) {
            Arc::make_mut(&mut self.0).host = Host::Ip(new);
        }
    }

    /// The same without its path.
    #[must_use]
    pub fn at_root(&self) -> Self {
        Parts { path: "/".to_owned(), ..self.parts() }.into()
    }

    /// Whether it names one resource, as a maintenance page may, and nothing below it.
    pub fn is_file(&self) -> bool {
        !self.0.path.ends_with('/')
    }

    /// The same with a path that ends in `/`. What a route is sent as: the reference server joins paths wrongly
    /// without ([PROTOCOL section 5](crate::spec::protocol#5-values)).
    #[must_use]
    pub fn as_directory(&self) -> Self {
        Parts { path: format!("{}/", self.base_path()), ..self.parts() }.into()
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.0.scheme
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// The port, the scheme's own if none was given.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// What is put before a request's path: empty, or starting with `/` and not ending with it.
    pub fn base_path(&self) -> &str {
        self.0.path.trim_end_matches('/')
    }

    /// The path as it was written; `/` where there was none.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// What stands in a request's Host header: without the port where it is the scheme's own.
    pub fn host_header(&self) -> String {
        if self.0.port == self.0.scheme.default_port() { self.0.host.to_string() } else { self.authority() }
    }

    /// `host:port`, with brackets around an IPv6 address; the port always given.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.0.host, self.0.port)
    }

    fn parts(&self) -> Parts {
        Parts::clone(&self.0)
    }
}

impl From<Parts> for BackendUrl {
    fn from(parts: Parts) -> Self {
        BackendUrl(Arc::new(parts))
    }
}

impl Scheme {
    /// `http`, `https` or `h2c`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::H2c => "h2c",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Scheme::Http | Scheme::H2c => 80,
            Scheme::Https => 443,
        }
    }
}

impl FromStr for Scheme {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "http" | "ws" => Ok(Scheme::Http),
            "https" | "wss" => Ok(Scheme::Https),
            "h2c" => Ok(Scheme::H2c),
            _ => Err(Invalid::new("scheme", text, "it is none of http, https, ws, wss, h2c", "http")),
        }
    }
}

impl FromStr for Host {
    type Err = Invalid;

    /// A name, an IPv4 address, or an IPv6 address with or without brackets.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |reason: &'static str| Err(Invalid::new("host", text, reason, "10.2.2.7"));
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return match inner.parse::<Ipv6Addr>() {
                Ok(ip) => Ok(Host::Ip(IpAddr::V6(ip))),
                Err(_) => refuse("there is no IPv6 address between the brackets"),
            };
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Host::Ip(ip));
        }
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > 253 {
            return refuse("longer than 253 characters");
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let label_ok = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if !name.split('.').all(label_ok) {
            return refuse("only letters, digits, '-', '_' and single dots may stand in a name");
        }
        let last = name.rsplit('.').next().unwrap_or(name);
        if name.contains('.') && last.bytes().all(|b| b.is_ascii_digit()) {
            return refuse("it looks like an IPv4 address and is none");
        }
        Ok(Host::Name(name.to_ascii_lowercase()))
    }
}

impl FromStr for BackendUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |reason: &'static str| Invalid::new("backend url", text, reason, EXAMPLE);
        if text.len() > MAX_URL {
            return Err(refuse("longer than 2048 characters"));
        }
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| refuse("it must start with a scheme and \"://\""))?;
        let scheme: Scheme =
            scheme.parse().map_err(|_| refuse("its scheme is none of http, https, ws, wss, h2c"))?;
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(refuse("user info is not allowed"));
        }
        let (host, port) = split_port(authority).ok_or_else(|| refuse("its port is no number"))?;
        let host: Host = host
            .parse()
            .map_err(|error: Invalid| Invalid::new("backend url", text, error.reason, EXAMPLE))?;
        let port = match port {
            None => scheme.default_port(),
            Some(digits) => match digits.parse::<u16>() {
                Ok(port) if port != 0 && digits.bytes().all(|b| b.is_ascii_digit()) => port,
                _ => return Err(refuse("its port is not between 1 and 65535")),
            },
        };
        if !path.bytes().all(is_path_byte) {
            return Err(refuse("after the port only a path may follow: no query, fragment or space"));
        }
        let base = path.trim_end_matches('/');
        if base.len() > MAX_BASE_PATH {
            return Err(refuse("its path is longer than 1024 characters"));
        }
        // However many slashes end it, one is written.
        let slash = if base.is_empty() || path.ends_with('/') { "/" } else { "" };
        Ok(Parts { scheme, host, port, path: format!("{base}{slash}") }.into())
    }
}

/// Splits `host:port`, `[v6]:port` or either without its port. `None`: an IPv6 address without brackets
/// or text behind the bracket.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if authority.starts_with('[') {
        let end = authority.find(']')? + 1;
        let (host, rest) = authority.split_at(end);
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None if rest.is_empty() => Some((host, None)),
            None => None,
        };
    }
    match authority.split_once(':') {
        None => Some((authority, None)),
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Host {
    /// As in a URL: an IPv6 address in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { scheme, host, port, path } = &*self.0;
        write!(f, "{scheme}://{host}")?;
        if *port != scheme.default_port() {
            write!(f, ":{port}")?;
        }
        f.write_str(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_backend_has_one_url() {
        for (given, written) in [
            ("http://h:8080", "http://h:8080/"),
            ("http://h:8080/", "http://h:8080/"),
            ("http://H/", "http://h/"),
            ("http://h:80", "http://h/"),
            ("ws://h", "http://h/"),
            ("wss://h:443", "https://h/"),
            ("h2c://h:81/base/", "h2c://h:81/base/"),
            ("http://[::1]:8080", "http://[::1]:8080/"),
            ("http://10.2.2.7", "http://10.2.2.7/"),
            ("http://my_app.web-net.:3000/a/b", "http://my_app.web-net:3000/a/b"),
            ("http://h//", "http://h/"),
            ("http://h/a//", "http://h/a/"),
        ] {
            let url: BackendUrl = given.parse().unwrap();
            assert_eq!(url.to_string(), written, "{given}");
            assert_eq!(url, written.parse().unwrap(), "{given}");
        }
    }

    #[test]
    fn a_path_is_kept_as_it_was_written() {
        let page: BackendUrl = "http://h:3001/maintenance.html".parse().unwrap();
        assert_eq!((page.path(), page.base_path()), ("/maintenance.html", "/maintenance.html"));
        assert_eq!((page.is_file(), page.at_root().to_string()), (true, "http://h:3001/".to_owned()));
        assert_eq!(page.as_directory().to_string(), "http://h:3001/maintenance.html/");
        let folder: BackendUrl = "http://h/base/".parse().unwrap();
        assert_eq!(
            (folder.path(), folder.base_path(), folder.as_directory()),
            ("/base/", "/base", folder.clone())
        );
    }

    #[test]
    fn the_longest_url_is_still_one_when_written() {
        let longest = format!("ws://{}:8080/{}", "a.".repeat(126) + "b", "x".repeat(1023));
        let url: BackendUrl = longest.parse().unwrap();
        assert_eq!(url.to_string().parse(), Ok(url));
        assert!((longest + "x").parse::<BackendUrl>().is_err());
    }

    #[test]
    fn what_is_no_backend_url_is_refused_with_the_reason() {
        for (given, reason) in [
            ("", "scheme"),
            ("h:8080", "scheme"),
            ("ftp://h", "none of"),
            ("http://", "empty"),
            ("http://:80", "empty"),
            ("http://h:", "port"),
            ("http://h:0", "port"),
            ("http://h:65536", "port"),
            ("http://h:8a", "port"),
            ("http://h:+80", "port"),
            ("http://::1:80", "port"),
            ("http://[::1", "port"),
            ("http://[::g]", "IPv6"),
            ("http://u:p@h", "user info"),
            ("http://h?x=1", "path"),
            ("http://h/#x", "path"),
            ("http://h/a b", "path"),
            ("http://10.2.2.999", "IPv4"),
            ("http://a..b", "letters"),
        ] {
            let error = given.parse::<BackendUrl>().unwrap_err();
            assert!(error.reason.contains(reason), "{given:?}: {error}");
        }
    }
}
