//! The values in etcd: JSON with a name for each part, after the rules of [`persist`](crate::server::registry::persist).
//! Pure.

use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::server::registry::persist::{RouteRecord, SessionRecord};
use crate::server::registry::{EndReason, SessionNo};

use super::layout::{PartsId, parts_id};

/// The version of keys and values as a whole. A replica that finds a higher one neither serves it nor writes to it.
pub(super) const FORMAT: u32 = 1;

/// What the replicas of one cluster have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClusterValue {
    pub(super) format: u32,
    /// The version that wrote it, for people.
    #[serde(default)]
    pub(super) server: String,
    pub(super) cluster_id: String,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaderValue {
    pub(super) replica: String,
    /// Where the leader takes the connections of other replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) relay: Option<String>,
}

/// A session without its routes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionValue {
    pub(super) session: SessionRecord,
    /// The number of its last apply.
    pub(super) applied: u64,
    /// The parts that have the routes which it had at that commit; the keys of single routes are newer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parts: Option<PartsPointer>,
}

/// Which parts a session's routes are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PartsPointer {
    #[serde(serialize_with = "write_id", deserialize_with = "read_id")]
    pub(super) id: PartsId,
    /// How many parts there are.
    pub(super) count: u32,
}

/// Many routes, with the numbers of their ids.
pub(super) type PartValue = Vec<(u32, RouteRecord)>;

/// What a commit changed, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CommitValue {
    pub(super) changes: Vec<Step>,
}

/// What one change is about. What it changed is in the other keys that the same commit wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Step {
    Applied(u64),
    Maintenance(Vec<u64>),
    Marked(Vec<u64>),
    Ended(u64, EndReason),
}

/// That a server is alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BootValue {
    #[serde(with = "time")]
    pub(super) alive_at: SystemTime,
}

impl Step {
    /// The sessions that it is about.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionNo> {
        let all = match self {
            Step::Applied(no) | Step::Ended(no, _) => std::slice::from_ref(no),
            Step::Maintenance(all) | Step::Marked(all) => all.as_slice(),
        };
        all.iter().copied().map(SessionNo)
    }
}

/// The JSON of a value. It has only numbers, texts and maps with texts as keys, so this cannot fail.
pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// A value, or why this version cannot read it.
pub(super) fn decode<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

fn write_id<S: Serializer>(id: &PartsId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn read_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PartsId, D::Error> {
    let text = String::deserialize(deserializer)?;
    parts_id(&text).ok_or_else(|| serde::de::Error::custom("no id of parts"))
}

/// A time in the form of RFC 3339.
mod time {
    use super::{Deserialize, Deserializer, Serializer, SystemTime};
    use serde::de::Error as _;
    use serde::ser::Error as _;

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let time = jiff::Timestamp::try_from(*time).map_err(S::Error::custom)?;
        serializer.collect_str(&time)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse::<jiff::Timestamp>().map(SystemTime::from).map_err(D::Error::custom)
    }
}
