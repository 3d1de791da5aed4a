//! The values of PROTOCOL section 5, read the slow and obvious way. Nothing here comes from the crate.

/// Why a text was refused, as the reply has it: the whole of it, or its beginning where the protocol leaves the
/// wording open.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Refused {
    /// The reply's text after `ERROR|`.
    Exactly(String),
    /// How that text begins.
    About(String),
}

pub(crate) type Read<T> = Result<T, Refused>;

pub(crate) fn exactly<T>(text: impl Into<String>) -> Read<T> {
    Err(Refused::Exactly(text.into()))
}

fn about<T>(kind: &str, value: &str) -> Read<T> {
    Err(Refused::About(format!("invalid {kind} {value:?}: ")))
}

/// A duration in milliseconds.
pub(crate) fn duration(text: &str) -> Read<u64> {
    let refuse = || exactly(format!("invalid duration: {text}"));
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
        return text.parse::<u64>().map_or_else(|_| refuse(), |seconds| Ok(seconds * 1000));
    }
    let mut rest = text;
    let mut total = 0;
    if rest.is_empty() {
        return refuse();
    }
    while !rest.is_empty() {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        rest = &rest[digits.len()..];
        let Ok(number) = digits.parse::<u64>() else { return refuse() };
        // `ms` before `m`.
        let Some((unit, scale)) = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)]
            .into_iter()
            .find(|(unit, _)| rest.starts_with(unit))
        else {
            return refuse();
        };
        rest = &rest[unit.len()..];
        total += number * scale;
    }
    Ok(total)
}

/// The same, where zero makes no sense.
pub(crate) fn duration_above_zero(text: &str) -> Read<u64> {
    match duration(text)? {
        0 => exactly(format!("invalid duration: {text}")),
        more => Ok(more),
    }
}

pub(crate) fn name(kind: &str, text: &str) -> Read<String> {
    if text.trim().is_empty() || text.len() > 255 { about(kind, text) } else { Ok(text.to_owned()) }
}

pub(crate) fn domain(text: &str) -> Read<String> {
    let lower = text.to_lowercase();
    let name = lower.strip_prefix("*.").unwrap_or(&lower);
    let label_ok = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    if text.is_ascii() && name.split('.').all(label_ok) { Ok(lower) } else { about("domain", text) }
}

/// A list of domains, each once.
pub(crate) fn domains<'a>(texts: impl Iterator<Item = &'a str>) -> Read<Vec<String>> {
    let mut kept = Vec::new();
    for text in texts {
        let domain = domain(text)?;
        if !kept.contains(&domain) {
            kept.push(domain);
        }
    }
    if kept.is_empty() { exactly("no domains specified") } else { Ok(kept) }
}

pub(crate) fn domain_list(text: &str) -> Read<Vec<String>> {
    if text.trim().is_empty() {
        return exactly("no domains specified");
    }
    domains(text.split(',').map(str::trim))
}

pub(crate) fn path(text: &str) -> Read<String> {
    if text.is_empty() {
        return exactly("path cannot be empty");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
    let trimmed = text.trim_end_matches('/');
    let odd = |segment: &str| ["", ".", ".."].contains(&segment);
    if !text.starts_with('/') || !text.chars().all(plain) || trimmed.split('/').skip(1).any(odd) {
        return about("path", text);
    }
    Ok(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() })
}

/// A backend's URL without the port that its scheme implies, and with a slash where it has no path.
pub(crate) fn backend(text: &str) -> Read<String> {
    let refuse = || exactly("invalid backend url format");
    let Some((scheme, rest)) = text.split_once("://") else { return refuse() };
    let (scheme, implied) = match scheme {
        "http" | "ws" => ("http", "80"),
        "https" | "wss" => ("https", "443"),
        "h2c" => ("h2c", "80"),
        _ => return refuse(),
    };
    let (authority, base) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (host, port) = authority.split_once(':').unwrap_or((authority, implied));
    let host_ok = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    let port_ok = port.parse::<u16>().is_ok_and(|port| port > 0);
    if !host_ok || !port_ok || base.contains(['?', '#', ' ']) {
        return refuse();
    }
    let port = if port == implied { String::new() } else { format!(":{port}") };
    let path = base.trim_end_matches('/');
    let slash = if path.is_empty() || base.ends_with('/') { "/" } else { "" };
    Ok(format!("{scheme}://{host}{port}{path}{slash}"))
}

/// The host of a backend's URL.
pub(crate) fn host_of(url: &str) -> &str {
    let authority = url.split("://").nth(1).unwrap_or_default();
    authority.split(['/', ':']).next().unwrap_or_default()
}

pub(crate) fn priority(text: &str) -> Read<i32> {
    text.parse().or_else(|_| about("priority", text))
}

pub(crate) fn count(kind: &str, text: &str) -> Read<u32> {
    text.parse().or_else(|_| about(kind, text))
}

/// The number in `r7`.
pub(crate) fn route_id(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('r')?;
    if digits.starts_with('0') || digits.starts_with('+') { None } else { digits.parse().ok() }
}

pub(crate) fn route(text: &str) -> Read<u32> {
    route_id(text).map_or_else(|| exactly("route not found"), Ok)
}

pub(crate) fn boolean(text: &str) -> Read<bool> {
    match text.to_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => about("option value", text),
    }
}

pub(crate) fn header_name(text: &str) -> Read<String> {
    let token = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if text.is_empty() || !text.chars().all(token) { about("header name", text) } else { Ok(text.to_owned()) }
}

pub(crate) fn header_value(text: &str) -> Read<String> {
    if text.chars().all(|c| c == '\t' || (' '..='~').contains(&c)) {
        Ok(text.to_owned())
    } else {
        about("header value", text)
    }
}

pub(crate) fn health_path(text: &str) -> Read<String> {
    if text.starts_with('/') && !text.contains(['#', ' ']) {
        Ok(text.to_owned())
    } else {
        about("health path", text)
    }
}

pub(crate) const OPTIONS: [&str; 20] = [
    "timeout",
    "health_check_interval",
    "health_check_timeout",
    "websocket",
    "preserve_host",
    "compression",
    "http2",
    "http3",
    "hold",
    "health_host",
    "health_status",
    "health_rise",
    "health_fall",
    "strip_prefix",
    "sticky",
    "redirect",
    "allow_from",
    "body_limit",
    "weight",
    "auth",
];

/// Single statuses and ranges, as the server says them again.
pub(crate) fn statuses(text: &str) -> Read<String> {
    let status =
        |text: &str| text.len() == 3 && text.parse().is_ok_and(|status| (100..600).contains(&status));
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let fits = |part: &&str| match part.split_once('-') {
        Some((first, last)) => status(first) && status(last) && first <= last,
        None => status(part),
    };
    if parts.len() <= 16 && parts.iter().all(fits) { Ok(parts.join(",")) } else { about("statuses", text) }
}

/// From 1 to 100.
pub(crate) fn checks(text: &str) -> Read<u64> {
    match text.parse() {
        Ok(count) if (1..=100).contains(&count) => Ok(count),
        _ => about("number of checks", text),
    }
}

/// Addresses and networks, of which the steps use one spelling.
pub(crate) fn networks(text: &str) -> Read<String> {
    let is_network = |part: &str| part.parse::<ipnet::IpNet>().is_ok();
    if text.split(',').all(is_network) { Ok(text.to_owned()) } else { about("networks", text) }
}

/// Bytes, with a unit.
pub(crate) fn size(text: &str) -> Read<u64> {
    let (digits, factor) = match text.strip_suffix('m') {
        Some(digits) => (digits, 1 << 20),
        None => (text, 1),
    };
    digits.parse::<u64>().map(|count| count * factor).or_else(|_| about("size", text))
}

/// Whom to ask, of which the steps use one spelling.
pub(crate) fn auth(text: &str) -> Read<String> {
    if text.starts_with("forward http://") { Ok(text.to_owned()) } else { about("auth", "[redacted]") }
}

pub(crate) fn weight(text: &str) -> Read<u64> {
    match text.parse() {
        Ok(weight) if weight <= 1000 => Ok(weight),
        _ => about("weight", text),
    }
}

/// A domain that is no wildcard.
pub(crate) fn exact_domain(text: &str) -> Read<String> {
    let domain = domain(text)?;
    if domain.starts_with("*.") { about("host", text) } else { Ok(domain) }
}

pub(crate) const SCOPES: [&str; 6] = ["routes", "headers", "options", "health", "ratelimit", "circuit"];

pub(crate) const EVENTS: [&str; 4] =
    ["backend_health_changed", "global_config_changed", "cert_renewed", "all"];

pub(crate) fn one_of(kind: &str, words: &[&str], text: &str) -> Read<String> {
    if words.contains(&text) { Ok(text.to_owned()) } else { about(kind, text) }
}

/// A target (PROTOCOL section 3).
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Target {
    All,
    Some(Vec<Item>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item {
    Route(u32),
    Path(String),
    Domain(String),
    Service,
}

pub(crate) fn target(text: &str) -> Read<Target> {
    if text == "ALL" {
        return Ok(Target::All);
    }
    text.split(',').map(item).collect::<Read<Vec<_>>>().map(Target::Some)
}

fn item(text: &str) -> Read<Item> {
    let unknown = || exactly(format!("unknown target: {text}"));
    if text == "SERVICE" {
        return Ok(Item::Service);
    }
    if let Some(id) = route_id(text) {
        return Ok(Item::Route(id));
    }
    if text.starts_with('/') {
        return path(text).map(Item::Path).or_else(|_| unknown());
    }
    domain(text).map(Item::Domain).or_else(|_| unknown())
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Item::Route(id) => write!(f, "r{id}"),
            Item::Path(text) | Item::Domain(text) => f.write_str(text),
            Item::Service => f.write_str("SERVICE"),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::All => f.write_str("ALL"),
            Target::Some(items) => {
                f.write_str(&items.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}
