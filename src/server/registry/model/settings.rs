//! The settings of a route, or a session's defaults for all of its routes.

use std::collections::BTreeMap;
use std::ops::Deref;

use super::encoding;
use registry_client::protocol::{
    CircuitBreaker, HeaderName, HeaderValue, HealthPath, OptionKey, RateLimit, RouteId, RouteOption,
};
use serde::{Deserialize, Serialize};

/// Settings of one route, or a session's defaults for all of them. What is not there is not set. Each field
/// says how it is written down (`persist`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cells {
    /// OPTIONS_SET, and the interval and time-out of HEALTH_SET: the last writer of a cell wins.
    #[serde(with = "encoding::options", skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<OptionKey, RouteOption>,
    /// The path of HEALTH_SET.
    #[serde(with = "encoding::text_or_none", skip_serializing_if = "Option::is_none")]
    pub health_path: Option<HealthPath>,
    /// HEADERS_SET. The names are in lower case, so that one header has one cell.
    #[serde(with = "encoding::texts", skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<HeaderName, HeaderValue>,
    /// RATELIMIT_SET. Zero requests: no limit, whatever the session's default says.
    #[serde(with = "encoding::limit", skip_serializing_if = "Option::is_none")]
    pub limit: Option<RateLimit>,
    /// CIRCUIT_BREAKER_SET. A threshold of zero: no breaker, whatever the session's default says.
    #[serde(with = "encoding::breaker", skip_serializing_if = "Option::is_none")]
    pub breaker: Option<CircuitBreaker>,
}

static NO_CELLS: Cells = Cells {
    options: BTreeMap::new(),
    health_path: None,
    headers: BTreeMap::new(),
    limit: None,
    breaker: None,
};

impl Cells {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == NO_CELLS
    }
}

/// A route's own settings. Most routes have none, and those take a word.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OwnCells(Option<Box<Cells>>);

impl From<Cells> for OwnCells {
    fn from(cells: Cells) -> Self {
        OwnCells((!cells.is_empty()).then(|| Box::new(cells)))
    }
}

impl OwnCells {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Deref for OwnCells {
    type Target = Cells;

    fn deref(&self) -> &Cells {
        self.0.as_deref().unwrap_or(&NO_CELLS)
    }
}

/// Whose settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slot {
    /// The session's defaults.
    All,
    Route(RouteId),
}

/// The breaker that is in force.
pub(crate) fn breaker(own: &Cells, defaults: &Cells) -> Option<CircuitBreaker> {
    own.breaker.or(defaults.breaker).filter(|breaker| breaker.threshold > 0)
}
