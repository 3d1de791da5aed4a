//! The record of a session's maintenance (SEMANTICS section 5).

use super::encoding::{by_route, time};
use crate::server::registry::model::text;
use registry_client::protocol::{BackendUrl, RouteId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

/// A session's maintenance (SEMANTICS section 5).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceRecord {
    /// Of all of its routes, those that it adds later too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<EnteredRecord>,
    /// Of routes for which something else holds; `None`: they are in none.
    #[serde(default, with = "by_route", skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<RouteId, Option<EnteredRecord>>,
}

/// A maintenance that was entered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnteredRecord {
    /// When.
    #[serde(with = "time")]
    pub at: SystemTime,
    /// Where people get a page; `None`: the proxy has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<PageRecord>,
}

/// Where people get a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageRecord {
    /// Its address.
    #[serde(with = "text")]
    pub url: BackendUrl,
    /// From where it was asked for, on which depends whether it may be reached.
    pub peer: IpAddr,
}

impl MaintenanceRecord {
    /// Whether nothing is in maintenance, nor exempt from it.
    pub fn is_empty(&self) -> bool {
        *self == MaintenanceRecord::default()
    }
}
