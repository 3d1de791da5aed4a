//! The record of what the leader of replicas knows of a session beyond what it applied.
//!
//! A server that is alone writes no marks: nobody else has to know, and after a restart its sessions are all lost.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use registry_client::protocol::{BackendUrl, Domain, PathPrefix};
use serde::{Deserialize, Serialize};

use crate::server::registry::model::text;

use super::encoding::{milliseconds, texts, time};

/// What the leader of replicas knows of a session that another replica must know to serve it, or to lead.
///
/// A session without marks is connected, as far as the records say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionMarks {
    /// It is lost. A session that was lost for a moment only is never marked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostRecord>,
    /// It drains (SEMANTICS section 6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainRecord>,
    /// The backends whose members are suspended: somebody else came to their addresses while the session was lost
    /// (SEMANTICS section 4).
    #[serde(default, with = "texts", skip_serializing_if = "BTreeSet::is_empty")]
    pub suspended: BTreeSet<BackendUrl>,
    /// The address that it is bound from, where that is not the one of its last apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// Two sessions were connected from its address at once, since its last apply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared_address: bool,
    /// The claims in which another session serves in its place: the one that replaced it, or one of another service that
    /// took the claim over.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub superseded: BTreeSet<PlaceRecord>,
}

/// That a session is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LostRecord {
    /// Since when, in time that had a leader: a new leader moves it on by the time without one.
    #[serde(with = "time")]
    pub at: SystemTime,
    /// A leader that found the session lost has given it the least time that it gets under a new one. Further leaders
    /// give it no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_prolonged: bool,
}

/// A drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRecord {
    /// When it began.
    #[serde(with = "time")]
    pub at: SystemTime,
    /// How long it was asked to take, in ms.
    #[serde(rename = "asked_ms", with = "milliseconds")]
    pub asked: Duration,
    /// How long it takes, in ms: less than was asked for if it was over earlier.
    #[serde(rename = "time_ms", with = "milliseconds")]
    pub time: Duration,
}

/// A domain and a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceRecord {
    /// The domain.
    #[serde(with = "text")]
    pub domain: Domain,
    /// The path.
    #[serde(with = "text")]
    pub path: PathPrefix,
}

impl SessionMarks {
    /// Whether there is nothing to tell of the session: it is connected, and all of its members may serve.
    pub fn is_empty(&self) -> bool {
        *self == SessionMarks::default()
    }
}
