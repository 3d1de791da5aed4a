//! What happens to a client, as events by the names that users of the Go client know.
//!
//! `cause` says why there is no session, `text` and `data` are what people and programs get of an event, `stream` is
//! what a listener reads from.

mod cause;
mod data;
mod stream;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::intent::{MaintenanceTarget, Route, RouteKey};
use crate::protocol::{EventKind, InstanceName, Refusal, RouteId, ServiceName};

pub use cause::Cause;
pub(super) use stream::EVENT_BUFFER;
pub use stream::EventStream;

/// Something that happened. [`Event::name`] gives the name, `Display` a sentence for a log.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// `CONNECTED`: the first session is there; nothing is registered in it yet.
    Connected {
        /// The registry.
        registry: Registry,
    },
    /// `DISCONNECTED`: the session's connection is gone. Its routes stay for the registry's grace period.
    Disconnected {
        /// The registry.
        registry: Registry,
        /// Why.
        cause: Cause,
    },
    /// `RETRYING`: the client waits before its next attempt to connect.
    Retrying(Retry),
    /// `EXTENDED_RETRY`: the same; the delays do not grow any more.
    ExtendedRetry(Retry),
    /// `RECONNECTED`: there is a session again.
    Reconnected {
        /// The registry.
        registry: Registry,
        /// Whether it is the former session; otherwise everything is being registered again.
        resumed: bool,
    },
    /// `LOG`: the service of this new session has other sessions, which come from other addresses ([SEMANTICS section 1](crate::spec::semantics#1-claims-pools-members)).
    Joined {
        /// The registry.
        registry: Registry,
        /// Which service.
        service: ServiceName,
        /// How many others; the registry may have stopped counting.
        siblings: u64,
    },
    /// `ROUTE_ADDED`: the route is in force.
    RouteAdded {
        /// The caller's name for it.
        key: RouteKey,
        /// The registry's id of it.
        id: RouteId,
        /// What it is.
        route: Route,
    },
    /// `ROUTE_UPDATED`: what was in force was changed in place.
    RouteUpdated {
        /// The caller's name for it.
        key: RouteKey,
        /// The registry's id of it.
        id: RouteId,
        /// What it is now.
        route: Route,
    },
    /// `ROUTE_REMOVED`: the route is no longer in force.
    RouteRemoved {
        /// The caller's name for it; `None` for a route that the client found at the registry and that nobody wanted.
        key: Option<RouteKey>,
        /// The registry's id of it.
        id: RouteId,
    },
    /// `HEALTH_CHECK_SET`: the route's check is in force.
    HealthCheckSet {
        /// The caller's name for the route.
        key: RouteKey,
        /// The registry's id of it.
        id: RouteId,
    },
    /// `CONFIG_APPLIED`: an apply succeeded.
    ConfigApplied {
        /// How many routes are in force now.
        routes: usize,
        /// The session's revision, where the registry counts them.
        revision: Option<u64>,
    },
    /// `ERROR`: the registry refused this route. The others are applied without it; it is tried again.
    RouteRefused {
        /// The caller's name for it.
        key: RouteKey,
        /// The registry's words: where another service has the claim, they name it.
        refusal: Refusal,
        /// The service that has the claim, if that is the reason.
        owner: Option<String>,
        /// Until the next try.
        delay: Duration,
    },
    /// `ERROR`: the registry refused a change as a whole. It is tried again.
    ApplyRefused {
        /// The registry's words.
        refusal: Refusal,
        /// Until the next try.
        delay: Duration,
    },
    /// `ERROR`: another process registered under this name, and the registry gave it to that one. The client is
    /// dormant: it asks now and then whether the name is free, and does not register until it is.
    Replaced {
        /// The registry.
        registry: Registry,
        /// The name that was taken.
        service: ServiceName,
        /// The name that was taken.
        instance: InstanceName,
    },
    /// `ERROR`: the peer is not a registry, or refuses this client. The client tries again.
    Error {
        /// The registry.
        registry: Registry,
        /// Why.
        cause: Cause,
    },
    /// `LOG`: this registry cannot do something that is wanted.
    Unsupported {
        /// The route.
        key: RouteKey,
        /// What is left out.
        what: String,
    },
    /// `MAINT_REQUESTED`: maintenance is wanted, and the registry will be told.
    MaintenanceRequested {
        /// What it is about.
        target: MaintenanceTarget,
    },
    /// `MAINT_PROXY_ENTERED`: the proxy shows the page and has reached it. `MAINT_LOCAL_ENTERED`: the proxy has not
    /// said so within 30 s, or cannot; it may still say so later.
    MaintenanceEntered {
        /// What it is about.
        target: MaintenanceTarget,
        /// Who has confirmed it.
        mode: Mode,
    },
    /// `MAINT_EXIT_REQUESTED`: maintenance is wanted no longer, and the registry will be told.
    MaintenanceExitRequested {
        /// What it is about.
        target: MaintenanceTarget,
    },
    /// `MAINT_PROXY_EXITED`: the proxy has reached the backend again. `MAINT_LOCAL_EXITED`: it has not said so
    /// within 30 s; it may still say so later.
    MaintenanceExited {
        /// What it is about.
        target: MaintenanceTarget,
        /// Who has confirmed it.
        mode: Mode,
    },
    /// `ERROR`: the proxy could not reach the page, or the backend, within its time, or refused to try.
    MaintenanceFailed {
        /// Whether it was entered or left.
        entering: bool,
        /// The registry's words.
        refusal: String,
    },
    /// `LOG`: the registry sends no new requests here, or sends them again ([SEMANTICS section 6](crate::spec::semantics#6-drain-and-hold)).
    Drained(bool),
    /// `CONFIG_VALIDATED`: CONFIG_VALIDATE found nothing wrong with the stage.
    ConfigValidated,
    /// `CONFIG_INVALID`: CONFIG_VALIDATE found something wrong with the stage.
    ConfigInvalid {
        /// The registry's words.
        refusal: Refusal,
    },
    /// `IP_CHANGED`: the address behind the routes is another one; the routes follow.
    IpChanged {
        /// The former.
        old: IpAddr,
        /// The present.
        new: IpAddr,
    },
    /// `REGISTRY_EVENT`: what was subscribed to ([`Client::subscribe`](super::Client::subscribe)).
    Registry {
        /// Which kind.
        kind: EventKind,
        /// What the registry says about it.
        data: serde_json::Value,
    },
    /// `LOG`: this listener was too slow, and missed that many events.
    Missed(u64),
}

/// Who has confirmed that maintenance was entered or left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The proxy has.
    Proxy,
    /// Only this client has: the proxy has not confirmed it in time.
    Local,
}

/// A registry: as configured, and the address that a connection was made to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registry {
    /// `host:port` as configured.
    pub name: Arc<str>,
    /// The address behind it, where there is a connection.
    pub peer: Option<SocketAddr>,
}

/// A wait before the next attempt to connect.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Retry {
    /// Where to.
    pub registry: Registry,
    /// Which retry this will be, from 1, counted since a session last held.
    pub attempt: u32,
    /// Until then.
    pub delay: Duration,
    /// Why the last one failed.
    pub cause: Cause,
}

impl Event {
    /// The name that users of the Go client know.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Connected { .. } => "CONNECTED",
            Event::Disconnected { .. } => "DISCONNECTED",
            Event::Retrying(_) => "RETRYING",
            Event::ExtendedRetry(_) => "EXTENDED_RETRY",
            Event::Reconnected { .. } => "RECONNECTED",
            Event::RouteAdded { .. } => "ROUTE_ADDED",
            Event::RouteUpdated { .. } => "ROUTE_UPDATED",
            Event::RouteRemoved { .. } => "ROUTE_REMOVED",
            Event::HealthCheckSet { .. } => "HEALTH_CHECK_SET",
            Event::ConfigApplied { .. } => "CONFIG_APPLIED",
            Event::RouteRefused { .. }
            | Event::ApplyRefused { .. }
            | Event::Replaced { .. }
            | Event::MaintenanceFailed { .. }
            | Event::Error { .. } => "ERROR",
            Event::MaintenanceRequested { .. } => "MAINT_REQUESTED",
            Event::MaintenanceEntered { mode: Mode::Proxy, .. } => "MAINT_PROXY_ENTERED",
            Event::MaintenanceEntered { mode: Mode::Local, .. } => "MAINT_LOCAL_ENTERED",
            Event::MaintenanceExitRequested { .. } => "MAINT_EXIT_REQUESTED",
            Event::MaintenanceExited { mode: Mode::Proxy, .. } => "MAINT_PROXY_EXITED",
            Event::MaintenanceExited { mode: Mode::Local, .. } => "MAINT_LOCAL_EXITED",
            Event::ConfigValidated => "CONFIG_VALIDATED",
            Event::ConfigInvalid { .. } => "CONFIG_INVALID",
            Event::IpChanged { .. } => "IP_CHANGED",
            Event::Registry { .. } => "REGISTRY_EVENT",
            Event::Unsupported { .. } | Event::Joined { .. } | Event::Drained(_) | Event::Missed(_) => "LOG",
        }
    }
}
