//! The settings of a route, or a session's defaults for all of its routes.

use std::collections::BTreeMap;
use std::ops::Deref;

use registry_client::protocol::{
    CircuitBreaker, HeaderName, HeaderValue, HealthPath, OptionKey, RateLimit, RouteOption,
};
use serde::{Deserialize, Serialize};

use super::encoding;

/// The settings of one route, or a session's defaults for all of its routes. The attribute of a field says how a record
/// writes it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteSettings {
    /// OPTIONS_SET, and the interval and time-out of HEALTH_SET, which are options too.
    #[serde(with = "encoding::options", skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<OptionKey, RouteOption>,
    /// The path of HEALTH_SET.
    #[serde(with = "encoding::text_or_none", skip_serializing_if = "Option::is_none")]
    pub health_path: Option<HealthPath>,
    /// HEADERS_SET. The names are in lower case, so that each header is there once.
    #[serde(with = "encoding::texts", skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<HeaderName, HeaderValue>,
    /// RATELIMIT_SET. Zero requests: no limit, whatever the session's default says.
    #[serde(with = "encoding::limit", skip_serializing_if = "Option::is_none")]
    pub limit: Option<RateLimit>,
    /// CIRCUIT_BREAKER_SET. A threshold of zero: no breaker, whatever the session's default says.
    #[serde(with = "encoding::breaker", skip_serializing_if = "Option::is_none")]
    pub breaker: Option<CircuitBreaker>,
}

static NO_SETTINGS: RouteSettings = RouteSettings {
    options: BTreeMap::new(),
    health_path: None,
    headers: BTreeMap::new(),
    limit: None,
    breaker: None,
};

impl RouteSettings {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == NO_SETTINGS
    }
}

/// A route's own settings. Most routes have none, and then this takes one word.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CompactSettings(Option<Box<RouteSettings>>);

impl From<RouteSettings> for CompactSettings {
    fn from(settings: RouteSettings) -> Self {
        CompactSettings((!settings.is_empty()).then(|| Box::new(settings)))
    }
}

impl CompactSettings {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Deref for CompactSettings {
    type Target = RouteSettings;

    fn deref(&self) -> &RouteSettings {
        self.0.as_deref().unwrap_or(&NO_SETTINGS)
    }
}

/// The breaker that is in force.
pub(crate) fn breaker(own: &RouteSettings, defaults: &RouteSettings) -> Option<CircuitBreaker> {
    own.breaker.or(defaults.breaker).filter(|breaker| breaker.threshold > 0)
}
