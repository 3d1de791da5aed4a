//! The model of the operators' page: plain data that says everything the page shows.

use serde::{Deserialize, Serialize};

/// A running server at one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct View {
    /// The server itself.
    pub(crate) server: ServerView,
    /// What all requests have in common, those that nobody claims included.
    pub(crate) traffic: Traffic,
    /// The services, by name.
    pub(crate) services: Vec<ServiceView>,
    /// How many there are.
    pub(crate) services_total: usize,
    /// The certificates, those that end first at the top.
    pub(crate) certificates: Vec<CertificateView>,
    /// The cluster, if the server is one of several.
    pub(crate) cluster: Option<ClusterView>,
    /// What happened last, newest first.
    pub(crate) events: Vec<EventView>,
}

/// The server itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct ServerView {
    /// Its name and version.
    pub(crate) version: String,
    /// When it started.
    pub(crate) started: String,
    /// `ready`, `loading` or `stopping`.
    pub(crate) readiness: String,
    /// Connections of clients.
    pub(crate) connections: usize,
    /// Sessions, lost ones in grace included.
    pub(crate) sessions: usize,
    /// Backends that are checked.
    pub(crate) checks: usize,
    /// Requests that wait for somebody to claim them.
    pub(crate) unclaimed_waiting: usize,
    /// Whether actions can be asked for: ADMIN_TOKEN is set.
    pub(crate) actions: bool,
}

/// How something is, in one word: the page gives each a colour and a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Condition {
    /// All is well.
    #[default]
    Up,
    /// It is being drained.
    Draining,
    /// It is in maintenance.
    Maintenance,
    /// It serves, but not all of it does.
    Degraded,
    /// Requests wait for it.
    Held,
    /// It does not serve.
    Down,
}

impl Condition {
    /// The word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Condition::Up => "up",
            Condition::Draining => "draining",
            Condition::Maintenance => "maintenance",
            Condition::Degraded => "degraded",
            Condition::Held => "held",
            Condition::Down => "down",
        }
    }
}

/// A service with what belongs to it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct ServiceView {
    /// Its name.
    pub(crate) name: String,
    /// The worst of its claims.
    pub(crate) condition: Condition,
    /// Why.
    pub(crate) why: String,
    /// Members that get requests. A member of several claims counts once for each.
    pub(crate) usable: usize,
    /// All members.
    pub(crate) members: usize,
    /// Requests whose response is not over.
    pub(crate) in_flight: u64,
    /// Its claims, up to a limit.
    pub(crate) claims: Vec<ClaimView>,
    /// How many it has.
    pub(crate) claims_total: usize,
    /// Its sessions, up to a limit.
    pub(crate) sessions: Vec<SessionView>,
    /// What its requests did lately.
    pub(crate) traffic: Traffic,
}

/// A claim with its members.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct ClaimView {
    /// The domain.
    pub(crate) domain: String,
    /// The path prefix.
    pub(crate) path: String,
    /// How it is.
    pub(crate) condition: Condition,
    /// Why.
    pub(crate) why: String,
    /// Its members, up to a limit.
    pub(crate) members: Vec<MemberView>,
    /// How many it has.
    pub(crate) members_total: usize,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct MemberView {
    /// The instance that registered it.
    pub(crate) instance: String,
    /// Where requests go.
    pub(crate) backend: String,
    /// How it is.
    pub(crate) condition: Condition,
    /// Why.
    pub(crate) why: String,
    /// Requests whose response is not over.
    pub(crate) in_flight: u32,
    /// Websockets and the like.
    pub(crate) upgraded: u32,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct SessionView {
    /// Its number, by which actions name it.
    pub(crate) session: u64,
    /// Its instance.
    pub(crate) instance: String,
    /// Its address.
    pub(crate) peer: String,
    /// How it is.
    pub(crate) condition: Condition,
    /// Why, with the grace that is left.
    pub(crate) why: String,
    /// When it was registered.
    pub(crate) since: String,
    /// How many of its routes are in force.
    pub(crate) routes: usize,
    /// When its grace ends, if it is lost.
    pub(crate) grace_ends: Option<String>,
    /// Its drain.
    pub(crate) drain: Option<DrainView>,
    /// Its maintenance.
    pub(crate) maintenance: Option<MaintenanceView>,
}

/// A drain.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct DrainView {
    /// When it ends at the latest.
    pub(crate) ends: String,
    /// Requests whose response is not over.
    pub(crate) in_flight: u64,
    /// Websockets and the like.
    pub(crate) upgraded: u64,
}

/// A maintenance.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct MaintenanceView {
    /// Since when.
    pub(crate) since: String,
    /// How many of the session's routes are in it.
    pub(crate) routes: usize,
    /// The page that people see; `None`: the proxy's own.
    pub(crate) page: Option<String>,
}

/// A certificate of CERT_DIR.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct CertificateView {
    /// Its host names.
    pub(crate) names: Vec<String>,
    /// When it ends; `None`: it does not say it in a form that is understood.
    pub(crate) ends: Option<String>,
    /// How many days are left, negative when it has ended.
    pub(crate) days: Option<i64>,
    /// How that is.
    pub(crate) condition: Condition,
}

/// The cluster as this replica sees it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct ClusterView {
    /// This replica.
    pub(crate) replica: String,
    /// `leader`, `follower` or `leaderless`.
    pub(crate) role: String,
    /// Who leads.
    pub(crate) leader: Option<String>,
    /// Since when that is so.
    pub(crate) since: String,
    /// All replicas that are present.
    pub(crate) replicas: Vec<String>,
    /// How many revisions this one is behind.
    pub(crate) behind: u64,
    /// Why what it shows may be out of date.
    pub(crate) trouble: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct EventView {
    /// When.
    pub(crate) at: String,
    /// `info` or `warning`.
    pub(crate) level: String,
    /// The service that it concerns.
    pub(crate) service: Option<String>,
    /// What.
    pub(crate) text: String,
}

/// Requests of the last quarter of an hour, in steps of [`Traffic::STEP_SECONDS`], oldest first. Steps before the server's
/// start, and before a service's first request, are left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Traffic {
    /// Requests a second.
    pub(crate) rate: Vec<f32>,
    /// The share of them that ended with 5xx, from 0 to 1.
    pub(crate) errors: Vec<f32>,
    /// Milliseconds within which half of them were over. Estimated from a histogram, as all percentiles here.
    pub(crate) p50: Vec<f32>,
    /// Milliseconds within which 95 of 100 were over.
    pub(crate) p95: Vec<f32>,
    /// Milliseconds within which 99 of 100 were over.
    pub(crate) p99: Vec<f32>,
}

impl Traffic {
    /// How long a step is.
    pub(crate) const STEP_SECONDS: u64 = 15;
    /// How many steps are kept: a quarter of an hour.
    pub(crate) const STEPS: usize = 60;
}
