//! The JSON bodies of replies. Readers take what is there: the reference server leaves fields out, and
//! later servers add some.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{RouteId, SECRET_KEYS};

/// SESSION_INFO's body. The last five fields are ours; a peer without `server` is treated as the reference
/// ([PROTOCOL section 7](crate::spec::protocol#7-extensions-of-ours)).
///
/// `Debug` shows it without the id and without the secrets that a reference server echoes in `metadata`.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionInfo {
    /// The session's id: a secret.
    pub session_id: String,
    /// The service.
    pub service_name: String,
    /// Which of its instances.
    pub instance_name: String,
    /// RFC 3339.
    pub connected_at: String,
    /// Whole seconds since then.
    #[serde(deserialize_with = "whole")]
    pub uptime_seconds: u64,
    /// How many routes are applied.
    #[serde(deserialize_with = "whole")]
    pub routes_active: u64,
    /// How many routes wait for an apply.
    #[serde(deserialize_with = "whole")]
    pub routes_staged: u64,
    /// RFC 3339.
    pub last_activity: String,
    /// RFC 3339; empty before the first apply.
    #[serde(deserialize_with = "text_or_null")]
    pub last_apply: String,
    /// REGISTER's metadata without its secrets.
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: Map<String, Value>,
    /// How many applies have succeeded; it survives restarts that keep the state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// `registry-server/<version>`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Servers that share their state share this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// How many other sessions of the service live that come from other addresses; nothing where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub siblings: Option<u64>,
    /// What the server understands beyond the reference.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list_or_null")]
    pub capabilities: Vec<String>,
}

impl SessionInfo {
    /// The same without what must not be shown.
    pub fn redacted(&self) -> SessionInfo {
        let mut shown = SessionInfo { session_id: "[redacted]".to_owned(), ..self.clone() };
        shown.metadata.retain(|key, _| !SECRET_KEYS.contains(&key.as_str()));
        shown
    }
}

impl fmt::Debug for SessionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionInfo {}", serde_json::to_string(&self.redacted()).map_err(|_| fmt::Error)?)
    }
}

/// One element of ROUTE_LIST's body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteEntry {
    /// The route.
    #[serde(with = "as_text")]
    pub route_id: RouteId,
    /// What it claims.
    #[serde(default, deserialize_with = "list_or_null")]
    pub domains: Vec<String>,
    /// The path prefix.
    #[serde(default)]
    pub path: String,
    /// Where its requests go.
    #[serde(default)]
    pub backend: String,
    /// Higher wins over a longer path.
    #[serde(default)]
    pub priority: i32,
    /// Whether it is in force.
    pub status: RouteStatus,
}

/// Whether a listed route is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteStatus {
    /// It is applied.
    Active,
    /// It waits for an apply.
    Staged,
    /// It is applied, and its removal waits for an apply.
    PendingRemoval,
}

/// CONFIG_DIFF's body: what an apply would change.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Diff {
    /// Routes.
    pub routes: RouteDiff,
    /// Response headers.
    pub headers: HeaderDiff,
    /// Options.
    pub options: Modified,
    /// Health checks.
    pub health: Modified,
    /// Rate limits.
    pub ratelimit: Modified,
    /// Circuit breakers.
    pub circuit: Modified,
}

/// The part of [`Diff`] about routes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteDiff {
    /// Routes that would become active.
    #[serde(deserialize_with = "ids_or_null")]
    pub added: IdsOrCount,
    /// Routes that would go.
    #[serde(deserialize_with = "ids_or_null")]
    pub removed: IdsOrCount,
    /// Active routes that would change.
    #[serde(deserialize_with = "ids_or_null")]
    pub modified: IdsOrCount,
}

/// Route ids as documented, or a plain count as recorded from the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IdsOrCount {
    /// The ids.
    Ids(Vec<String>),
    /// How many.
    Count(u64),
}

impl IdsOrCount {
    /// How many there are.
    pub fn count(&self) -> u64 {
        match self {
            IdsOrCount::Ids(ids) => ids.len() as u64,
            IdsOrCount::Count(count) => *count,
        }
    }
}

impl Default for IdsOrCount {
    fn default() -> Self {
        IdsOrCount::Ids(Vec::new())
    }
}

impl FromIterator<RouteId> for IdsOrCount {
    fn from_iter<I: IntoIterator<Item = RouteId>>(ids: I) -> Self {
        IdsOrCount::Ids(ids.into_iter().map(|id| id.to_string()).collect())
    }
}

/// The part of [`Diff`] about headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HeaderDiff {
    /// Headers that would be set or replaced.
    pub added: u64,
    /// Headers that would go.
    pub removed: u64,
}

/// How many settings of a kind would change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Modified {
    /// The number.
    pub modified: u64,
}

/// CIRCUIT_BREAKER_STATUS's body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CircuitStatus {
    /// Whether requests pass.
    pub state: CircuitState,
    /// Failures in a row.
    #[serde(default, deserialize_with = "whole")]
    pub failures: u64,
    /// Successes of trials.
    #[serde(default, deserialize_with = "whole")]
    pub successes: u64,
    /// RFC 3339; empty where there was none.
    #[serde(default, deserialize_with = "text_or_null")]
    pub last_failure: String,
    /// RFC 3339; empty unless it is open.
    #[serde(default, deserialize_with = "text_or_null")]
    pub next_attempt: String,
    /// What the backend's check says.
    #[serde(default)]
    pub healthy: bool,
    /// Whether it is in maintenance.
    #[serde(default)]
    pub in_maintenance: bool,
    /// Whether it is being drained.
    #[serde(default)]
    pub draining: bool,
}

/// A breaker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CircuitState {
    /// Requests pass.
    Closed,
    /// None passes.
    Open,
    /// A few pass, as trials.
    HalfOpen,
}

/// DRAIN_STATUS's body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// Until it is cancelled or the session ends.
    pub active: bool,
    /// RFC 3339.
    #[serde(default, deserialize_with = "text_or_null")]
    pub started_at: String,
    /// Seconds.
    #[serde(default)]
    pub duration_seconds: f64,
    /// Seconds.
    #[serde(default)]
    pub elapsed_seconds: f64,
    /// Seconds; 0 as soon as nothing is in flight.
    #[serde(default)]
    pub remaining_seconds: f64,
    /// The weight that is left, 0 to 100.
    #[serde(default)]
    pub traffic_percent: f64,
    /// Requests whose response is not over (ours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Upgraded connections, which are not waited for (ours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgraded: Option<u64>,
}

/// MAINT_STATUS's body.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MaintenanceStatus {
    /// The routes.
    #[serde(deserialize_with = "list_or_null")]
    pub in_maintenance: Vec<String>,
    /// The page's URL; empty for the proxy's own.
    #[serde(deserialize_with = "text_or_null")]
    pub maintenance_backend: String,
    /// RFC 3339; empty where nothing is in maintenance.
    #[serde(deserialize_with = "text_or_null")]
    pub entered_at: String,
}

/// STATS_GET's body for one route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// The route.
    #[serde(with = "as_text")]
    pub route_id: RouteId,
    /// Requests.
    #[serde(default, deserialize_with = "whole")]
    pub requests: u64,
    /// Those answered with 500 or above, or broken off.
    #[serde(default, deserialize_with = "whole")]
    pub errors: u64,
    /// Milliseconds.
    #[serde(default)]
    pub avg_latency_ms: f64,
    /// Milliseconds.
    #[serde(default)]
    pub p95_latency_ms: f64,
    /// Milliseconds.
    #[serde(default)]
    pub p99_latency_ms: f64,
    /// Bytes of response bodies.
    #[serde(default, deserialize_with = "whole")]
    pub bytes_sent: u64,
    /// Bytes of request bodies.
    #[serde(default, deserialize_with = "whole")]
    pub bytes_received: u64,
    /// How many responses had which status.
    #[serde(default, deserialize_with = "object_or_null")]
    pub status_codes: Map<String, Value>,
}

/// BACKEND_TEST's body where it answered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BackendReport {
    /// Whether it answered at all.
    pub reachable: bool,
    /// Milliseconds.
    #[serde(default)]
    pub response_time_ms: f64,
    /// The HTTP status.
    #[serde(default)]
    pub status_code: u16,
    /// Whether its certificate is good; false for plain text.
    #[serde(default)]
    pub tls_valid: bool,
}

/// Route ids stand in JSON as their text.
mod as_text {
    use super::*;

    pub(super) fn serialize<S: serde::Serializer>(id: &RouteId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<RouteId, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A count that some peers write with a fraction.
fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(from)?;
    Ok(number.as_u64().unwrap_or_else(|| number.as_f64().unwrap_or_default().max(0.0) as u64))
}

/// Go writes null for what is absent.
fn text_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(from).map(Option::unwrap_or_default)
}

/// Go writes null for a nil map.
fn object_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<Map<String, Value>, D::Error> {
    Option::<Map<String, Value>>::deserialize(from).map(Option::unwrap_or_default)
}

/// Go writes null for a nil slice.
fn list_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(from).map(Option::unwrap_or_default)
}

/// Go writes null for a nil slice.
fn ids_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<IdsOrCount, D::Error> {
    Option::<IdsOrCount>::deserialize(from).map(Option::unwrap_or_default)
}
