//! The form in which sessions outlive the server: records of what is applied, and how they are written.
//!
//! A record is JSON with a name for each part, in the file of a store and in an export alike. What a part's
//! type says by its text (`FromStr`, `Display`) is written as that text, so that the form does not move when
//! a type does. The rules by which it may change:
//!
//! - A new part has `#[serde(default, skip_serializing_if = …)]`: older records lack it.
//! - A part that this version does not know is refused, because a server that dropped it would lose it. So an
//!   older server reads what a newer one wrote until somebody uses what only the newer one has.
//! - A part that changes its meaning gets another name, or [`FORMAT`] grows.
//!
//! A setting of a route is a field of [`Cells`] and is persisted by the attribute that stands there.

use registry_client::protocol::RouteId;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::SystemTime;

mod encoding;
mod maintenance;
mod route;
mod session;

pub use maintenance::{EnteredRecord, MaintenanceRecord, PageRecord};
pub use route::RouteRecord;
pub use session::{Replaced, SessionRecord};

pub use crate::server::registry::model::IdHash;

use encoding::{by_route, time_or_none};

/// The version of the form as a whole. A store refuses one that is higher.
///
/// | format | since then |
/// |---|---|
/// | 2 | maintenance is held, in a table of its own that a server of format 1 would not see |
pub const FORMAT: u32 = 2;

/// What a store holds: everything that survives a restart (SEMANTICS section 7).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Which boot of which machine the server last ran in. Empty: not known.
    pub boot_id: String,
    /// When the server was last known to be alive; `None`: not known.
    #[serde(with = "time_or_none")]
    pub alive_at: Option<SystemTime>,
    /// What servers that share their state share. Empty: none was chosen yet.
    pub cluster_id: String,
    /// Every session that has applied something, in the order of their numbers.
    pub sessions: Vec<SavedSession>,
}

/// A session with its routes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSession {
    /// The session.
    pub session: SessionRecord,
    /// Its maintenance.
    #[serde(default, skip_serializing_if = "MaintenanceRecord::is_empty")]
    pub maintenance: MaintenanceRecord,
    /// What it has applied.
    #[serde(with = "by_route")]
    pub routes: BTreeMap<RouteId, RouteRecord>,
}
