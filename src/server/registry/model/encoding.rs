//! How records write values: as the text that they have on the wire (`FromStr`, `Display`).
//!
//! Each module is for one `#[serde(with = …)]`. The room `persist` decides which parts a record has.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use registry_client::protocol::{CircuitBreaker, GoDuration, OptionKey, RateLimit, RouteOption};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value as its text.
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

/// An optional value as its text.
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

/// Options, by their names on the wire.
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

/// A map whose keys and values are written as their texts.
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

/// A rate limit, as RATELIMIT_SET gives it.
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

/// A circuit breaker, as CIRCUIT_BREAKER_SET gives it.
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
