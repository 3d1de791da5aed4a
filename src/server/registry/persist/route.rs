//! The record of a route as it was applied.

use registry_client::protocol::{BackendUrl, Domains, PathPrefix, RouteSpec};
use serde::{Deserialize, Serialize};

use crate::server::registry::model::text;
use crate::server::registry::model::{Route, RouteSettings};

use super::encoding::domains;

/// A route as it was applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRecord {
    /// The domains that it claims.
    #[serde(with = "domains")]
    pub domains: Domains,
    /// The path that it claims.
    #[serde(with = "text")]
    pub path: PathPrefix,
    /// Where its requests go.
    #[serde(with = "text")]
    pub backend: BackendUrl,
    /// Higher wins over a longer path.
    pub priority: i32,
    /// Its own settings.
    #[serde(default, skip_serializing_if = "RouteSettings::is_empty")]
    pub settings: RouteSettings,
    /// The number of the apply that made it as it is.
    pub applied: u64,
}

impl RouteRecord {
    /// The record of a route that was made as it is by the apply of this number.
    pub fn new(route: &Route, applied: u64) -> Self {
        let Route { spec, settings } = route;
        let RouteSpec { domains, path, backend, priority } = spec.clone();
        RouteRecord { domains, path, backend, priority, settings: RouteSettings::clone(settings), applied }
    }
}

impl From<RouteRecord> for Route {
    fn from(record: RouteRecord) -> Self {
        let RouteRecord { domains, path, backend, priority, settings, applied: _ } = record;
        Route { spec: RouteSpec { domains, path, backend, priority }, settings: settings.into() }
    }
}
