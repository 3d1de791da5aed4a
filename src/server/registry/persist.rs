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

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::IpAddr;
use std::str::FromStr;
use std::time::SystemTime;

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::protocol::{
    BackendUrl, CircuitBreaker, Domain, Domains, GoDuration, InstanceName, Metadata, OptionKey, PathPrefix,
    RateLimit, Registration, RouteId, RouteOption, RouteSpec, ServiceName, SessionId,
};

use super::route::{Cells, Route};
use super::token::ServiceToken;

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

/// A session without its routes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionRecord {
    /// Its running number.
    pub no: u64,
    /// Its id, which the store never sees.
    pub id_sha256: IdHash,
    /// Its service.
    #[serde(with = "text")]
    pub service: ServiceName,
    /// Which of its instances.
    #[serde(with = "text")]
    pub instance: InstanceName,
    /// Where it serves a maintenance page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance_port: Option<u16>,
    /// Anything else that it said about itself, without secrets.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// What must be given by those who join its service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_token_hash: Option<ServiceToken>,
    /// From where it was registered.
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
    #[serde(default, skip_serializing_if = "Cells::is_empty")]
    pub defaults: Cells,
    /// Which apply of all set `defaults`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub defaults_applied: u64,
    /// Whom it replaced, oldest first: their clients are still told so (PROTOCOL section 2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<Replaced>,
}

/// A session whose place another one took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replaced {
    /// Its running number.
    pub no: u64,
    /// Its id.
    pub id_sha256: IdHash,
}

/// A route as it was applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRecord {
    /// What it claims.
    #[serde(with = "domains")]
    pub domains: Domains,
    /// What it claims.
    #[serde(with = "text")]
    pub path: PathPrefix,
    /// Where its requests go.
    #[serde(with = "text")]
    pub backend: BackendUrl,
    /// Higher wins over a longer path.
    pub priority: i32,
    /// Its own settings.
    #[serde(default, skip_serializing_if = "Cells::is_empty")]
    pub settings: Cells,
    /// Which apply of all made it as it is.
    pub applied: u64,
}

/// The SHA-256 of a session's id.
///
/// Without salt and stretching, which protect what can be guessed: an id ends in 128 bits from the system's
/// random source, so that there is no list to try and no table to make.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdHash([u8; 32]);

impl IdHash {
    /// The hash of an id.
    pub fn of(id: &SessionId) -> Self {
        IdHash(Sha256::digest(id.reveal().as_bytes()).into())
    }

    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        IdHash(bytes)
    }

    pub(super) fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

impl RouteRecord {
    /// The record of a route that was made as it is by the apply of this number.
    pub fn new(route: &Route, applied: u64) -> Self {
        let Route { spec, cells } = route;
        let RouteSpec { domains, path, backend, priority } = spec.clone();
        RouteRecord { domains, path, backend, priority, settings: Cells::clone(cells), applied }
    }
}

impl From<RouteRecord> for Route {
    fn from(record: RouteRecord) -> Self {
        let RouteRecord { domains, path, backend, priority, settings, applied: _ } = record;
        Route { spec: RouteSpec { domains, path, backend, priority }, cells: settings.into() }
    }
}

impl SessionRecord {
    pub(super) fn registration(&self) -> Registration {
        Registration {
            service: self.service.clone(),
            instance: self.instance.clone(),
            maintenance_port: self.maintenance_port,
            metadata: Metadata::new(self.metadata.clone()),
        }
    }
}

impl Display for IdHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for IdHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl FromStr for IdHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "it is no SHA-256 of 64 hexadecimal digits";
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(WRONG);
        }
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| WRONG)?;
        }
        Ok(IdHash(hash))
    }
}

impl Serialize for IdHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IdHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
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

/// A value as its own text.
pub(super) mod text {
    use super::*;

    pub(in super::super) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(in super::super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A value that may not be there as its own text.
pub(super) mod text_or_none {
    use super::*;

    pub(in super::super) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// Options by their names on the wire.
pub(super) mod options {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        options: &BTreeMap<OptionKey, RouteOption>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(options.values().map(|option| (option.key().as_str(), option.value_text())))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<OptionKey, RouteOption>, D::Error> {
        let texts = BTreeMap::<String, String>::deserialize(deserializer)?;
        let option = |(key, value): (String, String)| {
            let key = key.parse().map_err(D::Error::custom)?;
            Ok((key, RouteOption::parse(key, &value).map_err(D::Error::custom)?))
        };
        texts.into_iter().map(option).collect()
    }
}

/// A map of values that are their own texts.
pub(super) mod texts {
    use super::*;

    pub(in super::super) fn serialize<K: Display, V: Display, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(map.iter().map(|(key, value)| (key.to_string(), value.to_string())))
    }

    pub(in super::super) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: FromStr<Err: Display> + Ord,
        V: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let texts = BTreeMap::<String, String>::deserialize(deserializer)?;
        let entry = |(key, value): (String, String)| {
            Ok((key.parse().map_err(D::Error::custom)?, value.parse().map_err(D::Error::custom)?))
        };
        texts.into_iter().map(entry).collect()
    }
}

/// What RATELIMIT_SET says.
pub(super) mod limit {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Record {
        requests: u32,
        #[serde(with = "text")]
        window: GoDuration,
    }

    pub(in super::super) fn serialize<S: Serializer>(
        limit: &Option<RateLimit>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        limit.map(|RateLimit { requests, window }| Record { requests, window }).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<RateLimit>, D::Error> {
        let record = Option::<Record>::deserialize(deserializer)?;
        Ok(record.map(|Record { requests, window }| RateLimit { requests, window }))
    }
}

/// What CIRCUIT_BREAKER_SET says.
pub(super) mod breaker {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Record {
        threshold: u32,
        #[serde(with = "text")]
        timeout: GoDuration,
        half_open_requests: u32,
    }

    pub(in super::super) fn serialize<S: Serializer>(
        breaker: &Option<CircuitBreaker>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let record = |CircuitBreaker { threshold, timeout, half_open_requests }| Record {
            threshold,
            timeout,
            half_open_requests,
        };
        breaker.map(record).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<CircuitBreaker>, D::Error> {
        let breaker = |Record { threshold, timeout, half_open_requests }| CircuitBreaker {
            threshold,
            timeout,
            half_open_requests,
        };
        Ok(Option::<Record>::deserialize(deserializer)?.map(breaker))
    }
}

/// Domains as a list of texts.
mod domains {
    use super::*;

    pub(super) fn serialize<S: Serializer>(domains: &Domains, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(domains.as_slice().iter().map(Domain::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Domains, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let domains = texts.iter().map(|text| text.parse()).collect::<Result<Vec<Domain>, _>>();
        let none = || D::Error::custom("a route without domains");
        Domains::new(domains.map_err(D::Error::custom)?).ok_or_else(none)
    }
}

/// Something for each route, by the routes' ids on the wire.
mod by_route {
    use super::*;

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        all: &BTreeMap<RouteId, T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(all.iter().map(|(id, one)| (id.to_string(), one)))
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<BTreeMap<RouteId, T>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let all = BTreeMap::<String, T>::deserialize(deserializer)?;
        let one = |(id, one): (String, T)| Ok((id.parse().map_err(D::Error::custom)?, one));
        all.into_iter().map(one).collect()
    }
}

/// A time as RFC 3339 writes it.
mod time {
    use super::*;

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let time = jiff::Timestamp::try_from(*time).map_err(S::Error::custom)?;
        serializer.collect_str(&time)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        text::deserialize::<jiff::Timestamp, D>(deserializer).map(SystemTime::from)
    }
}

/// The same where it may be unknown.
mod time_or_none {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let time = time.map(jiff::Timestamp::try_from).transpose().map_err(S::Error::custom)?;
        text_or_none::serialize(&time, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        let time = text_or_none::deserialize::<jiff::Timestamp, D>(deserializer)?;
        Ok(time.map(SystemTime::from))
    }
}
