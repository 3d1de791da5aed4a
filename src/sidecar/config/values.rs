//! Parsers for the values that only the sidecar's environment has.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde_json::{Map, Value};

pub(super) use crate::environment::values::*;
use registry_client::protocol::{Domain, Domains, HealthPath, Host, Invalid, Scheme};

use super::{Endpoint, ReadyCheck, WhenStranded};

/// The longest METADATA, in bytes: the reference server limits a line to 65,535 bytes (PROTOCOL section 1), and REGISTER
/// carries tokens and names too.
const MAX_METADATA: usize = 48 * 1024;
/// The most registries in REGISTRY_HOST, because each needs a session.
const MAX_ENDPOINTS: usize = 16;

/// A port, or the URL that Docker's legacy links put into REGISTRY_PORT: `tcp://10.0.0.5:81`.
pub(super) fn linked_port(text: &str) -> Result<u16, Invalid> {
    let inner = text.split_once("://").and_then(|(_, rest)| rest.rsplit_once(':')).map(|(_, port)| port);
    port(inner.unwrap_or(text)).map_err(|refused| Invalid::new("port", text, refused.reason, "81"))
}

/// Ports separated by commas or blanks.
pub(super) fn ports(text: &str) -> Result<Vec<u16>, Invalid> {
    let ports = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|port| !port.is_empty());
    ports.map(port).collect()
}

/// A port, or 0 for none.
pub(super) fn port_or_none(text: &str) -> Result<Option<u16>, Invalid> {
    if text == "0" { Ok(None) } else { port(text).map(Some) }
}

pub(super) fn path(text: &str) -> Result<PathBuf, Invalid> {
    match text.starts_with(['/', '@']) {
        true => Ok(PathBuf::from(text)),
        false => Err(Invalid::new("path", text, "it must start with '/'", "/srv/maintenance")),
    }
}

pub(super) fn priority(text: &str) -> Result<i32, Invalid> {
    text.parse().map_err(|_| Invalid::new("priority", text, "it is no whole number", "10"))
}

pub(super) fn scheme(text: &str) -> Result<Scheme, Invalid> {
    match text.to_ascii_lowercase().as_str() {
        "http" => Ok(Scheme::Http),
        "https" => Ok(Scheme::Https),
        "h2c" => Ok(Scheme::H2c),
        _ => Err(Invalid::new("scheme", text, "it is none of http, https, h2c", "http")),
    }
}

pub(super) fn when_stranded(text: &str) -> Result<WhenStranded, Invalid> {
    match text.to_ascii_lowercase().as_str() {
        "exit" => Ok(WhenStranded::Exit),
        "stay" => Ok(WhenStranded::Stay),
        _ => Err(Invalid::new("consequence", text, "it is none of exit, stay", "exit")),
    }
}

pub(super) fn host(text: &str) -> Result<Host, Invalid> {
    if text.contains("://") {
        return Err(Invalid::new("host", text, "a host, not a URL: leave out the scheme", "app"));
    }
    if text.matches(':').count() == 1 {
        return Err(Invalid::new("host", text, "a host without a port: that is another variable", "app"));
    }
    text.parse()
}

/// A local address with a port; `:port` stands for all IPv4 addresses.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, Invalid> {
    let address = match text.strip_prefix(':') {
        Some(port) => port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        None => text.parse::<SocketAddr>().ok(),
    };
    let refuse = |reason| Invalid::new("address", text, reason, "127.0.0.1:9090");
    match address {
        Some(address) if address.port() == 0 => Err(refuse("its port is 0")),
        Some(address) => Ok(address),
        None => Err(refuse("it is no address with a port")),
    }
}

/// Names separated by commas, blanks or both.
pub(super) fn domains(text: &str) -> Result<Domains, Invalid> {
    let names = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|name| !name.is_empty());
    let parsed = names.map(str::parse::<Domain>).collect::<Result<Vec<_>, _>>()?;
    let refuse = |reason: &'static str| Invalid::new("domains", text, reason, "app.example.com");
    Domains::new(parsed).ok_or_else(|| refuse("no domain stands in it"))
}

/// A list of `host[:port]`; hosts without a port get `default_port`. Duplicates are dropped.
pub(super) fn endpoints(text: &str, default_port: u16) -> Result<Vec<Endpoint>, Invalid> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for item in text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty()) {
        let endpoint = endpoint(item, Some(default_port))?;
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    let refuse = |reason: &'static str| Err(Invalid::new("registries", text, reason, "proxy"));
    match endpoints.len() {
        0 => refuse("no host stands in it"),
        1..=MAX_ENDPOINTS => Ok(endpoints),
        _ => refuse("more than 16 registries"),
    }
}

/// `host:port` or `[v6]:port`; the port may be left out where there is a default.
fn endpoint(text: &str, default_port: Option<u16>) -> Result<Endpoint, Invalid> {
    let refuse = |reason: &str| Invalid::new("host and port", text, reason.to_owned(), "proxy:81");
    if text.contains("://") {
        return Err(refuse("a host with its port, not a URL: leave out the scheme"));
    }
    let (host_text, port_text) = match text.rsplit_once(':') {
        // An IPv6 address with a port needs brackets, because it has colons of its own.
        Some((before, _)) if before.contains(':') && !before.ends_with(']') => (text, None),
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    };
    let host = host_text.parse::<Host>().map_err(|refused| refuse(&refused.reason))?;
    let port = match (port_text, default_port) {
        (Some(port_text), _) => {
            port(port_text).map_err(|_| refuse("its port is no number from 1 to 65535"))?
        }
        (None, Some(port)) => port,
        (None, None) => return Err(refuse("its port is missing")),
    };
    Ok(Endpoint { host, port })
}

/// Checks separated by blanks, commas or line ends. `exec:` takes the rest of its line.
pub(super) fn ready_checks(text: &str) -> Result<Vec<ReadyCheck>, Invalid> {
    let mut checks = Vec::new();
    for line in text.lines() {
        let separates = |c: char| c == ',' || c.is_whitespace();
        let mut rest = line.trim_start_matches(separates);
        while !rest.is_empty() {
            let end = rest.find(separates).filter(|_| !rest.starts_with("exec:")).unwrap_or(rest.len());
            checks.push(ready_check(rest[..end].trim_end())?);
            rest = rest[end..].trim_start_matches(separates);
        }
    }
    if checks.is_empty() {
        return Err(Invalid::new("check", text, "no check stands in it", "tcp://127.0.0.1:8080"));
    }
    Ok(checks)
}

fn ready_check(text: &str) -> Result<ReadyCheck, Invalid> {
    let refuse = |reason: &str| Invalid::new("check", text, reason.to_owned(), "tcp://127.0.0.1:8080");
    let place = |text: &str, port| endpoint(text, port).map_err(|refused| refuse(&refused.reason));
    let with_path = |rest: &str, port| {
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = if path.is_empty() { "/" } else { path };
        Ok((place(host, port)?, path.parse::<HealthPath>().map_err(|refused| refuse(&refused.reason))?))
    };
    let absolute = |path: &str| match path.starts_with('/') {
        true => Ok(PathBuf::from(path)),
        false => Err(refuse("its path must start with '/'")),
    };
    if let Some(rest) = text.strip_prefix("tcp://") {
        return place(rest, None).map(ReadyCheck::Tcp);
    }
    if let Some(rest) = text.strip_prefix("http://") {
        return with_path(rest, Some(80)).map(|(place, path)| ReadyCheck::Http(place, path));
    }
    if let Some(rest) = text.strip_prefix("fastcgi://") {
        return with_path(rest, None).map(|(place, path)| ReadyCheck::FastCgi(place, path));
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return absolute(path).map(ReadyCheck::Unix);
    }
    if let Some(path) = text.strip_prefix("file:") {
        return absolute(path).map(ReadyCheck::File);
    }
    if let Some(rest) = text.strip_prefix("https://") {
        if cfg!(not(feature = "server")) {
            return Err(refuse("the lean build has no TLS: use http:// or tcp://, or the full build"));
        }
        return with_path(rest, Some(443)).map(|(place, path)| ReadyCheck::Https(place, path));
    }
    if let Some(line) = text.strip_prefix("exec:") {
        return match line.trim() {
            "" => Err(refuse("no command stands behind exec:")),
            line if line.contains('\0') => Err(refuse("a NUL stands in it, which no command can hold")),
            line => Ok(ReadyCheck::Exec(line.to_owned())),
        };
    }
    Err(refuse(
        "it is none of tcp://host:port, http://host:port/path, https://host:port/path, fastcgi://host:port/ping, \
         unix:/path, file:/path, exec:command",
    ))
}

pub(super) fn metadata(text: &str) -> Result<Map<String, Value>, Invalid> {
    let refuse = |reason: String| Err(Invalid::new("metadata", text, reason, r#"{"version":"1.0.0"}"#));
    if text.len() > MAX_METADATA {
        return refuse("longer than 48 KiB".to_owned());
    }
    let map = match object(text) {
        Ok(map) => map,
        Err(reason) => return refuse(reason),
    };
    for (key, variable) in [("token", "REGISTRY_TOKEN"), ("service_token", "SIDECAR_SERVICE_TOKEN")] {
        if map.contains_key(key) {
            return refuse(format!("the key {key:?} is for a secret, which belongs into {variable}"));
        }
    }
    Ok(map)
}
