//! What a route's settings mean together with its session's defaults.

use super::route::Route;
use super::settings::{Cells, OwnCells, breaker};
use crate::server::routing::{ExtraSettings, Extras, Maintenance, ResponseHeaders, RouteState, Settings};
use registry_client::protocol::{BackendUrl, Domain, HealthPath, OptionKey, RateLimit, RouteOption};
use std::sync::Arc;
use std::time::Duration;

/// How often and how long a check asks where only a part of it was said (DESIGN: HEALTH_INTERVAL and
/// HEALTH_TIMEOUT of the sidecar have the same).
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// What a route's members get from it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) backend: BackendUrl,
    pub(crate) priority: i32,
    /// How long the claim is held after a loss, if it says so.
    pub(crate) hold: Option<Duration>,
    pub(crate) settings: Settings,
    pub(crate) extras: Extras,
    pub(crate) rare: Option<Box<Rare>>,
    /// What the data plane finds out about the route.
    pub(crate) state: Arc<RouteState>,
}

/// What few routes say, for the registry alone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rare {
    pub(crate) limit: Option<RateLimit>,
    pub(crate) check: Option<Check>,
}

/// HEALTH_SET's check, with everything decided.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Check {
    pub(super) path: HealthPath,
    pub(super) host: Option<Domain>,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
}

impl Plan {
    pub(crate) fn new(
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
