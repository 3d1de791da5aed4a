//! REGISTRY_POLICY: which service may claim which domains (SEMANTICS section 9).
//!
//! ```json
//! {
//!   "services": {
//!     "shop": ["shop.example.com", "*.shop.example.com"],
//!     "gateway": ["*"]
//!   },
//!   "default": ["*.apps.example.com"]
//! }
//! ```

use std::collections::BTreeMap;
use std::fmt;

use registry_client::protocol::{Domain, ServiceName};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Which service may claim which domains. Anything that it does not permit is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPolicy {
    services: BTreeMap<ServiceName, Vec<Pattern>>,
    /// For services that `services` does not name.
    default: Vec<Pattern>,
}

/// Domains that may be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// `*`
    Any,
    /// `example.com`, and nothing below it.
    Exact(Domain),
    /// `*.example.com`: itself and everything below `example.com`, at any depth.
    Below(Domain),
}

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

impl ClaimPolicy {
    /// Reads a policy's JSON.
    ///
    /// # Errors
    /// What is wrong, with line and column.
    pub fn parse(json: &[u8]) -> Result<Self, PolicyError> {
        // serde would accept an array as the fields in order.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(PolicyError("it is no JSON object".to_owned()));
        }
        let document: Document = serde_json::from_slice(json).map_err(|e| PolicyError(e.to_string()))?;
        Ok(ClaimPolicy { services: document.services.0, default: document.default })
    }

    /// Whether a service may claim a domain.
    pub fn permits(&self, service: &ServiceName, domain: &Domain) -> bool {
        let patterns = self.services.get(service).unwrap_or(&self.default);
        patterns.iter().any(|pattern| pattern.covers(domain))
    }
}

impl Pattern {
    fn covers(&self, domain: &Domain) -> bool {
        match self {
            Pattern::Any => true,
            Pattern::Exact(exact) => exact == domain,
            Pattern::Below(wildcard) => {
                // The suffix `.example.com` ends the wildcard itself and every name below.
                wildcard.as_str().strip_prefix('*').is_some_and(|suffix| domain.as_str().ends_with(suffix))
            }
        }
    }
}

/// The file. An unknown name is an error, because the operator meant something by it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    services: Services,
    #[serde(default)]
    default: Vec<Pattern>,
}

#[derive(Default)]
struct Services(BTreeMap<ServiceName, Vec<Pattern>>);

impl<'de> Deserialize<'de> for Services {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ServicesVisitor)
    }
}

struct ServicesVisitor;

impl<'de> Visitor<'de> for ServicesVisitor {
    type Value = Services;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of services with lists of domains")
    }

    /// serde's own map would silently take the last of two entries for one service.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Services, A::Error> {
        let mut services = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let service: ServiceName = name.parse().map_err(A::Error::custom)?;
            if services.insert(service, map.next_value()?).is_some() {
                return Err(A::Error::custom(format!("service {name} is there twice")));
            }
        }
        Ok(Services(services))
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "*" {
            return Ok(Pattern::Any);
        }
        let domain: Domain = text.parse().map_err(D::Error::custom)?;
        Ok(if domain.is_wildcard() { Pattern::Below(domain) } else { Pattern::Exact(domain) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permitted(policy: &str, service: &str, domains: &[&str]) -> Vec<bool> {
        let policy = ClaimPolicy::parse(policy.as_bytes()).unwrap();
        let service = service.parse().unwrap();
        domains.iter().map(|domain| policy.permits(&service, &domain.parse().unwrap())).collect()
    }

    const POLICY: &str = r#"{
        "services": { "shop": ["Shop.example.com", "*.shop.example.com"], "gateway": ["*"], "nobody": [] },
        "default": ["*.apps.example.com"]
    }"#;

    #[test]
    fn a_name_is_itself_and_a_wildcard_everything_below() {
        let shop = |domains: &[&str]| permitted(POLICY, "shop", domains);
        assert_eq!(shop(&["shop.example.com", "SHOP.example.com"]), [true, true]);
        assert_eq!(shop(&["a.shop.example.com", "a.b.shop.example.com"]), [true, true]);
        assert_eq!(shop(&["*.shop.example.com", "*.b.shop.example.com"]), [true, true]);
        assert_eq!(shop(&["example.com", "*.example.com", "myshop.example.com"]), [false; 3]);
    }

    #[test]
    fn what_is_not_named_has_the_default_and_what_is_named_has_not() {
        let domains = ["x.apps.example.com", "shop.example.com"];
        assert_eq!(permitted(POLICY, "other", &domains), [true, false]);
        assert_eq!(permitted(POLICY, "shop", &domains), [false, true]);
        assert_eq!(permitted(POLICY, "nobody", &domains), [false, false]);
        assert_eq!(permitted(POLICY, "gateway", &domains), [true, true]);
        assert_eq!(permitted("{}", "other", &domains), [false, false], "nothing is permitted by omission");
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        for (json, part) in [
            ("", "no JSON object"),
            ("[]", "no JSON object"),
            ("{", "EOF"),
            (r#"{"service": {}}"#, "unknown field `service`"),
            (r#"{"services": {"shop": "shop.example.com"}}"#, "line 1 column"),
            (r#"{"services": {"shop": ["shop example"]}}"#, "shop example"),
            (r#"{"services": {"a": [], "a": []}}"#, "service a is there twice"),
            (r#"{"services": {"": []}}"#, "line 1 column"),
            (r#"{"default": ["*.*"]}"#, "line 1 column"),
        ] {
            let error = ClaimPolicy::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
