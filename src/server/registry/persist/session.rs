//! The record of a session without its routes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use registry_client::protocol::{InstanceName, Metadata, Registration, ServiceName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::server::registry::model::text;
use crate::server::registry::model::{IdHash, RouteSettings, ServiceToken};

use super::encoding::time;

/// A session without its routes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionRecord {
    /// Its running number.
    pub no: u64,
    /// The hash of its id. The store never sees the id.
    pub id_sha256: IdHash,
    /// Its service.
    #[serde(with = "text")]
    pub service: ServiceName,
    /// The instance that registered it.
    #[serde(with = "text")]
    pub instance: InstanceName,
    /// The port at which the instance serves a maintenance page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance_port: Option<u16>,
    /// Its other metadata, without secrets.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// The token that others must give to join its service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_token_hash: Option<ServiceToken>,
    /// The address that it is bound from, or was last.
    pub peer: IpAddr,
    /// Whether two sessions were connected from there at once (SEMANTICS section 4).
    #[serde(default, skip_serializing_if = "is_false")]
    pub shared_address: bool,
    /// How many of its applies have succeeded.
    pub revision: u64,
    /// How many route ids were given out.
    pub last_route: u32,
    /// When it was registered.
    #[serde(with = "time")]
    pub connected_at: SystemTime,
    /// When it applied last.
    #[serde(with = "time")]
    pub last_apply: SystemTime,
    /// Settings for all of its routes.
    #[serde(default, skip_serializing_if = "RouteSettings::is_empty")]
    pub defaults: RouteSettings,
    /// The number of the apply that set `defaults`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub defaults_applied: u64,
    /// The sessions that it replaced, oldest first. Their clients are still told so (PROTOCOL section 2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<Replaced>,
    /// For each address at which it has met other sessions with backends that answer, the number of the oldest of them. Those
    /// with the same number are kin there (SEMANTICS section 4).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kin: BTreeMap<IpAddr, u64>,
}

/// A session that another one replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replaced {
    /// Its running number.
    pub no: u64,
    /// The hash of its id.
    pub id_sha256: IdHash,
}

impl SessionRecord {
    pub(crate) fn registration(&self) -> Registration {
        Registration {
            service: self.service.clone(),
            instance: self.instance.clone(),
            maintenance_port: self.maintenance_port,
            metadata: Metadata::new(self.metadata.clone()),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}
