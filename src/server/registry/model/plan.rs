//! What a route's settings mean together with its session's defaults.

use std::sync::Arc;
use std::time::Duration;

use registry_client::protocol::{
    AcceptedStatuses, BackendUrl, Domain, HealthPath, OptionKey, RateLimit, RouteOption,
};

use crate::server::routing::{
    ExtraSettings, Extras, Guards, Maintenance, ResponseHeaders, RouteState, Settings,
};

use super::route::Route;
use super::settings::{CompactSettings, RouteSettings, breaker};

/// The interval and time-out of a check for which only the other was set. HEALTH_INTERVAL and HEALTH_TIMEOUT of the
/// sidecar have the same defaults.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// What a route means for its members: its settings with the session's defaults filled in.
#[derive(Debug, Clone)]
pub(crate) struct MemberPlan {
    pub(crate) backend: BackendUrl,
    pub(crate) priority: i32,
    /// How long the claim is held after a loss; `None`: as long as the server's HOLD says.
    pub(crate) hold: Option<Duration>,
    pub(crate) settings: Settings,
    pub(crate) extras: Extras,
    pub(crate) rare: Option<Box<RareSettings>>,
    /// What the data plane counts and learns about the route.
    pub(crate) state: Arc<RouteState>,
}

/// Settings that few routes have and only the registry needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RareSettings {
    pub(crate) limit: Option<RateLimit>,
    pub(crate) check: Option<HealthQuestion>,
}

/// The check of HEALTH_SET with all defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HealthQuestion {
    pub(super) path: HealthPath,
    pub(super) host: Option<Domain>,
    pub(super) statuses: Option<AcceptedStatuses>,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    /// How many passed checks in a row bring a member back that was out.
    pub(crate) rise: u8,
    /// How many failed checks in a row take it out.
    pub(crate) fall: u8,
}

/// [`HealthQuestion::rise`] where nothing is said.
pub(crate) const RISE: u8 = 1;

/// [`HealthQuestion::fall`] where nothing is said.
pub(crate) const FALL: u8 = 3;

impl MemberPlan {
    pub(crate) fn new(
        route: &Route,
        defaults: &CompactSettings,
        maintenance: Option<Arc<Maintenance>>,
        state: Arc<RouteState>,
    ) -> Self {
        let spec = &route.spec;
        if route.settings.is_empty() && defaults.is_empty() {
            // Most routes have no settings and no defaults, and need no look-ups.
            return MemberPlan {
                backend: spec.backend.clone(),
                priority: spec.priority,
                hold: None,
                settings: Settings::default(),
                extras: ExtraSettings { maintenance, ..ExtraSettings::default() }.into(),
                rare: None,
                state,
            };
        }
        let option = |key| route.settings.options.get(&key).or_else(|| defaults.options.get(&key));
        let settings =
            OptionKey::ALL.into_iter().filter_map(option).fold(Settings::default(), Settings::with);
        let (headers, breaker) = (headers(&route.settings, defaults), breaker(&route.settings, defaults));
        let guards = Guards::of(OptionKey::ALL.into_iter().filter_map(option));
        let sticky = option(OptionKey::Sticky) == Some(&RouteOption::Sticky(true));
        let hold = match option(OptionKey::Hold) {
            Some(RouteOption::Hold(time)) => Some(time.get()),
            _ => None,
        };
        MemberPlan {
            backend: spec.backend.clone(),
            priority: spec.priority,
            hold,
            settings,
            extras: ExtraSettings { headers, breaker, maintenance, guards, sticky }.into(),
            rare: RareSettings::new(route, defaults, &option),
            state,
        }
    }
}

impl RareSettings {
    fn new<'a>(
        route: &Route,
        defaults: &RouteSettings,
        option: &dyn Fn(OptionKey) -> Option<&'a RouteOption>,
    ) -> Option<Box<Self>> {
        let limit = route.settings.limit.or(defaults.limit).filter(|limit| limit.requests > 0);
        let check = check(route, option);
        (limit.is_some() || check.is_some()).then(|| Box::new(RareSettings { limit, check }))
    }
}

/// The response headers that are in force: the route's own before the session's.
fn headers(own: &RouteSettings, defaults: &RouteSettings) -> Option<ResponseHeaders> {
    if own.headers.is_empty() && defaults.headers.is_empty() {
        return None;
    }
    let mut all = defaults.headers.clone();
    all.extend(own.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    Some(ResponseHeaders::new(&all))
}

/// The check that is in force. There is one as soon as a path or an interval is set, and none if the interval is zero.
fn check<'a>(route: &Route, option: &dyn Fn(OptionKey) -> Option<&'a RouteOption>) -> Option<HealthQuestion> {
    let duration = |key| match option(key) {
        Some(RouteOption::HealthCheckInterval(d) | RouteOption::HealthCheckTimeout(d)) => Some(d.get()),
        _ => None,
    };
    let count = |key| match option(key) {
        Some(RouteOption::HealthRise(count) | RouteOption::HealthFall(count)) => Some(count.get()),
        _ => None,
    };
    let interval = duration(OptionKey::HealthCheckInterval);
    let path = match &route.settings.health_path {
        Some(path) => path.clone(),
        None => interval.and_then(|_| "/".parse().ok())?,
    };
    let interval = interval.unwrap_or(CHECK_INTERVAL);
    (!interval.is_zero()).then(|| HealthQuestion {
        path,
        host: check_host(route, option),
        statuses: match option(OptionKey::HealthStatus) {
            Some(RouteOption::HealthStatus(statuses)) => Some(statuses.clone()),
            _ => None,
        },
        interval,
        timeout: duration(OptionKey::HealthCheckTimeout).unwrap_or(CHECK_TIMEOUT),
        rise: count(OptionKey::HealthRise).unwrap_or(RISE),
        fall: count(OptionKey::HealthFall).unwrap_or(FALL),
    })
}

/// The Host that the proxy sends when it asks a route's backend by itself.
pub(crate) fn host_of_checks(route: &Route, defaults: &RouteSettings) -> Option<Domain> {
    check_host(route, &|key| route.settings.options.get(&key).or_else(|| defaults.options.get(&key)))
}

fn check_host<'a>(route: &Route, option: &dyn Fn(OptionKey) -> Option<&'a RouteOption>) -> Option<Domain> {
    match option(OptionKey::HealthHost) {
        Some(RouteOption::HealthHost(host)) => Some(host.domain().clone()),
        _ => route.spec.domains.to_call(),
    }
}
