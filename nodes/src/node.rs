//! What a node is, and how its name and its info are written. Nothing here knows etcd.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;
use thiserror::Error;

/// What a node says about itself: names and texts.
pub type Info = BTreeMap<String, String>;

/// One instance of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What tells it from the other nodes of its service. In etcd each `/` in it becomes `-`.
    pub name: String,
    /// What it says about itself.
    pub info: Info,
}

impl Node {
    /// A node without info.
    pub fn new(name: impl Into<String>) -> Node {
        Node { name: name.into(), info: Info::new() }
    }

    /// The same node, which says this about itself as well.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Node {
        self.info.insert(key.into(), value.into());
        self
    }
}

/// Why a name cannot be a part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// It has no characters.
    #[error("a name of a service or a node must not be empty")]
    Empty,
    /// It is `.` or `..`, which clients that clean paths take for a place elsewhere.
    #[error("a name of a service or a node must not be . or ..")]
    Dots,
}

/// A service's or a node's name as it stands in a key: not empty, without `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment(String);

impl Segment {
    pub(crate) fn new(name: &str) -> Result<Segment, NameError> {
        match name {
            "" => Err(NameError::Empty),
            "." | ".." => Err(NameError::Dots),
            _ => Ok(Segment(name.replace('/', "-"))),
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A JSON object of strings only, the keys in their order.
pub(crate) fn encode(info: &Info) -> String {
    let object = info.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    Value::Object(object).to_string()
}

/// Info from a JSON object of strings only. An empty value and `null` are a node that says nothing about itself.
pub(crate) fn decode(value: &[u8]) -> Result<Info, String> {
    if value.is_empty() {
        return Ok(Info::new());
    }
    serde_json::from_slice::<Option<Info>>(value)
        .map(Option::unwrap_or_default)
        .map_err(|error| error.to_string())
}

/// Info from a JSON object with values of any kind: what is inside an object gets the names of both, `labels.zone`.
pub(crate) fn decode_any(value: &[u8]) -> Result<Info, String> {
    let value: Value = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    let Value::Object(fields) = value else { return Err("it is no JSON object".to_owned()) };
    let mut info = Info::new();
    for (key, value) in fields {
        flatten(&mut info, key, value);
    }
    Ok(info)
}

fn flatten(info: &mut Info, key: String, value: Value) {
    match value {
        Value::Object(fields) => {
            for (below, value) in fields {
                flatten(info, format!("{key}.{below}"), value);
            }
        }
        Value::Null => {}
        Value::String(text) => drop(info.insert(key, text)),
        other => drop(info.insert(key, other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_becomes_a_dash_and_what_is_no_name_is_refused() {
        assert_eq!(Segment::new("a/b/c").unwrap().to_string(), "a-b-c");
        assert_eq!(Segment::new("/").unwrap().to_string(), "-");
        assert_eq!(Segment::new(""), Err(NameError::Empty));
        assert_eq!(Segment::new(".."), Err(NameError::Dots));
        assert_eq!(Segment::new(".").unwrap_err(), NameError::Dots);
        assert_eq!(Segment::new("..a").unwrap().to_string(), "..a");
    }

    #[test]
    fn info_is_a_json_object_of_strings_only() {
        let node = Node::new("n").with("port", "8080").with("name", "a \"b\"\n");
        assert_eq!(encode(&node.info), r#"{"name":"a \"b\"\n","port":"8080"}"#);
        assert_eq!(decode(encode(&node.info).as_bytes()), Ok(node.info));
        assert_eq!(encode(&Info::new()), "{}");
        for nothing in ["", "null", "{}"] {
            assert_eq!(decode(nothing.as_bytes()), Ok(Info::new()), "{nothing:?}");
        }
        for wrong in [r#"{"port":8080}"#, r#"{"a":{"b":"c"}}"#, "[]", "text", r#"{"a":null}"#] {
            assert!(decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_of_any_kind_are_flattened_into_texts() {
        let value = br#"{"id":"n1","port":9100,"labels":{"zone":"a","rack":7},"up":true,"gone":null}"#;
        let expected = Node::new("").with("id", "n1").with("labels.rack", "7").with("labels.zone", "a");
        assert_eq!(decode_any(value), Ok(expected.with("port", "9100").with("up", "true").info));
        assert!(decode_any(b"[]").is_err() && decode_any(b"").is_err());
    }
}
