//! What the caller wants: a named instance and its routes. It knows nothing of sessions, route ids or servers.

mod maintenance;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::protocol::{
    BackendUrl, CircuitBreaker, Domain, Domains, HeaderName, HeaderValue, HealthCheck, InstanceName,
    Metadata, OptionKey, PathPrefix, RateLimit, Registration, RouteOption, RouteSpec, ServiceName,
};

pub(super) use maintenance::{MAX_REQUESTS, Numbered};
pub use maintenance::{MaintenanceAction, MaintenanceRequest, MaintenanceTarget};

/// Everything that a client keeps true at its registry, whatever happens to the connection.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Intent {
    /// The service.
    pub service: ServiceName,
    /// Which of its instances: stable across restarts of the same replica.
    pub instance: InstanceName,
    /// Where this instance serves a maintenance page.
    pub maintenance_port: Option<u16>,
    /// The URL of that page as the proxy reaches it; `None`: the proxy shows its own.
    pub maintenance_page: Option<BackendUrl>,
    /// What people are to see of the routes at first.
    pub visibility: Visibility,
    /// Maintenance that is wanted from the beginning, besides what `visibility` says: a route may start its life in it.
    pub maintenance: Vec<MaintenanceRequest>,
    /// Sent with REGISTER; the values of `token` and `service_token` are never shown.
    pub metadata: Metadata,
    /// The routes, by the caller's own names for them.
    pub routes: Routes,
}

/// Visibility routes by key. They are staged in the order of their keys.
pub type Routes = BTreeMap<RouteKey, Route>;

/// What people are to see of the routes. A program may have several reasons (its readiness, maintenance, a stop); it
/// combines them into this one value, which is all that the session knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Visibility {
    /// Nothing: there is a session without routes.
    Absent,
    /// The maintenance page on all of them ([PROTOCOL section 6](crate::spec::protocol#6-asynchronous-lines)).
    Maintenance,
    /// The application.
    #[default]
    Live,
    /// No new requests, as long as the registry can do that without an outage: by DRAIN_START `0s` where it
    /// announces `drain`; at a reference server by maintenance if there is a page, and otherwise not at all
    /// ([SEMANTICS section 6](crate::spec::semantics#6-drain-and-hold)). Routes that are not there yet do not come.
    Draining,
}

/// The intent as far as it changes, with the number of changes that made it so: a status says up to which it
/// is true.
#[derive(Debug, Clone)]
pub struct Goal {
    /// How many changes there were.
    pub change: u64,
    /// The routes.
    pub routes: Routes,
    /// What of them people are to see.
    pub visibility: Visibility,
    /// The maintenance page, as the proxy reaches it.
    pub page: Option<BackendUrl>,
    /// What goes with the next REGISTER.
    pub metadata: Metadata,
    /// The requests that still count, oldest first; at most [`MAX_REQUESTS`].
    pub(super) maintenance: Vec<Numbered>,
    /// How many there were.
    pub(super) requests: u64,
}

/// The caller's name for a route. It never reaches the wire: ids come and go with sessions, keys stay.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey(Arc<str>);

/// One wanted route with its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// The domains it claims.
    pub domains: Domains,
    /// The path prefix it claims on each of them.
    pub path: PathPrefix,
    /// Where its requests go.
    pub backend: BackendUrl,
    /// Higher wins over a longer path.
    pub priority: i32,
    /// How the proxy checks the backend; `None`: no check.
    pub health: Option<HealthCheck>,
    /// Options that differ from what holds when nothing is set ([PROTOCOL section 5](crate::spec::protocol#5-values)).
    pub options: Options,
    /// What the proxy sets on responses.
    pub headers: Headers,
    /// How many requests each client address has.
    pub rate_limit: Option<RateLimit>,
    /// When the proxy stops asking a backend that fails.
    pub circuit_breaker: Option<CircuitBreaker>,
}

/// A set of response headers, at most one of each name, whatever its case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(BTreeMap<String, (HeaderName, HeaderValue)>);

/// A set of options, at most one of each name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<OptionKey, RouteOption>);

/// The priority of a route that is given none.
const DEFAULT_PRIORITY: i32 = 10;

impl Intent {
    /// An instance without routes, metadata or maintenance page.
    pub fn new(service: ServiceName, instance: InstanceName) -> Self {
        Intent {
            service,
            instance,
            maintenance_port: None,
            maintenance_page: None,
            visibility: Visibility::Live,
            maintenance: Vec::new(),
            metadata: Metadata::default(),
            routes: Routes::new(),
        }
    }

    /// The same with one more route, or with another one under a key that is there already.
    #[must_use]
    pub fn with_route(mut self, key: impl Into<RouteKey>, route: Route) -> Self {
        self.routes.insert(key.into(), route);
        self
    }

    /// The same with another visibility to begin with.
    #[must_use]
    pub fn with_visibility(mut self, visibility: Visibility) -> Self {
        self.visibility = visibility;
        self
    }

    /// The same with the port on which this instance serves a maintenance page, and the page's URL as the proxy reaches
    /// it.
    #[must_use]
    pub fn with_maintenance_page(mut self, port: u16, page: BackendUrl) -> Self {
        (self.maintenance_port, self.maintenance_page) = (Some(port), Some(page));
        self
    }

    /// The same with one more request for maintenance to begin with.
    #[must_use]
    pub fn with_maintenance(mut self, request: MaintenanceRequest) -> Self {
        self.maintenance.push(request);
        self
    }

    /// The same with an entry of metadata put in or replaced. Secrets belong under `token` (the registry's)
    /// and `service_token` (the service's own), because only the values of those stay out of logs.
    #[must_use]
    pub fn with_metadata(mut self, key: &str, value: Value) -> Self {
        let mut entries: Map<String, Value> =
            serde_json::from_str(&self.metadata.encode()).unwrap_or_default();
        entries.insert(key.to_owned(), value);
        self.metadata = Metadata::new(entries);
        self
    }

    /// What of it can change, before the first change.
    pub fn goal(&self) -> Goal {
        let mut goal = Goal {
            change: 0,
            routes: self.routes.clone(),
            visibility: self.visibility,
            page: self.maintenance_page.clone(),
            metadata: self.metadata.clone(),
            maintenance: Vec::new(),
            requests: 0,
        };
        self.maintenance.iter().for_each(|request| goal.request(request.clone()));
        goal
    }

    /// What REGISTER says of it.
    pub(super) fn registration(&self) -> Registration {
        Registration {
            service: self.service.clone(),
            instance: self.instance.clone(),
            maintenance_port: self.maintenance_port,
            metadata: self.metadata.clone(),
        }
    }
}

impl Route {
    /// All of `domains` (one [`Domain`], or several as [`Domains`]) below `path` go to `backend`, at priority 10, without
    /// a check or options.
    pub fn new(domains: impl Into<Domains>, path: PathPrefix, backend: BackendUrl) -> Self {
        Route {
            domains: domains.into(),
            path,
            backend,
            priority: DEFAULT_PRIORITY,
            health: None,
            options: Options::default(),
            headers: Headers::default(),
            rate_limit: None,
            circuit_breaker: None,
        }
    }

    /// The same with a health check.
    #[must_use]
    pub fn with_health(mut self, check: HealthCheck) -> Self {
        self.health = Some(check);
        self
    }

    /// The same at another priority.
    #[must_use]
    pub fn with_priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// The same with an option set, over one of the same name.
    #[must_use]
    pub fn with_option(mut self, option: RouteOption) -> Self {
        self.options.set(option);
        self
    }

    /// The same with a response header set, over one of the same name.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.set(name, value);
        self
    }

    /// The same with a rate limit for each client address.
    #[must_use]
    pub fn with_rate_limit(mut self, limit: RateLimit) -> Self {
        self.rate_limit = Some(limit);
        self
    }

    /// The same with a circuit breaker.
    #[must_use]
    pub fn with_circuit_breaker(mut self, breaker: CircuitBreaker) -> Self {
        self.circuit_breaker = Some(breaker);
        self
    }

    /// What ROUTE_ADD says of it.
    pub(super) fn spec(&self) -> RouteSpec {
        RouteSpec {
            domains: self.domains.clone(),
            path: self.path.clone(),
            backend: self.backend.as_directory(),
            priority: self.priority,
        }
    }

    /// Whether both claim some domain with the same path.
    pub(super) fn shares_claim_with(&self, other: &Route) -> bool {
        let theirs = other.domains.as_slice();
        let shared = |domain: &Domain| theirs.contains(domain);
        self.path == other.path && self.domains.as_slice().iter().any(shared)
    }
}

impl Options {
    /// Puts an option in, over one of the same name.
    pub fn set(&mut self, option: RouteOption) {
        self.0.insert(option.key(), option);
    }

    /// The option of this name.
    pub fn get(&self, key: OptionKey) -> Option<&RouteOption> {
        self.0.get(&key)
    }

    /// The options, in the order of [`OptionKey`].
    pub fn iter(&self) -> impl Iterator<Item = &RouteOption> {
        self.0.values()
    }
}

impl Headers {
    /// Puts a header in, over one of the same name.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.insert(name.as_str().to_ascii_lowercase(), (name, value));
    }

    /// The value of the header of this name.
    pub fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.0.get(&name.as_str().to_ascii_lowercase()).map(|(_, value)| value)
    }

    /// The headers, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> + '_ {
        self.0.values().map(|(name, value)| (name, value))
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Headers {
    /// Of several with one name the last is kept.
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(headers: I) -> Self {
        let mut set = Headers::default();
        headers.into_iter().for_each(|(name, value)| set.set(name, value));
        set
    }
}

impl FromIterator<RouteOption> for Options {
    /// Of several with one name the last is kept.
    fn from_iter<I: IntoIterator<Item = RouteOption>>(options: I) -> Self {
        Options(options.into_iter().map(|option| (option.key(), option)).collect())
    }
}

impl RouteKey {
    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for RouteKey {
    fn from(text: &str) -> Self {
        RouteKey(text.into())
    }
}

impl From<String> for RouteKey {
    fn from(text: String) -> Self {
        RouteKey(text.into())
    }
}

impl Borrow<str> for RouteKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_and_never_shown() {
        let intent = Intent::new("web".parse().unwrap(), "web-1".parse().unwrap())
            .with_metadata("version", "1.0".into())
            .with_metadata("token", "t0p".into());
        let register = crate::protocol::Command::Register(intent.registration());
        assert!(register.encode().contains("t0p"));
        assert!(!format!("{intent:?}{}", register.redacted()).contains("t0p"));
    }

    #[test]
    fn a_routes_backend_is_sent_with_a_slash_at_its_end_which_the_reference_server_needs() {
        let domains = Domains::new(["a.de".parse().unwrap()]).unwrap();
        let route = Route::new(domains, PathPrefix::root(), "http://h:1/base".parse().unwrap());
        assert_eq!(route.spec().backend.to_string(), "http://h:1/base/");
    }

    #[test]
    fn of_two_options_of_one_name_the_last_holds() {
        let options: Options =
            [RouteOption::Websocket(true), RouteOption::Websocket(false)].into_iter().collect();
        assert_eq!(options.get(OptionKey::Websocket), Some(&RouteOption::Websocket(false)));
        assert_eq!(options.iter().count(), 1);
    }
}
