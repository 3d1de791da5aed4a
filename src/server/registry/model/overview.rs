//! What people are shown of the registry: its sessions, and what its members wait for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use registry_client::protocol::{InstanceName, ServiceName};

use crate::server::routing::MemberId;

use super::ids::SessionNo;
use super::lifecycle::MemberState;

/// The registry at one moment.
#[derive(Debug, Clone, Default)]
pub struct Overview {
    /// The sessions, by service, instance and number, up to a limit.
    pub sessions: Vec<SessionOverview>,
    /// How many there are.
    pub sessions_total: usize,
    /// The members about which there is something to say. All others answer their checks and have their sessions.
    pub members: HashMap<MemberId, MemberOverview>,
}

/// A session.
#[derive(Debug, Clone)]
pub struct SessionOverview {
    /// Its number.
    pub no: SessionNo,
    /// Its service.
    pub service: ServiceName,
    /// Its instance.
    pub instance: InstanceName,
    /// The address that it is bound from, or was last.
    pub peer: IpAddr,
    /// Whether it has a connection.
    pub standing: Standing,
    /// When it was registered.
    pub since: SystemTime,
    /// How many of its routes are in force.
    pub routes: usize,
    /// How many of its applies have succeeded.
    pub revision: u64,
    /// Its drain.
    pub drain: Option<DrainOverview>,
    /// Its maintenance.
    pub maintenance: Option<MaintenanceOverview>,
}

/// Whether a session has a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has one here.
    Connected,
    /// It has one at another replica.
    Remote,
    /// It has none. Its routes go after this time; `None`: whoever leads knows when.
    Lost(Option<Duration>),
    /// A newer session has its name, and will serve in its place.
    Replaced,
}

/// A session's drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainOverview {
    /// When it began.
    pub since: SystemTime,
    /// How long it may take.
    pub time: Duration,
    /// What is left of that.
    pub remaining: Duration,
    /// Requests whose response is not over, at all replicas.
    pub in_flight: u64,
    /// Upgraded connections, at all replicas.
    pub upgraded: u64,
}

/// A session's maintenance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaintenanceOverview {
    /// How many of its routes are in maintenance.
    pub routes: usize,
    /// When the first of them entered it.
    pub since: SystemTime,
    /// The page that people see; `None`: the proxy's own.
    pub page: Option<String>,
    /// The session that entered it, if it is another one's.
    pub by: Option<SessionNo>,
}

/// A member about which there is something to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberOverview {
    /// Its state.
    pub state: MemberState,
    /// Its session is lost.
    pub is_lost: bool,
    /// Failed checks in a row.
    pub failures: u8,
    /// Why the last check failed, unless it passed.
    pub error: Option<String>,
}
