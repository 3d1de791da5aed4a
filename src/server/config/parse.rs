//! What the text of a single variable means. Pure, but for the files that a variable names: whoever calls gives the reader.
//!
//! Must not know which variable it reads for: the caller names it beside the mistake.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::environment::values;
use crate::server::policy_file::{PolicyFile, ReadFile};
use crate::server::routes_file::RoutesFile;
use crate::server::routing::{ResponseHeaders, Via};
use crate::server::webhook::Webhook;
use registry_client::protocol::{HeaderName, HeaderValue, Invalid};

use super::{AccessLog, StateFile};

/// Parses `address:port`, or `:port` for every IPv4 address.
pub(super) fn listen(text: &str) -> Result<SocketAddr, Invalid> {
    let whole = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    whole
        .parse()
        .map_err(|_| Invalid::new("listen address", text, "it is no IP address with a port", "0.0.0.0:8080"))
}

pub(super) fn listen_or_off(text: &str) -> Result<Option<SocketAddr>, Invalid> {
    if text == "off" { Ok(None) } else { listen(text).map(Some) }
}

/// Reads the file of ROUTES_FILE.
pub(super) fn routes_file(text: &str, read: ReadFile<'_>) -> Result<RoutesFile, Invalid> {
    let refuse = |reason: String| Invalid::new("routes file", text, reason, "/etc/routes.yml");
    let path = file_path(text)?;
    let content = read(&path).map_err(refuse)?;
    RoutesFile::parse(path, content).map_err(refuse)
}

/// Headers that every response has.
pub(super) fn default_headers(text: &str) -> Result<BTreeMap<HeaderName, HeaderValue>, Invalid> {
    let headers = values::headers(text)?;
    match headers.iter().find(|(name, _)| !ResponseHeaders::may_set(name)) {
        Some((name, _)) => {
            Err(Invalid::new("header", name.as_str(), "it frames messages", "X-Frame-Options"))
        }
        None => Ok(headers.into_iter().collect()),
    }
}

/// Whether hosts are exclusive.
pub(super) fn hosts(text: &str) -> Result<bool, Invalid> {
    match text {
        "shared" => Ok(false),
        "first" => Ok(true),
        _ => Err(Invalid::new("rule for hosts", text, "it is neither shared nor first", "first")),
    }
}

/// Parses a name for the header Via.
pub(super) fn via(text: &str) -> Result<Via, Invalid> {
    text.parse().map_err(|_| Invalid::new("name", text, "it is neither a word nor a host", "proxy"))
}

/// Parses names of hosts without ports, separated by commas, blanks or both.
pub(super) fn host_names(text: &str) -> Result<Vec<String>, Invalid> {
    let items = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty());
    let name = |item: &str| {
        let is_legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if item.chars().all(is_legal) {
            return Ok(item.to_ascii_lowercase());
        }
        Err(Invalid::new("host name", item, "it is no name without a port", "proxy"))
    };
    items.map(name).collect()
}

/// Parses URLs of webhooks, separated by commas, blanks or both.
pub(super) fn webhooks(text: &str) -> Result<Vec<Webhook>, Invalid> {
    const MOST: usize = 8;
    let items = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty());
    let all: Vec<Webhook> = items.map(Webhook::parse).collect::<Result<_, _>>()?;
    if all.len() > MOST {
        let reason = "there are more than eight";
        return Err(Invalid::new(
            "list of webhooks",
            "[redacted]",
            reason,
            "https://hooks.example.com/T0/B0",
        ));
    }
    Ok(all)
}

/// Parses a share from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, Invalid> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| Invalid::new("share", text, "it is no number from 0 to 1", "0.01"))
}

pub(super) fn access_log(text: &str) -> Result<Option<AccessLog>, Invalid> {
    match text {
        "json" => Ok(Some(AccessLog::Json)),
        "combined" => Ok(Some(AccessLog::Combined)),
        "off" => Ok(None),
        _ => Err(Invalid::new("access log", text, "it is none of json, combined, off", "json")),
    }
}

/// Parses the path of a file, not of a directory.
pub(super) fn file_path(text: &str) -> Result<PathBuf, Invalid> {
    if text.ends_with('/') || text.contains('\0') {
        return Err(Invalid::new("file", text, "it is no path of a file", "/state/registry.redb"));
    }
    Ok(PathBuf::from(text))
}

/// Parses the path of STATE_FILE, with `?` behind it where the server may start without the file.
pub(super) fn state_file(text: &str) -> Result<StateFile, Invalid> {
    let optional = text.strip_suffix('?');
    Ok(StateFile { path: file_path(optional.unwrap_or(text))?, is_optional: optional.is_some() })
}

/// Reads the policy in the file at `path`.
pub(super) fn policy(path: &str, read: ReadFile<'_>) -> Result<PolicyFile, Invalid> {
    const EXAMPLE: &str = "/etc/registry-policy.json";
    if path.trim_start().starts_with('{') {
        let reason = "it is a policy itself, and must be the path of a file that holds one";
        return Err(Invalid::new("policy", path, reason, EXAMPLE));
    }
    let file = PolicyFile::read(file_path(path)?, read);
    file.map_err(|reason| Invalid::new("policy", path, reason, EXAMPLE))
}

/// Parses networks and single addresses, separated by commas, blanks or both.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, Invalid> {
    let items = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty());
    items.map(|item| item.parse::<IpAddr>().map(IpNet::from).or_else(|_| values::network(item))).collect()
}
