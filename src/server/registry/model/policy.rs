//! REGISTRY_POLICY: which service may claim which domains, and the secret of which it must know (SEMANTICS section 9).
//!
//! ```json
//! {
//!   "services": {
//!     "shop": ["shop.example.com", "*.shop.example.com"],
//!     "gateway": ["*"]
//!   },
//!   "default": ["*.apps.example.com"],
//!   "show_others": true,
//!   "exclusive": ["*.example.com"],
//!   "secrets": {
//!     "shop": ["sha256:0f…:5e…"],
//!     "gateway": ["file:/run/secrets/gateway", "file:/run/secrets/gateway_next"]
//!   }
//! }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use registry_client::protocol::{Domain, ServiceName};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::token::{ServiceToken, Token};

/// How many secrets of a service are valid at once: one, and the next while they are changed.
const MAX_SECRETS: usize = 2;

/// Reads a file that a policy names. The error is text for people.
pub type ReadSecret<'a> = &'a dyn Fn(&Path) -> Result<Vec<u8>, String>;

/// Which service may claim which domains. Anything that it does not permit is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPolicy {
    services: BTreeMap<ServiceName, Vec<Pattern>>,
    /// For services that `services` does not name.
    default: Vec<Pattern>,
    /// What a service must give as its `service_token`: one of these.
    secrets: BTreeMap<ServiceName, Vec<Secret>>,
    /// Services may learn of each other's names and domains.
    shows_others: bool,
    /// Hosts that belong to one service as a whole.
    exclusive: Vec<Pattern>,
}

/// Hosts that belong as a whole to the first service that claims a part of them (SEMANTICS section 1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ExclusiveHosts {
    all: bool,
    patterns: Vec<Pattern>,
}

impl ExclusiveHosts {
    /// All hosts, or those that a policy names.
    pub(crate) fn new(all: bool, policy: Option<&ClaimPolicy>) -> Self {
        ExclusiveHosts { all, patterns: policy.map(|policy| policy.exclusive.clone()).unwrap_or_default() }
    }

    pub(crate) fn covers(&self, domain: &Domain) -> bool {
        self.all || self.patterns.iter().any(|pattern| pattern.covers(domain))
    }
}

/// A secret of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Secret {
    Digest(ServiceToken),
    /// From a file.
    Text(Token),
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
    pub fn parse(json: &[u8], read: ReadSecret<'_>) -> Result<Self, PolicyError> {
        // serde would accept an array as the fields in order.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(PolicyError("it is no JSON object".to_owned()));
        }
        let mut document: Document = serde_json::from_slice(json).map_err(|e| PolicyError(e.to_string()))?;
        let mut secrets = BTreeMap::new();
        for (service, texts) in std::mem::take(&mut document.secrets.0) {
            let of = |error| PolicyError(format!("secrets of {service}: {error}"));
            secrets.insert(service.clone(), read_secrets(&texts, read).map_err(of)?);
        }
        let Document { services, default, show_others: shows_others, exclusive, .. } = document;
        Ok(ClaimPolicy { services: services.0, default, secrets, shows_others, exclusive })
    }

    /// Whether it has secrets for every service that it names.
    pub fn has_secrets(&self) -> bool {
        !self.services.is_empty() && self.services.keys().all(|service| self.secrets.contains_key(service))
    }

    /// Whether it makes hosts exclusive.
    pub fn has_exclusive(&self) -> bool {
        !self.exclusive.is_empty()
    }

    /// Whether services may learn of each other's names and domains, in errors and events.
    pub(crate) fn shows_others(&self) -> bool {
        self.shows_others
    }

    /// Whether a service must give a secret that the policy holds, and whether `given` is it. `None`: it holds none of this
    /// service.
    pub(crate) fn knows(&self, service: &ServiceName, given: &str) -> Option<bool> {
        let secrets = self.secrets.get(service)?;
        // Each is compared, so that the time does not tell which is right.
        let is_right = |secret: &Secret| match secret {
            Secret::Digest(digest) => digest.is(given),
            Secret::Text(text) => text.is(given),
        };
        Some(secrets.iter().fold(false, |found, secret| found | is_right(secret)))
    }

    /// Whether a service may claim a domain.
    pub fn permits(&self, service: &ServiceName, domain: &Domain) -> bool {
        let patterns = self.services.get(service).unwrap_or(&self.default);
        patterns.iter().any(|pattern| pattern.covers(domain))
    }
}

fn read_secrets(texts: &[String], read: ReadSecret<'_>) -> Result<Vec<Secret>, String> {
    if texts.is_empty() || texts.len() > MAX_SECRETS {
        return Err(format!("there must be one, or {MAX_SECRETS} while it changes"));
    }
    let secret = |text: &String| match text.split_once(':') {
        Some(("sha256", digest)) => digest.parse().map(Secret::Digest).map_err(str::to_owned),
        Some(("file", path)) => {
            let content = read(Path::new(path)).map_err(|error| format!("{path}: {error}"))?;
            let text = String::from_utf8(content).map_err(|_| format!("{path}: it is no text"))?;
            match text.trim_end_matches(['\r', '\n']) {
                "" => Err(format!("{path}: it is empty")),
                secret => Ok(Secret::Text(Token::new(secret))),
            }
        }
        // The text is not shown: it may be the secret itself.
        _ => Err("one is neither sha256:… (registry-server policy hash) nor file:/path".to_owned()),
    };
    texts.iter().map(secret).collect()
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
    services: Services<Pattern>,
    #[serde(default)]
    default: Vec<Pattern>,
    #[serde(default)]
    secrets: Services<String>,
    #[serde(default)]
    show_others: bool,
    #[serde(default)]
    exclusive: Vec<Pattern>,
}

/// A list for each service.
struct Services<T>(BTreeMap<ServiceName, Vec<T>>);

impl<T> Default for Services<T> {
    fn default() -> Self {
        Services(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Services<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ServicesVisitor(PhantomData))
    }
}

struct ServicesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ServicesVisitor<T> {
    type Value = Services<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of services with lists")
    }

    /// serde's own map would silently take the last of two entries for one service.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Services<T>, A::Error> {
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

    fn parse(json: &str) -> Result<ClaimPolicy, PolicyError> {
        ClaimPolicy::parse(json.as_bytes(), &|path| match path.to_str() {
            Some("/run/secrets/shop") => Ok(b"from a file\n".to_vec()),
            Some("/empty") => Ok(b"\n".to_vec()),
            _ => Err("no such file".to_owned()),
        })
    }

    #[test]
    fn a_service_has_up_to_two_secrets_as_digests_or_in_files() {
        let digest = ServiceToken::new(7, "correct horse").digest();
        let json = format!(r#"{{"secrets": {{"shop": ["{digest}", "file:/run/secrets/shop"]}}}}"#);
        let policy = parse(&json).unwrap();
        let knows = |service: &str, given| policy.knows(&service.parse().unwrap(), given);
        for (given, right) in [
            ("correct horse", true),
            ("from a file", true),
            ("", false),
            ("correct hors", false),
            (&*digest, false),
        ] {
            assert_eq!(knows("shop", given), Some(right), "{given}");
        }
        assert_eq!(knows("blog", "anything"), None);
        assert!(!format!("{policy:?}").contains("from a file"));
    }

    #[test]
    fn a_secret_that_is_none_is_named_by_its_service_and_not_shown() {
        for (secrets, part) in [
            (r#"["correct horse"]"#, "neither sha256"),
            (r#"["sha256:7:7"]"#, "no salt and SHA-256"),
            (r#"["file:/run/secrets/none"]"#, "no such file"),
            (r#"["file:/empty"]"#, "empty"),
            ("[]", "there must be one"),
            (
                r#"["file:/run/secrets/shop", "file:/run/secrets/shop", "file:/run/secrets/shop"]"#,
                "must be one, or 2",
            ),
        ] {
            let error = parse(&format!(r#"{{"secrets": {{"shop": {secrets}}}}}"#)).unwrap_err().to_string();
            assert!(error.contains("shop") && error.contains(part) && !error.contains("horse"), "{error}");
        }
    }

    fn permitted(policy: &str, service: &str, domains: &[&str]) -> Vec<bool> {
        let policy = parse(policy).unwrap();
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
            let error = parse(json).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
