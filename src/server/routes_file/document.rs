//! The text of ROUTES_FILE: YAML with a list of routes. Pure. Every mistake has its line and column.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use registry_client::protocol::{
    BackendUrl, Domain, Domains, GoDuration, HeaderName, HeaderValue, HealthCheck, HealthPath, OptionKey,
    PathPrefix, RouteOption, ServiceName,
};
use registry_client::{Route, Routes};
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::environment::values;

/// The routes of each service.
pub(super) type Services = BTreeMap<ServiceName, Routes>;

/// Reads the text.
///
/// # Errors
/// What is wrong, with line and column.
pub(super) fn parse(text: &str) -> Result<Services, String> {
    let document: Document = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let mut services = Services::new();
    for (number, Entry { service, routes }) in document.routes.into_iter().enumerate() {
        let of_service = services.entry(service).or_default();
        for (at, route) in routes.into_iter().enumerate() {
            let part = if at > 0 { format!(", backend {}", at + 1) } else { String::new() };
            of_service.insert(format!("{} of ROUTES_FILE{part}", number + 1).into(), route);
        }
    }
    Ok(services)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    routes: Vec<Entry>,
}

/// One entry: a route for each of its backends.
struct Entry {
    service: ServiceName,
    routes: Vec<Route>,
}

/// What an entry says.
#[derive(Default)]
struct Draft {
    service: Option<ServiceName>,
    domains: Option<Domains>,
    path: Option<PathPrefix>,
    backends: Vec<BackendUrl>,
    settings: Settings,
}

/// The settings of a route.
#[derive(Default)]
struct Settings(Vec<Box<dyn FnOnce(Route) -> Route>>);

impl Settings {
    fn add(&mut self, change: impl FnOnce(Route) -> Route + 'static) {
        self.0.push(Box::new(change));
    }
}

/// The keys of an entry that are no options.
const KEYS: [&str; 11] = [
    "service",
    "domains",
    "path",
    "backend",
    "priority",
    "health",
    "headers",
    "rate_limit",
    "circuit_breaker",
    "basic_auth",
    "forward_auth",
];

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a route with service, domains and backend")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let mut draft = Draft::default();
        while let Some(key) = map.next_key::<Key>()? {
            draft.set(&key, &mut map)?;
        }
        let missing = |name: &str| A::Error::custom(format!("the route has no {name}"));
        let service = draft.service.ok_or_else(|| missing("service"))?;
        let domains = draft.domains.ok_or_else(|| missing("domains"))?;
        if draft.backends.is_empty() {
            return Err(missing("backend"));
        }
        let path = draft.path.unwrap_or_else(PathPrefix::root);
        let Some(first) = draft.backends.first() else { return Err(missing("backend")) };
        let route = Route::new(domains, path, first.clone());
        let route = draft.settings.0.into_iter().fold(route, |route, change| change(route));
        let of_backend = |backend: BackendUrl| {
            let mut route = route.clone();
            route.backend = backend;
            route
        };
        Ok(Entry { service, routes: draft.backends.into_iter().map(of_backend).collect() })
    }
}

/// A key of an entry, which stands in it once.
enum Key {
    Known(&'static str),
    Option(OptionKey),
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if let Some(known) = KEYS.iter().find(|known| **known == text) {
            return Ok(Key::Known(known));
        }
        let is_option =
            |key: &OptionKey| !key.is_health() && !matches!(key, OptionKey::Auth | OptionKey::Http3);
        if let Some(option) = text.parse::<OptionKey>().ok().filter(is_option) {
            return Ok(Key::Option(option));
        }
        let options = OptionKey::ALL.into_iter().filter(is_option).map(OptionKey::as_str);
        let known: Vec<&str> = KEYS.into_iter().chain(options).collect();
        Err(D::Error::custom(format!("unknown key {text:?}; there are {}", known.join(", "))))
    }
}

impl Draft {
    fn set<'de, A: MapAccess<'de>>(&mut self, key: &Key, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::Option(key) => {
                let option = map.next_value_seed(OptionSeed(*key))?;
                self.settings.add(|route| route.with_option(option));
            }
            Key::Known("service") => self.service = Some(map.next_value::<Parsed<ServiceName>>()?.0),
            Key::Known("domains") => self.domains = Some(map.next_value::<DomainList>()?.0),
            Key::Known("path") => self.path = Some(map.next_value::<Parsed<PathPrefix>>()?.0),
            Key::Known("backend") => self.backends = map.next_value::<OneOrMany<BackendUrl>>()?.0,
            Key::Known("priority") => {
                let priority: i32 = map.next_value()?;
                self.settings.add(move |route| route.with_priority(priority));
            }
            Key::Known("health") => {
                let Health { check, options } = map.next_value()?;
                self.settings.add(move |mut route| {
                    options.into_iter().for_each(|option| route.options.set(option));
                    route.health = check;
                    route
                });
            }
            Key::Known("headers") => {
                let headers: BTreeMap<Parsed<HeaderName>, Parsed<HeaderValue>> = map.next_value()?;
                self.settings.add(|mut route| {
                    headers.into_iter().for_each(|(name, value)| route.headers.set(name.0, value.0));
                    route
                });
            }
            Key::Known("rate_limit") => {
                let limit = map.next_value_seed(With(values::rate_limit))?;
                self.settings.add(move |route| route.with_rate_limit(limit));
            }
            Key::Known("circuit_breaker") => {
                let breaker = map.next_value_seed(With(values::circuit_breaker))?;
                self.settings.add(move |route| route.with_circuit_breaker(breaker));
            }
            Key::Known("basic_auth") => {
                let option = map.next_value_seed(With(values::basic_auth))?;
                self.settings.add(|route| route.with_option(option));
            }
            Key::Known("forward_auth") => {
                let option = map.next_value_seed(With(values::forward_auth))?;
                self.settings.add(|route| route.with_option(option));
            }
            Key::Known(_) => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

/// A scalar, or a list of scalars, as one text.
struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true or false, or a list of texts")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.trim().to_owned())
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<String, E> {
        Ok(flag.to_string())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<String, A::Error> {
        let mut texts: Vec<String> = Vec::new();
        while let Some(text) = items.next_element()? {
            texts.push(text);
        }
        Ok(texts.join(","))
    }
}

/// An option's value.
struct OptionSeed(OptionKey);

impl<'de> DeserializeSeed<'de> for OptionSeed {
    type Value = RouteOption;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RouteOption, D::Error> {
        let text = deserializer.deserialize_any(ScalarVisitor)?;
        RouteOption::parse(self.0, &text).map_err(D::Error::custom)
    }
}

/// A text that a function parses. The message of a mistake does not quote it: it may be secret.
struct With<T>(fn(&str) -> Result<T, registry_client::protocol::Invalid>);

impl<'de, T> DeserializeSeed<'de> for With<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        (self.0)(&text).map_err(|refused| D::Error::custom(refused.reason))
    }
}

/// A text of the protocol.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Parsed<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_any(ScalarVisitor)?;
        text.parse().map(Parsed).map_err(D::Error::custom)
    }
}

struct DomainList(Domains);

impl<'de> Deserialize<'de> for DomainList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_any(ScalarVisitor)?;
        let names = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|name| !name.is_empty());
        let domains = names.map(str::parse::<Domain>).collect::<Result<Vec<_>, _>>();
        let domains = Domains::new(domains.map_err(D::Error::custom)?);
        domains.map(DomainList).ok_or_else(|| D::Error::custom("no domain stands in it"))
    }
}

/// One value, or a list of them.
struct OneOrMany<T>(Vec<T>);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_any(ScalarVisitor)?;
        let all = text.split(',').map(|part| part.trim().parse()).collect::<Result<Vec<T>, _>>();
        all.map(OneOrMany).map_err(D::Error::custom)
    }
}

/// `health`: `false`, or an object.
struct Health {
    check: Option<HealthCheck>,
    options: Vec<RouteOption>,
}

const CHECK_INTERVAL: GoDuration = GoDuration::from_secs(30);
const CHECK_TIMEOUT: GoDuration = GoDuration::from_secs(5);

impl<'de> Deserialize<'de> for Health {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HealthVisitor)
    }
}

struct HealthVisitor;

impl<'de> Visitor<'de> for HealthVisitor {
    type Value = Health;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("false, or path, interval, timeout, host, status, rise and fall")
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<Health, E> {
        if on {
            return Err(E::custom("it is neither false nor an object with a path"));
        }
        Ok(Health { check: None, options: Vec::new() })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Health, A::Error> {
        let root: HealthPath = "/".parse().map_err(A::Error::custom)?;
        let mut check = HealthCheck { path: root, interval: CHECK_INTERVAL, timeout: CHECK_TIMEOUT };
        let mut options = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let option = match key.as_str() {
                "path" => {
                    check.path = map.next_value::<Parsed<HealthPath>>()?.0;
                    continue;
                }
                "interval" => {
                    check.interval = map.next_value_seed(Scalar(values::positive))?;
                    continue;
                }
                "timeout" => {
                    check.timeout = map.next_value_seed(Scalar(values::positive))?;
                    continue;
                }
                "host" => OptionKey::HealthHost,
                "status" => OptionKey::HealthStatus,
                "rise" => OptionKey::HealthRise,
                "fall" => OptionKey::HealthFall,
                other => {
                    let known = "path, interval, timeout, host, status, rise, fall";
                    return Err(A::Error::custom(format!("unknown key {other:?}; there are {known}")));
                }
            };
            options.push(map.next_value_seed(OptionSeed(option))?);
        }
        Ok(Health { check: Some(check), options })
    }
}

/// A scalar that a function parses.
struct Scalar<T>(fn(&str) -> Result<T, registry_client::protocol::Invalid>);

impl<'de, T> DeserializeSeed<'de> for Scalar<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        let text = deserializer.deserialize_any(ScalarVisitor)?;
        (self.0)(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let services = parse(text).unwrap();
        let show = |(service, routes): (ServiceName, Routes)| {
            let mut intent = registry_client::Intent::new(service, "file".parse().unwrap());
            intent.routes = routes;
            registry_client::dry_run(&intent, &registry_client::Dialect::ours())
        };
        services.into_iter().flat_map(show).filter(|line| !line.starts_with("SESSION_INFO")).collect()
    }

    #[test]
    fn four_lines_are_a_route() {
        let text =
            "routes:\n- service: nas\n  domains: nas.example.com\n  backend: https://192.168.1.5:5001\n";
        assert_eq!(
            lines(text),
            [
                "REGISTER|nas|file|0|{}",
                "ROUTE_ADD|S|nas.example.com|/|https://192.168.1.5:5001/|10",
                "CONFIG_APPLY|S"
            ]
        );
    }

    #[test]
    fn a_route_says_what_those_of_sidecars_say() {
        let text = r#"
routes:
  - service: nas
    domains: [nas.example.com, "*.nas.example.com"]
    path: /files
    backend: [http://192.168.1.5:5000, http://192.168.1.6:5000]
    priority: 50
    health: {path: /up, interval: 10s, status: 200-299, rise: 2}
    headers: {X-Frame-Options: DENY}
    rate_limit: 100/1m
    circuit_breaker: 5/30s/3
    timeout: 90
    strip_prefix: true
    allow_from: [10.0.0.0/8, 192.168.0.0/16]
    forward_auth: http://auth:9091/ask X-User
  - {service: router, domains: router.example.com, backend: http://192.168.1.1, health: false, body_limit: 10m}
"#;
        let lines = lines(text);
        for line in [
            "ROUTE_ADD|S|nas.example.com,*.nas.example.com|/files|http://192.168.1.6:5000/|50",
            "OPTIONS_SET|S|r2|timeout|1m30s",
            "OPTIONS_SET|S|r2|allow_from|10.0.0.0/8,192.168.0.0/16",
            "OPTIONS_SET|S|r2|auth|forward http://auth:9091/ask X-User",
            "OPTIONS_SET|S|r2|health_rise|2",
            "HEALTH_SET|S|r2|/up|10s|5s",
            "HEADERS_SET|S|r2|X-Frame-Options|DENY",
            "RATELIMIT_SET|S|r2|100|1m",
            "CIRCUIT_BREAKER_SET|S|r2|5|30s|3",
            "OPTIONS_SET|S|r1|body_limit|10m",
        ] {
            assert!(lines.iter().any(|shown| shown == line), "{line} is not in {lines:#?}");
        }
        assert_eq!(lines.iter().filter(|line| line.starts_with("HEALTH_SET")).count(), 2);
    }

    #[test]
    fn a_mistake_has_its_line_and_column_and_shows_no_secret() {
        let route = |more: &str| {
            format!("routes:\n  - service: nas\n    domains: a.de\n    backend: http://10.0.0.1\n{more}")
        };
        for (text, line, why) in [
            (route("    colour: red\n"), 5, "unknown key"),
            (route("    weight: 5%\n"), 5, "weight"),
            (route("    health:\n      rise: 0\n"), 6, "number of checks"),
            (route("    health: yes please\n"), 5, ""),
            (route("    rate_limit: 100\n"), 5, "requests/window"),
            (route("    basic_auth: alice:secret\n"), 5, "htpasswd -B"),
            (route("    path: /a/../b\n"), 5, "path"),
            (route("    path: [\n"), 5, ""),
            (route("  - service: router\n    domains: b.de\n"), 5, "no backend"),
            ("routes:\n  - service: nas\n    domains: b c_!.de\n".to_owned(), 3, "domain"),
            ("route: []\n".to_owned(), 1, "routes"),
            ("- service: nas\n".to_owned(), 1, ""),
        ] {
            let error = parse(&text).err().unwrap_or_else(|| panic!("{text}"));
            let first = error.lines().next().unwrap_or_default();
            let at = first.contains(&format!("line {line}")) || first.contains(&format!("line {}", line + 1));
            assert!(at && first.contains("column"), "{text}: {error}");
            assert!(error.contains(why), "{why}: {error}");
            assert!(!first.contains("secret"), "{error}");
        }
    }
}
