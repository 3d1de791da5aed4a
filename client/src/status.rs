//! The state of a client as a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::event::{Cause, Mode, Registry};
use super::intent::{MaintenanceTarget, RouteKey, Visibility};
use crate::protocol::{Refusal, RouteId, SessionId};

/// The state of a client. A snapshot; [`Client::watch`](crate::Client::watch) tells when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// What the client is doing.
    pub phase: Phase,
    /// The registry, with its address while there is a connection.
    pub registry: Registry,
    /// The address of the last connection, whether it still exists or not.
    pub last_peer: Option<SocketAddr>,
    /// A session is bound to the connection right now.
    pub bound: bool,
    /// Why the last attempt brought no session, or why the last one ended; `None` while there is one.
    pub cause: Option<Cause>,
    /// A session is known that a new connection will ask for.
    pub session_known: bool,
    /// The session's revision at the registry, where it counts them ([PROTOCOL section 2](crate::spec::protocol#2-sessions)).
    pub revision: Option<u64>,
    /// The registry is this project's own.
    pub ours: bool,
    /// What it announces beyond the reference ([PROTOCOL section 7](crate::spec::protocol#7-extensions-of-ours)).
    pub capabilities: BTreeSet<String>,
    /// The session that is known. Whoever has its id may act for it: keep it out of logs.
    pub session: Option<SessionId>,
    /// What the registry shares its state with, if it says so: registries with the same id know the same sessions.
    pub cluster_id: Option<Arc<str>>,
    /// Another process has registered under this name and the registry gave it to that one ([`Event::Replaced`]).
    ///
    /// [`Event::Replaced`]: crate::Event::Replaced
    pub replaced: bool,
    /// The registry has acknowledged that this client left (CLIENT_SHUTDOWN). Without that it may send requests until it
    /// notices.
    pub left: bool,
    /// What people are to see of the routes.
    pub visibility_wanted: Visibility,
    /// What people see of the routes, as far as the registry has confirmed it: [`Visibility::Maintenance`] where
    /// every route is in maintenance, [`Visibility::Draining`] where DRAIN_START was answered.
    pub shown: Visibility,
    /// The registry can drain this session without an outage: it announces `drain`, and has not refused it.
    pub can_drain: bool,
    /// The targets that are to be in maintenance.
    pub maintenance_wanted: Vec<MaintenanceTarget>,
    /// What has become of each maintenance request that still counts, oldest first. A request to leave maintenance no
    /// longer counts once the registry has confirmed it.
    pub maintenance_requests: Vec<MaintenanceProgress>,
    /// The registry's words where it refused the last maintenance request, or could not reach the page or the
    /// backend in time; `None` after the next request.
    pub maintenance_refusal: Option<String>,
    /// The routes that the registry was told to keep in maintenance, and whether it has confirmed that.
    pub maintenance: BTreeMap<RouteKey, bool>,
    /// How many changes of the intent this reflects.
    pub intent: u64,
    /// A session is bound, every wanted route is in force, and no other.
    pub live: bool,
    /// A session is bound and the registry has confirmed the whole intent: routes, visibility, maintenance and
    /// subscriptions.
    pub settled: bool,
    /// The state of each wanted route.
    pub routes: BTreeMap<RouteKey, RouteStatus>,
    /// The registry's words where it refused the last apply as a whole; `None` after the next success.
    pub apply_refusal: Option<Refusal>,
}

/// What has become of one maintenance request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaintenanceProgress {
    /// What it is about.
    pub target: MaintenanceTarget,
    /// Whether it enters maintenance; otherwise it leaves it.
    pub entering: bool,
    /// Who has carried it out; `None`: nobody yet.
    pub mode: Option<Mode>,
}

/// What a client is doing: the states of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Phase {
    /// There is no connection; the client waits before its next attempt.
    Disconnected,
    /// Resolving or dialling.
    Connecting,
    /// The client asks for a new session.
    Registering,
    /// The client asks for its former session, and checks it.
    Resuming,
    /// Changes are being staged and applied.
    Syncing,
    /// Nothing to do but to keep the session alive; refused routes wait for their next try.
    Live,
    /// Somebody else has our name: see [`Event::Replaced`](crate::Event::Replaced).
    Dormant,
    /// CLIENT_SHUTDOWN was sent.
    Leaving,
    /// The end.
    Stopped,
}

/// The state of one wanted route.
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
