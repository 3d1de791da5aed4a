//! How values are written in a record: as the text that they have on the wire (`FromStr`, `Display`).
//!
//! Each module is for one `#[serde(with = …)]`. The form of a record is `persist`'s; what a value's text is, its type's.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use registry_client::protocol::{CircuitBreaker, GoDuration, OptionKey, RateLimit, RouteOption};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value as its own text.
pub(crate) mod text {
    use super::*;

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A value that may not be there as its own text.
pub(crate) mod text_or_none {
    use super::*;

    pub(crate) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// Options by their names on the wire.
pub(crate) mod options {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        options: &BTreeMap<OptionKey, RouteOption>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(options.values().map(|option| (option.key().as_str(), option.value_text())))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
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
pub(crate) mod texts {
    use super::*;

    pub(crate) fn serialize<K: Display, V: Display, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(map.iter().map(|(key, value)| (key.to_string(), value.to_string())))
    }

    pub(crate) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
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
pub(crate) mod limit {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Record {
        requests: u32,
        #[serde(with = "text")]
        window: GoDuration,
    }

    pub(crate) fn serialize<S: Serializer>(
        limit: &Option<RateLimit>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        limit.map(|RateLimit { requests, window }| Record { requests, window }).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<RateLimit>, D::Error> {
        let record = Option::<Record>::deserialize(deserializer)?;
        Ok(record.map(|Record { requests, window }| RateLimit { requests, window }))
    }
}

/// What CIRCUIT_BREAKER_SET says.
pub(crate) mod breaker {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Record {
        threshold: u32,
        #[serde(with = "text")]
        timeout: GoDuration,
        half_open_requests: u32,
    }

    pub(crate) fn serialize<S: Serializer>(
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

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
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
