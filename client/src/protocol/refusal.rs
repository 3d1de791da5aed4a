//! The error texts of the wire. Clients match on them, so each has one spelling, here.

use std::borrow::Cow;
use std::fmt;

use super::Invalid;

/// What follows `ERROR|` in a reply ([PROTOCOL section 3](crate::spec::protocol#3-commands)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The connection has no session and the command names none.
    NoSession,
    /// The command names a session that does not live.
    SessionNotFound,
    /// The session was replaced by a newer one of the same name (ours).
    SessionReplaced,
    /// There is no such command.
    UnknownCommand(String),
    /// Too few fields, or a field with a value that it cannot have.
    InvalidFormat,
    /// REGISTER's metadata are not a JSON object.
    InvalidMetadataJson,
    /// A field is not the JSON that its command takes.
    InvalidJson,
    /// The session has no such route.
    RouteNotFound,
    /// ROUTE_UPDATE names a field that does not exist.
    UnknownField,
    /// The list of domains is empty.
    NoDomains,
    /// The path is empty.
    EmptyPath,
    /// The backend's URL is malformed.
    InvalidBackendUrl,
    /// The route has no circuit breaker.
    CircuitBreakerNotFound,
    /// Nothing is being drained.
    NoDrain,
    /// A target that means no route of the session.
    UnknownTarget(String),
    /// A duration that is malformed, negative, or zero where that makes no sense.
    InvalidDuration(String),
    /// What BACKEND_ALLOW or a policy does not permit (ours).
    NotAllowed(String),
    /// The store did not take the change (ours).
    StoreUnavailable,
    /// A command longer than the longest line (ours).
    LineTooLong,
    /// A reply longer than the longest line (ours).
    ResponseTooLarge,
    /// Any other text.
    Other(String),
}

/// The texts that stand alone.
const FIXED: [(&str, Refusal); 16] = [
    ("no session", Refusal::NoSession),
    ("session not found", Refusal::SessionNotFound),
    ("session replaced", Refusal::SessionReplaced),
    ("invalid format", Refusal::InvalidFormat),
    ("invalid metadata json", Refusal::InvalidMetadataJson),
    ("invalid json", Refusal::InvalidJson),
    ("route not found", Refusal::RouteNotFound),
    ("unknown field", Refusal::UnknownField),
    ("no domains specified", Refusal::NoDomains),
    ("path cannot be empty", Refusal::EmptyPath),
    ("invalid backend url format", Refusal::InvalidBackendUrl),
    ("circuit breaker not found", Refusal::CircuitBreakerNotFound),
    ("no drain in progress", Refusal::NoDrain),
    ("store unavailable", Refusal::StoreUnavailable),
    ("line too long", Refusal::LineTooLong),
    ("response too large", Refusal::ResponseTooLarge),
];

type WithDetail = fn(String) -> Refusal;

/// The texts that end in what was refused.
const PREFIXED: [(&str, WithDetail); 4] = [
    ("unknown command: ", Refusal::UnknownCommand),
    ("unknown target: ", Refusal::UnknownTarget),
    ("invalid duration: ", Refusal::InvalidDuration),
    ("not allowed: ", Refusal::NotAllowed),
];

impl Refusal {
    /// The refusal that this text means; one that we do not know is [`Refusal::Other`].
    pub fn from_text(text: &str) -> Self {
        if let Some((_, refusal)) = FIXED.iter().find(|(fixed, _)| *fixed == text) {
            return refusal.clone();
        }
        PREFIXED
            .iter()
            .find_map(|(prefix, make)| text.strip_prefix(prefix).map(|rest| make(rest.to_owned())))
            .unwrap_or_else(|| Refusal::Other(text.to_owned()))
    }

    /// The text, with whatever cannot stand on a line replaced.
    pub fn text(&self) -> Cow<'static, str> {
        if let Some((fixed, _)) = FIXED.iter().find(|(_, refusal)| refusal == self) {
            return Cow::Borrowed(fixed);
        }
        let (prefix, detail) = match self {
            Refusal::UnknownCommand(x) => ("unknown command: ", x),
            Refusal::UnknownTarget(x) => ("unknown target: ", x),
            Refusal::InvalidDuration(x) => ("invalid duration: ", x),
            Refusal::NotAllowed(x) => ("not allowed: ", x),
            Refusal::Other(x) => ("", x),
            _ => unreachable!("every refusal without a detail is in FIXED, which a test checks"),
        };
        let safe = |c: char| if c == '|' || c.is_control() { '?' } else { c };
        Cow::Owned(prefix.chars().chain(detail.chars().take(MAX_DETAIL).map(safe)).collect())
    }
}

/// What a refusal repeats of a peer's text is cut to this many characters.
const MAX_DETAIL: usize = 400;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl std::error::Error for Refusal {}

impl From<Invalid> for Refusal {
    /// The fixed text where PROTOCOL has one for the kind of value; otherwise the whole reason.
    fn from(invalid: Invalid) -> Self {
        match invalid.kind {
            "duration" => Refusal::InvalidDuration(invalid.value),
            "backend url" => Refusal::InvalidBackendUrl,
            "target" => Refusal::UnknownTarget(invalid.value),
            "path" if invalid.value.is_empty() => Refusal::EmptyPath,
            "domain" if invalid.value.is_empty() => Refusal::NoDomains,
            _ => Refusal::Other(invalid.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_one_text_that_is_read_back() {
        let detailed = PREFIXED.iter().map(|(_, make)| make("X".to_owned()));
        for refusal in FIXED.iter().map(|(_, refusal)| refusal.clone()).chain(detailed) {
            assert_eq!(Refusal::from_text(&refusal.text()), refusal);
        }
        let conflict = Refusal::Other("route r2: example.com/ belongs to service X".to_owned());
        assert_eq!(Refusal::from_text(&conflict.text()), conflict);
    }

    #[test]
    fn a_refusal_never_breaks_its_line() {
        let nasty = Refusal::UnknownCommand(format!("A|B\nC\0{}", "x".repeat(100_000)));
        let text = nasty.text();
        assert!(super::super::is_field_safe(&text));
        assert!(text.len() < 1_000);
    }
}
