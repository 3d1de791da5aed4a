//! A member of a claim: one session's backend, with the settings of the route that brought it there.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry_client::protocol::{BackendUrl, CircuitBreaker, InstanceName, RouteOption, ServiceName, Weight};

use super::drain_share::Drain;
use super::guards::Guards;
use super::load::MemberLoad;
use super::response_headers::ResponseHeaders;
use super::route_state::RouteState;

/// Identifies a member in every snapshot of the table, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

/// (session, backend URL) within a claim (SEMANTICS section 1), as a snapshot of the table has it.
#[derive(Debug, Clone)]
pub struct Member {
    /// What is the same in every snapshot. A member dereferences to it.
    pub endpoint: Arc<Endpoint>,
    /// The settings of its session and its route.
    pub terms: Arc<Terms>,
    /// What the data plane has found out about its route.
    pub route: Arc<RouteState>,
    /// Whether it may get requests: its checks pass, and it is not suspended.
    pub usable: bool,
}

/// A member's backend, and what is counted there.
#[derive(Debug)]
pub struct Endpoint {
    /// The member.
    pub id: MemberId,
    /// Where requests go.
    pub backend: BackendUrl,
    /// The counters, shared by all cores and all snapshots.
    pub load: MemberLoad,
}

/// The settings that a session and one of its routes give a member. Members of a session with equal settings share
/// them.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// The service that owns the claim.
    pub service: ServiceName,
    /// The instance that registered the member; for logs.
    pub instance: InstanceName,
    /// The address that the session was registered from. The backend policy depends on it.
    pub peer: IpAddr,
    /// A claim with a higher priority wins over one with a longer path.
    pub priority: i32,
    /// How long requests wait when the claim loses its last usable member; zero: they do not.
    pub hold: Duration,
    /// The route's options.
    pub settings: Settings,
    /// The route's seldom used settings.
    pub extras: Extras,
    /// The drain that reduces its share of the requests.
    pub drain: Option<Box<Drain>>,
}

impl Endpoint {
    /// An endpoint whose counters are zero.
    pub fn new(id: MemberId, backend: BackendUrl) -> Self {
        Endpoint { id, backend, load: MemberLoad::default() }
    }
}

impl Member {
    /// Whether the circuit breaker of its route, if it has one, lets a request through.
    pub fn may_pass(&self, now: Instant) -> bool {
        self.terms.extras.breaker().is_none_or(|rule| self.route.breaker().may_pass(rule, now))
    }

    /// Whether a request that was not answered by `tried` may go to it, if it can be connected to.
    pub(super) fn may_be_asked(&self, tried: Option<MemberId>, now: Instant) -> bool {
        self.usable && Some(self.id) != tried && !self.load.is_closed() && self.may_pass(now)
    }

    /// Whether `other` is the same member with the same settings and state.
    pub fn is_shown_as(&self, other: &Member) -> bool {
        Arc::ptr_eq(&self.endpoint, &other.endpoint)
            && Arc::ptr_eq(&self.terms, &other.terms)
            && Arc::ptr_eq(&self.route, &other.route)
            && self.usable == other.usable
    }
}

impl Deref for Member {
    type Target = Endpoint;

    #[inline]
    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

/// A route's options, with the defaults of PROTOCOL section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long the backend may take until the head of its response, and how long it may be silent in the body.
    pub timeout: Duration,
    /// Whether upgrades are forwarded.
    pub websocket: bool,
    /// Whether the backend gets the client's Host instead of its own authority.
    pub preserve_host: bool,
    /// Whether responses are compressed.
    pub compression: bool,
    /// Whether HTTP/2 is offered to an `https` backend.
    pub http2: bool,
    /// Whether the claim's path is taken off the target.
    pub strip_prefix: bool,
    /// The member's share beside those of the others.
    pub weight: Weight,
    /// Whether every request is for the backend URL itself, because that is a maintenance page in a file.
    pub one_page: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            timeout: Duration::from_secs(60),
            websocket: true,
            preserve_host: true,
            compression: false,
            http2: false,
            strip_prefix: false,
            weight: Weight::default(),
            one_page: false,
        }
    }
}

impl Settings {
    /// The settings with `option` applied. Options that do not concern a member change nothing.
    #[must_use]
    pub fn with(mut self, option: &RouteOption) -> Self {
        match option {
            RouteOption::Timeout(timeout) => self.timeout = timeout.get(),
            RouteOption::Websocket(on) => self.websocket = *on,
            RouteOption::PreserveHost(on) => self.preserve_host = *on,
            RouteOption::Compression(on) => self.compression = *on,
            RouteOption::Http2(on) => self.http2 = *on,
            RouteOption::StripPrefix(on) => self.strip_prefix = *on,
            RouteOption::Weight(weight) => self.weight = *weight,
            RouteOption::HealthCheckInterval(_)
            | RouteOption::HealthCheckTimeout(_)
            | RouteOption::Http3(_)
            | RouteOption::Hold(_)
            | RouteOption::HealthHost(_)
            | RouteOption::HealthStatus(_)
            | RouteOption::HealthRise(_)
            | RouteOption::HealthFall(_)
            | RouteOption::Sticky(_)
            | RouteOption::Redirect(_)
            | RouteOption::AllowFrom(_)
            | RouteOption::BodyLimit(_)
            | RouteOption::Auth(_) => {}
        }
        self
    }
}

/// The seldom used settings of a member's route (SEMANTICS section 1). Most routes have none of them, which takes no
/// memory and one look.
#[derive(Debug, Clone, Default)]
pub struct Extras(Option<Arc<ExtraSettings>>);

/// The values of [`Extras`].
#[derive(Debug, Default)]
pub struct ExtraSettings {
    /// HEADERS_SET: headers that every response of the member gets.
    pub headers: Option<ResponseHeaders>,
    /// CIRCUIT_BREAKER_SET.
    pub breaker: Option<CircuitBreaker>,
    /// MAINT_ENTER: the member gets no requests.
    pub maintenance: Option<Arc<Maintenance>>,
    /// What is asked of a request before it goes to a member.
    pub guards: Option<Box<Guards>>,
    /// Whether a cookie keeps a client at its instance.
    pub sticky: bool,
}

impl From<ExtraSettings> for Extras {
    fn from(settings: ExtraSettings) -> Self {
        let ExtraSettings { headers, breaker, maintenance, guards, sticky } = &settings;
        let is_empty =
            headers.is_none() && breaker.is_none() && maintenance.is_none() && guards.is_none() && !sticky;
        Extras((!is_empty).then(|| Arc::new(settings)))
    }
}

impl Extras {
    /// The headers that every response of the member gets.
    pub fn headers(&self) -> Option<&ResponseHeaders> {
        self.0.as_ref()?.headers.as_ref()
    }

    /// The rule of its circuit breaker, if it has one.
    pub fn breaker(&self) -> Option<CircuitBreaker> {
        self.0.as_ref()?.breaker
    }

    /// What is asked of a request before it goes to a member.
    #[inline]
    pub fn guards(&self) -> Option<&Guards> {
        self.0.as_ref()?.guards.as_deref()
    }

    /// Whether a cookie keeps a client at its instance.
    #[inline]
    pub fn is_sticky(&self) -> bool {
        self.0.as_ref().is_some_and(|settings| settings.sticky)
    }

    /// The maintenance that the member is in.
    pub fn maintenance(&self) -> Option<&Maintenance> {
        self.0.as_ref()?.maintenance.as_deref()
    }
}

impl PartialEq for Extras {
    /// Two maintenances are equal only if they are the same value.
    fn eq(&self, other: &Self) -> bool {
        let page = |extras: &Extras| extras.maintenance().map(std::ptr::from_ref);
        self.headers() == other.headers()
            && self.breaker() == other.breaker()
            && self.guards() == other.guards()
            && self.is_sticky() == other.is_sticky()
            && page(self) == page(other)
    }
}

/// A member's maintenance.
#[derive(Debug, Clone)]
pub struct Maintenance {
    /// The backend that has the page; `None`: the proxy's own page is shown.
    pub page: Option<Arc<Member>>,
}
