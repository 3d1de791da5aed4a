//! Parsers for the values that both configurations have.

use std::str::FromStr;

use ipnet::IpNet;

use crate::telemetry::{Format, Level};
use registry_client::protocol::{GoDuration, Invalid};

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
