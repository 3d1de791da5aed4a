//! Parsers for the values that both configurations have.

use std::str::FromStr;

use ipnet::IpNet;

use crate::telemetry::{Format, Level};
use registry_client::protocol::{
    CircuitBreaker, GoDuration, HeaderName, HeaderValue, Invalid, OptionKey, RateLimit, RouteOption,
};
use serde_json::{Map, Value};

use super::Secret;

const MAX_TOKEN: usize = 4096;

/// A boolean as people write it.
pub fn flag(text: &str) -> Result<bool, Invalid> {
    registry_client::protocol::parse_bool("boolean", text)
}

/// A port: 1 to 65535.
pub fn port(text: &str) -> Result<u16, Invalid> {
    match text.parse() {
        Ok(port) if port != 0 && is_digits(text) => Ok(port),
        _ => Err(Invalid::new("port", text, "it is no number from 1 to 65535", "8080")),
    }
}

/// A whole number above 0.
pub fn count(text: &str) -> Result<u32, Invalid> {
    match text.parse() {
        Ok(count) if count != 0 && is_digits(text) => Ok(count),
        _ => Err(Invalid::new("count", text, "it is no whole number above 0", "1")),
    }
}

/// A duration; zero is one.
pub fn duration(text: &str) -> Result<GoDuration, Invalid> {
    text.parse()
}

/// A duration of more than zero.
pub fn positive(text: &str) -> Result<GoDuration, Invalid> {
    let refuse = |refused: Invalid| Invalid::new("duration", text, refused.reason, refused.example);
    duration(text)?.non_zero().map_err(refuse)
}

/// An address with a prefix length.
pub fn network(text: &str) -> Result<IpNet, Invalid> {
    let refused = || Invalid::new("network", text, "it is no address with a prefix length", "10.2.2.0/24");
    // Accept host bits, because people copy an interface's address.
    text.parse::<IpNet>().map(|net| net.trunc()).map_err(|_| refused())
}

/// The level of the log.
pub fn level(text: &str) -> Result<Level, Invalid> {
    text.parse().map_err(|reason: &'static str| Invalid::new("level", text, reason, "info"))
}

/// The format of the log.
pub fn format(text: &str) -> Result<Format, Invalid> {
    text.parse().map_err(|reason: &'static str| Invalid::new("format", text, reason, "json"))
}

/// A secret of one line.
pub fn token(text: &str) -> Result<Secret, Invalid> {
    let refuse = |reason: &'static str| Err(Invalid::new("token", "[redacted]", reason, ""));
    if text.len() > MAX_TOKEN {
        return refuse("it is longer than 4096 bytes");
    }
    if text.chars().any(char::is_control) {
        return refuse(match text.ends_with('\r') {
            true => {
                "a carriage return stands at its end: save the file that it comes from with Unix line ends"
            }
            false => "a line end or another control character stands in it",
        });
    }
    Ok(Secret::new(text))
}

/// Whether there is nothing but digits.
pub fn is_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// A value that the protocol has a type for.
pub fn wire<T: FromStr<Err = Invalid>>(text: &str) -> Result<T, Invalid> {
    text.parse()
}

/// The headers of a JSON object's text.
pub fn headers(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, Invalid> {
    let refuse =
        |reason: String| Invalid::new("headers", text, reason, r#"{"X-Frame-Options":"SAMEORIGIN"}"#);
    header_list(&object(text).map_err(refuse)?)
}

/// The headers of a JSON object.
pub fn header_list(map: &Map<String, Value>) -> Result<Vec<(HeaderName, HeaderValue)>, Invalid> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(map.len());
    for (name, value) in map {
        let parsed: HeaderName = name.parse()?;
        let refuse = |reason: &'static str| Invalid::new("header", name, reason, "X-Frame-Options");
        let value = value.as_str().ok_or_else(|| refuse("its value is no JSON string"))?.parse()?;
        if headers.iter().any(|(other, _)| other.as_str().eq_ignore_ascii_case(name)) {
            return Err(refuse("it stands there twice, in different spellings"));
        }
        headers.push((parsed, value));
    }
    Ok(headers)
}

/// The JSON object that a text is.
pub fn object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("it is JSON, but no object".to_owned()),
        Err(error) => Err(format!("it is no JSON ({error})")),
    }
}

/// `requests/window`.
pub fn rate_limit(text: &str) -> Result<RateLimit, Invalid> {
    let refuse = |reason: String| Invalid::new("rate limit", text, reason, "100/1m");
    let (requests, window) =
        text.split_once('/').ok_or_else(|| refuse("it is not of the form requests/window".to_owned()))?;
    Ok(RateLimit {
        requests: part(requests, count, "requests").map_err(refuse)?,
        window: part(window, positive, "window").map_err(refuse)?,
    })
}

/// `failures/time open/trials`.
pub fn circuit_breaker(text: &str) -> Result<CircuitBreaker, Invalid> {
    let refuse = |reason: String| Invalid::new("circuit breaker", text, reason, "5/30s/3");
    let parts: Vec<&str> = text.split('/').collect();
    let [threshold, timeout, trials] = parts[..] else {
        return Err(refuse("it is not of the form failures/time/trials".to_owned()));
    };
    Ok(CircuitBreaker {
        threshold: part(threshold, count, "failures").map_err(refuse)?,
        timeout: part(timeout, positive, "time").map_err(refuse)?,
        half_open_requests: part(trials, count, "trials").map_err(refuse)?,
    })
}

fn part<T>(text: &str, parse: fn(&str) -> Result<T, Invalid>, what: &str) -> Result<T, String> {
    parse(text.trim()).map_err(|refused| format!("{what}: {}", refused.reason))
}

/// The option `auth` with users: the lines of htpasswd, where comments begin with `#`.
pub fn basic_auth(text: &str) -> Result<RouteOption, Invalid> {
    auth("basic", text)
}

/// The option `auth` with a URL.
pub fn forward_auth(text: &str) -> Result<RouteOption, Invalid> {
    auth("forward", text)
}

fn auth(kind: &str, text: &str) -> Result<RouteOption, Invalid> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join(" ");
    RouteOption::parse(OptionKey::Auth, &format!("{kind} {}", joined.trim()))
}
