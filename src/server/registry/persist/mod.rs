//! The records in which sessions outlive the server.
//!
//! A record is JSON with a name for each part, in a state file and in an export alike. Values are written as the text
//! that they have on the wire (`FromStr`, `Display`), so that a record does not change when a type does. The rules for
//! changes:
//!
//! - A new part has `#[serde(default, skip_serializing_if = …)]`: older records lack it.
//! - A part that this version does not know is refused, because a server that dropped it would lose it. So an
//!   older server reads what a newer one wrote until somebody uses what only the newer one has.
//! - A part that changes its meaning gets another name, or [`FORMAT`] grows.
//!
//! A route's settings are the fields of [`RouteSettings`](super::RouteSettings), whose attributes say how they are
//! written.

mod change;
mod encoding;
mod maintenance;
mod marks;
mod route;
mod session;

use std::collections::BTreeMap;
use std::time::SystemTime;

use registry_client::protocol::RouteId;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Serialize};

pub use crate::server::registry::model::IdHash;
pub use change::{EndReason, StoreChange};
pub use maintenance::{EnteredRecord, MaintenanceRecord, PageRecord};
pub use marks::{DrainRecord, LostRecord, PlaceRecord, SessionMarks};
pub use route::RouteRecord;
pub use session::{Replaced, SessionRecord};

use encoding::{by_route, time_or_none};

/// The version of the records as a whole. A store refuses a higher one.
///
/// | format | what it added |
/// |---|---|
/// | 2 | maintenance, in a table of its own that a server of format 1 would not see |
pub const FORMAT: u32 = 2;

/// Everything that a store holds and that survives a restart (SEMANTICS section 7). [`SavedState::apply`] says what a
/// [`StoreChange`] does to it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedState {
    /// The boot in which the server ran last. Empty: not known.
    pub boot_id: String,
    /// When the server was last alive; `None`: not known.
    #[serde(with = "time_or_none")]
    pub alive_at: Option<SystemTime>,
    /// The id of the state, which servers that share it share. Empty: none was chosen yet.
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
    /// What the leader of replicas knows of it besides. A state file has none.
    #[serde(default, skip_serializing_if = "SessionMarks::is_empty")]
    pub marks: SessionMarks,
    /// Its routes in force.
    #[serde(with = "by_route")]
    pub routes: BTreeMap<RouteId, RouteRecord>,
}
