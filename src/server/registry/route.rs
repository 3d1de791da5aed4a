//! A route with its own settings, and what they mean together with the session's defaults.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::{
    BackendUrl, CircuitBreaker, Domain, HeaderName, HeaderValue, HealthPath, OptionKey, RateLimit,
    RouteOption, RouteSpec,
};
use crate::server::routing::{
    ExtraSettings, Extras, Maintenance, Probe, ProbeKind, ResponseHeaders, RouteState, Settings,
};

use super::persist;

/// How often and how long a check asks where only a part of it was said (DESIGN: HEALTH_INTERVAL and
/// HEALTH_TIMEOUT of the sidecar have the same).
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// From one question to the next while the answer decides whether a member serves: it joins, or its
/// session is lost (SEMANTICS section 4).
const QUICK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a backend without a check has to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A route as it is, or is to be, applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// What it claims, and where its requests go.
    pub spec: RouteSpec,
    /// Its own settings.
    pub cells: OwnCells,
}

/// Settings of one route, or a session's defaults for all of them. What is not there is not set. Each field
/// says how it is written down (`persist`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cells {
    /// OPTIONS_SET, and the interval and time-out of HEALTH_SET: the last writer of a cell wins.
    #[serde(with = "persist::options", skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<OptionKey, RouteOption>,
    /// The path of HEALTH_SET.
    #[serde(with = "persist::text_or_none", skip_serializing_if = "Option::is_none")]
    pub health_path: Option<HealthPath>,
    /// HEADERS_SET. The names are in lower case, so that one header has one cell.
    #[serde(with = "persist::texts", skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<HeaderName, HeaderValue>,
    /// RATELIMIT_SET. Zero requests: no limit, whatever the session's default says.
    #[serde(with = "persist::limit", skip_serializing_if = "Option::is_none")]
    pub limit: Option<RateLimit>,
    /// CIRCUIT_BREAKER_SET. A threshold of zero: no breaker, whatever the session's default says.
    #[serde(with = "persist::breaker", skip_serializing_if = "Option::is_none")]
    pub breaker: Option<CircuitBreaker>,
}

static NO_CELLS: Cells = Cells {
    options: BTreeMap::new(),
    health_path: None,
    headers: BTreeMap::new(),
    limit: None,
    breaker: None,
};

impl Cells {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == NO_CELLS
    }
}

/// A route's own settings. Most routes have none, and those take a word.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OwnCells(Option<Box<Cells>>);

impl From<Cells> for OwnCells {
    fn from(cells: Cells) -> Self {
        OwnCells((!cells.is_empty()).then(|| Box::new(cells)))
    }
}

impl OwnCells {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Deref for OwnCells {
    type Target = Cells;

    fn deref(&self) -> &Cells {
        self.0.as_deref().unwrap_or(&NO_CELLS)
    }
}

/// What a route's members get from it.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) backend: BackendUrl,
    pub(super) priority: i32,
    /// How long the claim is held after a loss, if it says so.
    pub(super) hold: Option<Duration>,
    pub(super) settings: Settings,
    pub(super) extras: Extras,
    pub(super) rare: Option<Box<Rare>>,
    /// What the data plane finds out about the route.
    pub(super) state: Arc<RouteState>,
}

/// What few routes say, for the registry alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rare {
    pub(super) limit: Option<RateLimit>,
    pub(super) check: Option<Check>,
}

/// HEALTH_SET's check, with everything decided.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Check {
    path: HealthPath,
    host: Option<Domain>,
    interval: Duration,
    timeout: Duration,
}

impl Plan {
    pub(super) fn new(
        route: &Route,
        defaults: &OwnCells,
        maintenance: Option<Arc<Maintenance>>,
        state: Arc<RouteState>,
    ) -> Self {
        let spec = &route.spec;
        if route.cells.is_empty() && defaults.is_empty() {
            // Most say nothing, and then there is nothing to look up.
            return Plan {
                backend: spec.backend.clone(),
                priority: spec.priority,
                hold: None,
                settings: Settings::default(),
                extras: ExtraSettings { maintenance, ..ExtraSettings::default() }.into(),
                rare: None,
                state,
            };
        }
        let option = |key| route.cells.options.get(&key).or_else(|| defaults.options.get(&key)).copied();
        let settings =
            OptionKey::ALL.into_iter().filter_map(option).fold(Settings::default(), Settings::with);
        let (headers, breaker) = (headers(&route.cells, defaults), breaker(&route.cells, defaults));
        let hold = match option(OptionKey::Hold) {
            Some(RouteOption::Hold(time)) => Some(time.get()),
            _ => None,
        };
        Plan {
            backend: spec.backend.clone(),
            priority: spec.priority,
            hold,
            settings,
            extras: ExtraSettings { headers, breaker, maintenance }.into(),
            rare: Rare::new(route, defaults, &option),
            state,
        }
    }
}

impl Rare {
    fn new(
        route: &Route,
        defaults: &Cells,
        option: &dyn Fn(OptionKey) -> Option<RouteOption>,
    ) -> Option<Box<Self>> {
        let limit = route.cells.limit.or(defaults.limit).filter(|limit| limit.requests > 0);
        let check = check(route, option);
        (limit.is_some() || check.is_some()).then(|| Box::new(Rare { limit, check }))
    }
}

/// The breaker that is in force.
pub(super) fn breaker(own: &Cells, defaults: &Cells) -> Option<CircuitBreaker> {
    own.breaker.or(defaults.breaker).filter(|breaker| breaker.threshold > 0)
}

/// The response headers that are in force: the route's own before the session's.
fn headers(own: &Cells, defaults: &Cells) -> Option<ResponseHeaders> {
    if own.headers.is_empty() && defaults.headers.is_empty() {
        return None;
    }
    let mut all = defaults.headers.clone();
    all.extend(own.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    Some(ResponseHeaders::new(&all))
}

/// The check that is in force: there is one as soon as a path or an interval was said, and none where the
/// interval is zero.
fn check(route: &Route, option: &dyn Fn(OptionKey) -> Option<RouteOption>) -> Option<Check> {
    let duration = |key| match option(key) {
        Some(RouteOption::HealthCheckInterval(d) | RouteOption::HealthCheckTimeout(d)) => Some(d.get()),
        _ => None,
    };
    let interval = duration(OptionKey::HealthCheckInterval);
    let path = match &route.cells.health_path {
        Some(path) => path.clone(),
        None => interval.and_then(|_| "/".parse().ok())?,
    };
    let interval = interval.unwrap_or(CHECK_INTERVAL);
    (!interval.is_zero()).then(|| Check {
        path,
        host: route.spec.domains.first_exact().cloned(),
        interval,
        timeout: duration(OptionKey::HealthCheckTimeout).unwrap_or(CHECK_TIMEOUT),
    })
}

/// What decides about a maintenance request: whether a page or a backend answers with a status below 500.
pub(super) fn page_probe(url: &BackendUrl, peer: std::net::IpAddr, host: Option<&Domain>) -> Probe {
    // A page that is a file has nothing below it.
    let (backend, path) = if url.is_file() { (url.at_root(), url.path()) } else { (url.clone(), "/") };
    let kind = match path.parse() {
        Ok(path) => ProbeKind::Get { path, host: host.cloned() },
        Err(_) => ProbeKind::Connect,
    };
    Probe { backend, peer, kind, interval: QUICK_INTERVAL, timeout: CHECK_TIMEOUT }
}

/// The question to a backend: its check, or whether it accepts a connection. `quick` where the answer
/// decides whether it serves.
pub(super) fn probe(
    backend: &BackendUrl,
    peer: std::net::IpAddr,
    check: Option<&Check>,
    quick: bool,
) -> Probe {
    let (kind, interval, timeout) = match check {
        None => (ProbeKind::Connect, QUICK_INTERVAL, CONNECT_TIMEOUT),
        Some(check) => {
            let kind = ProbeKind::Get { path: check.path.clone(), host: check.host.clone() };
            let interval = if quick { check.interval.min(QUICK_INTERVAL) } else { check.interval };
            (kind, interval, check.timeout)
        }
    };
    Probe { backend: backend.clone(), peer, kind, interval, timeout }
}
