//! The JSON object that a session carries, with the two secrets that may stand in it.

use std::fmt;

use serde_json::{Map, Value};

use super::Refusal;

/// REGISTER's metadata. `Debug` leaves the values of `token` and `service_token` out.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Metadata(Map<String, Value>);

/// The keys that hold secrets ([PROTOCOL section 7](crate::spec::protocol#7-extensions-of-ours)).
pub const SECRET_KEYS: [&str; 2] = ["token", "service_token"];

impl Metadata {
    /// The metadata with these entries.
    pub fn new(entries: Map<String, Value>) -> Self {
        Metadata(entries)
    }

    /// Reads a JSON object; nothing at all and `null` are an empty one.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.is_empty() {
            return Ok(Metadata::default());
        }
        match serde_json::from_str(text) {
            Ok(Value::Null) => Ok(Metadata::default()),
            Ok(Value::Object(entries)) => Ok(Metadata(entries)),
            _ => Err(Refusal::InvalidMetadataJson),
        }
    }

    /// The JSON text for the wire, secrets included.
    pub fn encode(&self) -> String {
        encode_json(&self.0)
    }

    /// The same without its secrets: for SESSION_INFO, logs and stores.
    pub fn without_secrets(&self) -> Map<String, Value> {
        let public = self.0.iter().filter(|(key, _)| !SECRET_KEYS.contains(&key.as_str()));
        public.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Whether there is something under `key` that is not null.
    pub fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| !value.is_null())
    }

    /// The text under `key`, secrets included.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.as_str()
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Value::Object(self.without_secrets()))
    }
}

/// JSON that may stand as a last field before any peer: `|` only occurs inside strings, and is escaped.
pub(super) fn encode_json<T: serde::Serialize>(value: &T) -> String {
    let json = serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned());
    if json.contains('|') { json.replace('|', "\\u007c") } else { json }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_null_are_an_empty_object() {
        for text in ["", "null", "{}"] {
            assert_eq!(Metadata::parse(text), Ok(Metadata::default()));
        }
        for text in ["[]", "1", "{", "\"x\""] {
            assert_eq!(Metadata::parse(text), Err(Refusal::InvalidMetadataJson), "{text}");
        }
    }

    #[test]
    fn a_number_that_is_passed_on_stays_the_same() {
        let once = Metadata::parse(r#"{"n":18497063801434691850,"f":0.1234567890123456789}"#).unwrap();
        assert_eq!(Metadata::parse(&once.encode()), Ok(once));
    }

    #[test]
    fn separators_are_escaped_and_secrets_not_shown() {
        let metadata = Metadata::parse(r#"{"note":"a|b","token":"t0p","service_token":"s3c"}"#).unwrap();
        assert!(!metadata.encode().contains('|'));
        assert_eq!(Metadata::parse(&metadata.encode()), Ok(metadata.clone()));
        let shown = format!("{metadata:?}");
        assert!(shown.contains("a|b") && !shown.contains("t0p") && !shown.contains("s3c"), "{shown}");
    }
}
