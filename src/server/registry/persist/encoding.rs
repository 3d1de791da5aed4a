//! How records write what only records have: lists of domains, maps by route, and times.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use registry_client::protocol::{Domain, Domains, RouteId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::server::registry::model::{text, text_or_none};

use super::*;

/// Domains as a list of texts.
pub(super) mod domains {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(domains: &Domains, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(domains.as_slice().iter().map(Domain::as_str))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Domains, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let domains = texts.iter().map(|text| text.parse()).collect::<Result<Vec<Domain>, _>>();
        let none = || D::Error::custom("a route without domains");
        Domains::new(domains.map_err(D::Error::custom)?).ok_or_else(none)
    }
}

/// A map by route. The keys are the ids as they are on the wire.
pub(super) mod by_route {
    use super::*;

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        all: &BTreeMap<RouteId, T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(all.iter().map(|(id, one)| (id.to_string(), one)))
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<BTreeMap<RouteId, T>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let all = BTreeMap::<String, T>::deserialize(deserializer)?;
        let one = |(id, one): (String, T)| Ok((id.parse().map_err(D::Error::custom)?, one));
        all.into_iter().map(one).collect()
    }
}

/// A set as a list of the texts of its values.
pub(super) mod texts {
    use super::*;

    pub(crate) fn serialize<T: Display, S: Serializer>(
        values: &BTreeSet<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(ToString::to_string))
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<BTreeSet<T>, D::Error>
    where
        T: FromStr<Err: Display> + Ord,
        D: Deserializer<'de>,
    {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.into_iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

/// A duration as a number of milliseconds.
pub(super) mod milliseconds {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// A time in the form of RFC 3339.
pub(super) mod time {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let time = jiff::Timestamp::try_from(*time).map_err(S::Error::custom)?;
        serializer.collect_str(&time)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        text::deserialize::<jiff::Timestamp, D>(deserializer).map(SystemTime::from)
    }
}

/// A time that may be unknown, in the form of RFC 3339.
pub(super) mod time_or_none {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let time = time.map(jiff::Timestamp::try_from).transpose().map_err(S::Error::custom)?;
        text_or_none::serialize(&time, serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        let time = text_or_none::deserialize::<jiff::Timestamp, D>(deserializer)?;
        Ok(time.map(SystemTime::from))
    }
}
