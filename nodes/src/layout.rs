//! Where nodes stand in etcd. Pure.

use std::fmt;
use std::str::FromStr;

use crate::node::{self, Info, NameError, Segment};

/// How the keys of nodes that are read are made. Registrations always write [`Layout::Services`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// `<base>/<service>/<node>`, and a JSON object of strings only as the value.
    #[default]
    Services,
    /// `<base>/<group>/nodes/<id>_<type>`, and a JSON object with values of any kind, which are read as texts.
    Groups,
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Layout, String> {
        match text {
            "services" => Ok(Layout::Services),
            "groups" => Ok(Layout::Groups),
            _ => Err("it is neither services nor groups".to_owned()),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::Services => "services",
            Layout::Groups => "groups",
        })
    }
}

/// The path below which all keys lie, without a `/` at its end and with single ones inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasePath(String);

impl BasePath {
    fn below(&self, rest: impl fmt::Display) -> String {
        match self.0.as_str() {
            "/" => format!("/{rest}"),
            base => format!("{base}/{rest}"),
        }
    }

    /// The key of a node.
    pub(crate) fn node(&self, service: &str, node: &str) -> Result<String, NameError> {
        Ok(self.below(format_args!("{}/{}", Segment::new(service)?, Segment::new(node)?)))
    }

    /// What the keys of all nodes of a service begin with.
    pub(crate) fn service(&self, service: &str, layout: Layout) -> Result<Prefix, NameError> {
        let service = Segment::new(service)?;
        let keys = match layout {
            Layout::Services => self.below(format_args!("{service}/")),
            Layout::Groups => self.below(format_args!("{service}/nodes/")),
        };
        Ok(Prefix { keys, layout })
    }
}

impl FromStr for BasePath {
    type Err = String;

    fn from_str(text: &str) -> Result<BasePath, String> {
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
        if text.trim().is_empty() {
            return Err("it is empty".to_owned());
        }
        if parts.iter().any(|part| matches!(*part, "." | "..")) {
            return Err("a part of it is . or ..".to_owned());
        }
        let root = if text.starts_with('/') { "/" } else { "" };
        Ok(BasePath(format!("{root}{}", parts.join("/"))))
    }
}

impl fmt::Display for BasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The keys of one service's nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prefix {
    keys: String,
    layout: Layout,
}

impl Prefix {
    pub(crate) fn as_str(&self) -> &str {
        &self.keys
    }

    /// The name of the node whose key this is; `None`: it is not a node's key.
    pub(crate) fn node<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.keys).filter(|name| !name.is_empty() && !name.contains('/'))
    }

    /// What a node says about itself, or why that cannot be read.
    pub(crate) fn info(&self, value: &[u8]) -> Result<Info, String> {
        match self.layout {
            Layout::Services => node::decode(value),
            Layout::Groups => node::decode_any(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> BasePath {
        text.parse().unwrap()
    }

    #[test]
    fn a_key_is_the_base_the_service_and_the_node_with_single_slashes() {
        for (text, expected) in [
            ("/services", "/services/web-api/n-1"),
            ("/services/", "/services/web-api/n-1"),
            ("//a//b/", "/a/b/web-api/n-1"),
            ("services", "services/web-api/n-1"),
            ("/", "/web-api/n-1"),
        ] {
            assert_eq!(base(text).node("web/api", "n/1").unwrap(), expected, "{text}");
        }
        assert_eq!(base("/s").node("", "n"), Err(NameError::Empty));
        assert_eq!(base("/s").node("web", ""), Err(NameError::Empty));
        for wrong in ["", "  ", "/a/../b", "."] {
            assert!(wrong.parse::<BasePath>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_service_has_no_nodes_of_another_and_none_deeper_down() {
        let services = base("/s").service("web", Layout::Services).unwrap();
        assert_eq!(services.node("/s/web/n1"), Some("n1"));
        for other in ["/s/web2/n1", "/s/web/", "/s/web/nodes/n1", "/s/web"] {
            assert_eq!(services.node(other), None, "{other}");
        }
        let groups = base("/s").service("web", Layout::Groups).unwrap();
        assert_eq!(groups.node("/s/web/nodes/n1_node"), Some("n1_node"));
        assert_eq!(groups.node("/s/web/n1"), None);
    }
}
