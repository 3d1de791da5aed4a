//! The record of a session's maintenance (SEMANTICS section 5).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use registry_client::protocol::{BackendUrl, RouteId};
use serde::{Deserialize, Serialize};

use crate::server::registry::model::text;

use super::encoding::{by_route, time};

/// A session's maintenance (SEMANTICS section 5).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceRecord {
    /// The maintenance of all of its routes, later ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<EnteredRecord>,
    /// Routes for which something else holds than for all; `None`: the route is not in maintenance.
    #[serde(default, with = "by_route", skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<RouteId, Option<EnteredRecord>>,
}

/// A maintenance that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnteredRecord {
    /// When it was entered.
    #[serde(with = "time")]
    pub at: SystemTime,
    /// The page that people see; `None`: the proxy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<PageRecord>,
    /// The number of the session that entered it, if it is another one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<u64>,
}

/// A page that people see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageRecord {
    /// The backend that serves it.
    #[serde(with = "text")]
    pub url: BackendUrl,
    /// The address of the session that entered the maintenance. It decides what may be reached.
    pub peer: IpAddr,
}

impl MaintenanceRecord {
    /// Whether no route is in maintenance or exempt from it.
    pub fn is_empty(&self) -> bool {
        *self == MaintenanceRecord::default()
    }
}
