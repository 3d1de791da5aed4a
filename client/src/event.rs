//! What a client tells about itself: events by the names that users of the Go client know, and a status.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use super::connect::ConnectError;
use super::intent::{MaintenanceTarget, Route, RouteKey, Wanted};
use crate::protocol::{EventKind, InstanceName, Refusal, RouteId, ServiceName, SessionId};

mod data;

/// Something that happened. [`Event::name`] gives the name, `Display` a sentence for a log.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// `CONNECTED`: the first session is there; nothing is registered in it yet.
    Connected {
        /// Where.
        registry: Registry,
    },
    /// `DISCONNECTED`: the session's connection is gone. Its routes stay for the registry's grace period.
    Disconnected {
        /// From where.
        registry: Registry,
        /// Why.
        cause: Cause,
    },
    /// `RETRYING`: the next attempt to connect is a delay away.
    Retrying(Retry),
    /// `EXTENDED_RETRY`: the same, and the delays have reached their greatest range.
    ExtendedRetry(Retry),
    /// `RECONNECTED`: there is a session again.
    Reconnected {
        /// Where.
        registry: Registry,
        /// Whether it is the former session; otherwise everything is being registered again.
        resumed: bool,
    },
    /// `LOG`: the service of this new session has others, which come from other addresses (SEMANTICS section 1).
    Joined {
        /// Where.
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
        /// The caller's name for it; `None` for one that was found at the registry and was nobody's.
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
        /// The service that has the claim, where that is why.
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
    /// `ERROR`: somebody else registered under this name, and the registry gave it to them. The client is
    /// dormant: it asks now and then whether the name is free, and never fights for it.
    Replaced {
        /// Where.
        registry: Registry,
        /// The name that was taken.
        service: ServiceName,
        /// The name that was taken.
        instance: InstanceName,
    },
    /// `ERROR`: the peer is no registry, or not one that takes us. The connection is tried again.
    Error {
        /// Where.
        registry: Registry,
        /// What is wrong.
        cause: Cause,
    },
    /// `LOG`: this registry cannot do something that is wanted.
    Unsupported {
        /// The route.
        key: RouteKey,
        /// What is left out.
        what: String,
    },
    /// `MAINT_REQUESTED`: maintenance is wanted, and the registry is about to be told.
    MaintenanceRequested {
        /// Of what.
        target: MaintenanceTarget,
    },
    /// `MAINT_PROXY_ENTERED`: the proxy shows the page and has reached it. `MAINT_LOCAL_ENTERED`: it has not
    /// said so within 30 s, or cannot; its word may still come.
    MaintenanceEntered {
        /// Of what.
        target: MaintenanceTarget,
        /// Whose word this is.
        mode: Mode,
    },
    /// `MAINT_EXIT_REQUESTED`: maintenance is wanted no longer, and the registry is about to be told.
    MaintenanceExitRequested {
        /// Of what.
        target: MaintenanceTarget,
    },
    /// `MAINT_PROXY_EXITED`: the proxy has reached the backend again. `MAINT_LOCAL_EXITED`: it has not said so
    /// within 30 s; its word may still come.
    MaintenanceExited {
        /// Of what.
        target: MaintenanceTarget,
        /// Whose word this is.
        mode: Mode,
    },
    /// `ERROR`: the proxy could not reach the page, or the backend, within its time, or refused to try.
    MaintenanceFailed {
        /// Whether it was entered or left.
        entering: bool,
        /// The registry's words.
        refusal: String,
    },
    /// `LOG`: the registry sends no new requests here, or sends them again (SEMANTICS section 6).
    Drained(bool),
    /// `CONFIG_VALIDATED`: CONFIG_VALIDATE found nothing wrong with the stage.
    ConfigValidated,
    /// `CONFIG_INVALID`: it did.
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
    /// `LOG`: this listener was too slow, and that many events are lost to it.
    Missed(u64),
}

/// Whose word it is that maintenance was entered or left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The proxy's.
    Proxy,
    /// Ours: the proxy's did not come in time.
    Local,
}

/// A registry: as configured, and the address that a connection was made to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// `host:port` as configured.
    pub name: Arc<str>,
    /// The address behind it, where there is a connection.
    pub peer: Option<SocketAddr>,
}

/// A wait before the next attempt to connect.
#[derive(Debug, Clone, PartialEq)]
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

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// There was no connection to be had.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The peer closed the connection.
    #[error("the registry closed the connection")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The registry said that it is going down.
    #[error("the registry is shutting down")]
    ServerShutdown,
    /// A command was not answered in time.
    #[error("no answer to {command} within {after:?}")]
    Silent {
        /// The command's name.
        command: &'static str,
        /// REQUEST_TIMEOUT.
        after: Duration,
    },
    /// An HTTP server answered.
    #[error("an HTTP server answers there, not a registry: check host and port (the registry's is 81)")]
    SpeaksHttp,
    /// Something else answered.
    #[error("whatever answers there is no registry: it sent {0:?}")]
    NotARegistry(String),
    /// A line longer than any reply.
    #[error("the registry sent a line longer than {} bytes", crate::protocol::MAX_CLIENT_LINE)]
    LineTooLong,
    /// A reply that does not belong to its command.
    #[error("unexpected answer to {command}: {reply}")]
    Unexpected {
        /// The command's name; empty where none was waiting.
        command: &'static str,
        /// The reply, without secrets.
        reply: String,
    },
    /// The registry refused a command without which there is no session.
    #[error("the registry refused {command}: {refusal}")]
    Refused {
        /// The command's name.
        command: &'static str,
        /// The registry's words.
        refusal: Refusal,
    },
}

impl Cause {
    /// Whether whatever answers there is at fault, not the way to it.
    pub(super) fn is_the_peers_fault(&self) -> bool {
        match self {
            Cause::SpeaksHttp
            | Cause::NotARegistry(_)
            | Cause::LineTooLong
            | Cause::Unexpected { .. }
            | Cause::Refused { .. } => true,
            Cause::Connect(_)
            | Cause::Closed
            | Cause::Broken(_)
            | Cause::ServerShutdown
            | Cause::Silent { .. } => false,
        }
    }
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

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Connected { registry } => write!(f, "connected to {registry}"),
            Event::Disconnected { registry, cause } => write!(f, "disconnected from {registry}: {cause}"),
            Event::Retrying(retry) => write!(f, "{retry}"),
            Event::ExtendedRetry(retry) => write!(f, "still no session: {retry}"),
            Event::Reconnected { registry, resumed: true } => write!(f, "session resumed at {registry}"),
            Event::Reconnected { registry, resumed: false } => {
                write!(f, "new session at {registry}, registering everything again")
            }
            Event::Joined { registry, service, siblings } => write!(
                f,
                "joining service {service} at {registry}; its sessions from other addresses: {siblings}"
            ),
            Event::RouteAdded { key, id, route } => write!(f, "route {key} added as {id}: {}", Shown(route)),
            Event::RouteUpdated { key, id, route } => {
                write!(f, "route {key} ({id}) changed: {}", Shown(route))
            }
            Event::RouteRemoved { key: Some(key), id } => write!(f, "route {key} ({id}) removed"),
            Event::RouteRemoved { key: None, id } => write!(f, "stale route {id} removed"),
            Event::HealthCheckSet { key, id } => write!(f, "health check of route {key} ({id}) set"),
            Event::ConfigApplied { routes, .. } => {
                write!(f, "configuration applied, routes in force: {routes}")
            }
            Event::RouteRefused { key, refusal, delay, .. } => {
                write!(f, "route {key} refused, next try in {delay:?}: {refusal}")
            }
            Event::ApplyRefused { refusal, delay } => {
                write!(f, "configuration refused, next try in {delay:?}: {refusal}")
            }
            Event::Replaced { registry, service, instance } => write!(
                f,
                "another process has registered as service {service}, instance {instance} at {registry} and \
                 has taken this one's place; waiting until it is gone"
            ),
            Event::Error { registry, cause } => write!(f, "{registry}: {cause}"),
            Event::Unsupported { key, what } => write!(f, "route {key}: {what}"),
            Event::MaintenanceRequested { target } => write!(f, "maintenance of {target} requested"),
            Event::MaintenanceEntered { target, mode: Mode::Proxy } => {
                write!(f, "maintenance of {target} entered: the proxy shows the page")
            }
            Event::MaintenanceEntered { target, mode: Mode::Local } => {
                write!(f, "maintenance of {target} entered here; the proxy has not confirmed it")
            }
            Event::MaintenanceExitRequested { target } => {
                write!(f, "end of maintenance of {target} requested")
            }
            Event::MaintenanceExited { target, mode: Mode::Proxy } => {
                write!(f, "maintenance of {target} has ended: the proxy reaches the application")
            }
            Event::MaintenanceExited { target, mode: Mode::Local } => {
                write!(f, "maintenance of {target} has ended here; the proxy has not confirmed it")
            }
            Event::MaintenanceFailed { entering: true, refusal } => {
                write!(f, "the proxy did not enter maintenance as asked: {refusal}")
            }
            Event::MaintenanceFailed { entering: false, refusal } => {
                write!(f, "the proxy did not leave maintenance as asked: {refusal}")
            }
            Event::Drained(true) => f.write_str("drained: the registry sends no new requests here"),
            Event::Drained(false) => f.write_str("no longer drained: the registry sends requests here again"),
            Event::ConfigValidated => f.write_str("the registry finds nothing wrong with the stage"),
            Event::ConfigInvalid { refusal } => write!(f, "the registry would refuse the stage: {refusal}"),
            Event::IpChanged { old, new } => write!(f, "address changed from {old} to {new}"),
            Event::Registry { kind, data } => write!(f, "{kind}: {data}"),
            Event::Missed(count) => write!(f, "{count} events were missed by a slow listener"),
        }
    }
}

/// A route in one line.
struct Shown<'a>(&'a Route);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.0.domains, self.0.path, self.0.backend)
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) if *self.name != *peer.to_string() => write!(f, "{} ({peer})", self.name),
            _ => f.write_str(&self.name),
        }
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "retry {} of {} in {:?}: {}", self.attempt, self.registry, self.delay, self.cause)
    }
}

/// Where a client stands. A snapshot; [`Client::watch`](super::Client::watch) tells when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// What the client is about.
    pub phase: Phase,
    /// The registry, with its address while there is a connection.
    pub registry: Registry,
    /// The address of the last connection, whether it still is or not.
    pub last_peer: Option<SocketAddr>,
    /// A session is bound to the connection right now.
    pub bound: bool,
    /// Why there was none when it was last tried; `None` since there is one.
    pub cause: Option<Cause>,
    /// A session is known that a new connection will ask for.
    pub session_known: bool,
    /// The revision that the registry should have, where it counts them.
    pub revision: Option<u64>,
    /// The registry is this project's own.
    pub ours: bool,
    /// What it announces beyond the reference (PROTOCOL section 7).
    pub capabilities: BTreeSet<String>,
    /// The session that is known. Whoever has its id may act for it: keep it out of logs.
    pub session: Option<SessionId>,
    /// What it shares its state with, where it says so: registries with the same one know the same sessions.
    pub cluster_id: Option<Arc<str>>,
    /// What of the routes people see, as far as the registry has confirmed it: [`Wanted::Maintenance`] where
    /// every route is in maintenance, [`Wanted::Draining`] where DRAIN_START was answered.
    pub shown: Wanted,
    /// Of what maintenance is wanted.
    pub maintenance_wanted: Vec<MaintenanceTarget>,
    /// The routes that the registry was told to keep in maintenance, and whether it has confirmed that.
    pub maintenance: BTreeMap<RouteKey, bool>,
    /// How many changes of the intent this reflects.
    pub intent: u64,
    /// The session is bound and all that is wanted is in force, and nothing else.
    pub live: bool,
    /// How each wanted route stands.
    pub routes: BTreeMap<RouteKey, RouteStatus>,
}

/// What a client is about: the states of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Phase {
    /// No connection; the next attempt is a delay away.
    Disconnected,
    /// Resolving or dialling.
    Connecting,
    /// A new session is being asked for.
    Registering,
    /// The former session is being asked for, and checked.
    Resuming,
    /// Changes are being staged and applied.
    Syncing,
    /// Nothing to do but to keep the session alive; refused routes wait for their next try.
    Live,
    /// Somebody else has our name: see [`Event::Replaced`].
    Dormant,
    /// CLIENT_SHUTDOWN was sent.
    Leaving,
    /// The end.
    Stopped,
}

/// How one wanted route stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteStatus {
    /// Exactly this is in force, as far as is known.
    Applied(RouteId),
    /// It is not in force, or not as it is wanted.
    Pending,
    /// The registry refused it; it is tried again.
    Refused(Refusal),
    /// This registry cannot do it.
    Unsupported,
}

impl fmt::Display for RouteStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteStatus::Applied(id) => write!(f, "applied ({id})"),
            RouteStatus::Pending => f.write_str("pending"),
            RouteStatus::Refused(refusal) => write!(f, "refused: {refusal}"),
            RouteStatus::Unsupported => f.write_str("unsupported by this registry"),
        }
    }
}

/// The events of a client, from the moment of the subscription on.
///
/// A listener that does not keep up never holds the client back: it loses the oldest events and is told how
/// many with [`Event::Missed`].
#[derive(Debug)]
pub struct EventStream {
    /// Behind a pointer, because the channel has room for each from the start.
    receiver: broadcast::Receiver<Arc<Event>>,
}

/// How many events a slow listener may be behind.
pub(super) const EVENT_BUFFER: usize = 256;

impl EventStream {
    pub(super) fn new(receiver: broadcast::Receiver<Arc<Event>>) -> Self {
        EventStream { receiver }
    }

    /// The next event; `None` when the client has stopped and all events were read.
    ///
    /// Cancel safe: a dropped call loses no event.
    pub async fn next(&mut self) -> Option<Event> {
        match self.receiver.recv().await {
            Ok(event) => Some(Arc::unwrap_or_clone(event)),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(Event::Missed(count)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_listener_is_told_what_it_missed_and_holds_nobody_back() {
        let (sender, receiver) = broadcast::channel(2);
        let mut events = EventStream::new(receiver);
        for count in 0..5 {
            sender.send(Arc::new(Event::Missed(count + 100))).unwrap();
        }
        drop(sender);
        assert_eq!(events.next().await, Some(Event::Missed(3)));
        assert_eq!(events.next().await, Some(Event::Missed(103)));
        assert_eq!(events.next().await, Some(Event::Missed(104)));
        assert_eq!(events.next().await, None);
    }
}
