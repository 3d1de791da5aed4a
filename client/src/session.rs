//! The session's state machine: `(intent, line, timer, link up or down) -> (lines, timers, events)`.
//!
//! It knows the protocol and the rules of PROTOCOL section 2 and SEMANTICS sections 1 and 8. It has no clock,
//! socket or task: the driver calls it. One function, `enter`, changes its state. In this file: what it
//! is told and what it remembers; in `link` how a session is got and lost, in `replies` what each reply means,
//! in `pump` what is sent next, in `visibility` drain and maintenance, in `calls` what others ask through it.

mod calls;
mod link;
mod pump;
mod replies;
mod visibility;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::batch_run::BatchRun;
use super::connect::ConnectError;
use super::error::CallError;
use super::event::{Cause, Event, Registry};
use super::intent::{Goal, Intent, Route, RouteKey, Routes, Visibility};
use super::maintenance::Requests;
use super::plan::{Applied, Batch, Dialect, Unsupported};
use super::status::{Phase, RouteStatus, Status};
use crate::protocol::{
    BackendUrl, Command, EventKind, Push, Refusal, Registration, Reply, Request, RouteId, Scheme, ServerLine,
    SessionId,
};
use visibility::{Drain, MaintainedRoute, PendingMaintenance};

/// The times that steer a session.
#[derive(Debug, Clone)]
pub struct Timing {
    /// From one PING to the next.
    pub keepalive_interval: Duration,
    /// How long a command may wait for its reply.
    pub request_timeout: Duration,
    /// The least delay before a new attempt to connect, and exactly the first.
    pub reconnect_min: Duration,
    /// The greatest delay before a new attempt to connect.
    pub reconnect_max: Duration,
    /// From one look at a reference server's routes to the next; `None`: more often while the session is young.
    pub route_watch: Option<Duration>,
}

/// How long to wait for the answer to CLIENT_SHUTDOWN ([SEMANTICS section 8](crate::spec::semantics#8-bounds)).
pub(super) const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);
/// After a session of at least this length the next back-off starts from its minimum.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// How many calls may wait for their turn.
const MAX_CALLS: usize = 16;

/// A session and everything it has to remember, across connections.
#[derive(Debug, Clone)]
pub struct Session {
    name: Arc<str>,
    timing: Timing,
    registration: Registration,
    wanted: Routes,
    /// How many changes of the intent `wanted` reflects.
    intent: u64,
    state: State,
    link: Option<Link>,
    /// Commands without their replies, oldest first.
    outstanding: VecDeque<PendingReply>,
    known: Option<Known>,
    refused: BTreeMap<RouteKey, Refused>,
    reported_unsupported: BTreeSet<Unsupported>,
    /// No new try before this, because an apply was refused as a whole.
    apply_retry_at: Option<Instant>,
    /// The registry's words where it refused the last apply as a whole.
    apply_refusal: Option<Refusal>,
    calls: VecDeque<(Ticket, Request)>,
    visibility: Visibility,
    page: Option<BackendUrl>,
    maintenance: Requests,
    /// How many requests for maintenance the handles have made, up to the last that was heard of.
    requests_seen: u64,
    /// The maintenance request that is under way ([PROTOCOL section 6](crate::spec::protocol#6-asynchronous-lines): at most one).
    pending_maintenance: Option<PendingMaintenance>,
    /// So many verdicts are still to come of requests that were given up.
    verdicts_to_ignore: u32,
    /// Backends that a reference server may keep in maintenance, as former sessions told it to.
    stuck: BTreeSet<BackendUrl>,
    /// No new maintenance request before this, because one was refused or not confirmed.
    maintenance_retry_at: Option<Instant>,
    /// What the registry said where it did not do as the last maintenance request asked.
    maintenance_refusal: Option<String>,
    subscriptions: BTreeSet<EventKind>,
    /// The routes that a reference server is asked about now.
    watched: Vec<RouteId>,
    /// The last that it was asked about in the look before.
    watched_up_to: Option<RouteId>,
    /// When the next look begins.
    watch_at: Option<Instant>,
    last_peer: Option<SocketAddr>,
    /// Why there is no session.
    cause: Option<Cause>,
    /// Our name belongs to somebody else until a RECONNECT says otherwise.
    replaced: bool,
    /// CLIENT_SHUTDOWN was answered.
    left: bool,
    ever_bound: bool,
    /// The listeners were told of a session, and not yet of its end.
    connection_reported: bool,
    rng: fastrand::Rng,
    link_backoff: Backoff,
    apply_backoff: Backoff,
    ask_backoff: Backoff,
    effects: Vec<Effect>,
    version: u64,
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Connect, and report with `link_up` or `link_failed`.
    Dial {
        /// How many attempts there were since a session last held.
        attempt: u32,
    },
    /// Put this on the wire, after what is there already.
    Send(Command),
    /// Close the connection, or abandon the attempt to make one.
    Hangup,
    /// Publish this event.
    Event(Event),
    /// Give this result to the caller with this ticket.
    Answer(Ticket, Result<Reply, CallError>),
}

/// Identifies a call of a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What came over the wire.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// A line of the protocol.
    Line(ServerLine),
    /// A line of HTTP.
    Http,
    /// A line of something else; its beginning, without secrets.
    Garbage(String),
    /// A line longer than any reply.
    TooLong,
}

#[derive(Debug, Clone)]
enum State {
    Disconnected { retry_at: Instant },
    Connecting,
    Registering,
    Resuming,
    Syncing(Box<BatchRun>),
    Live { ping_at: Instant },
    Dormant { ask_at: Instant },
    Leaving { until: Instant },
    Stopped,
}

/// A connection.
#[derive(Debug, Clone)]
struct Link {
    peer: SocketAddr,
    /// Since when a session has been bound to it.
    bound_since: Option<Instant>,
    /// REGISTER was sent on it: a server that forgets us after that is not asked again at once.
    registered: bool,
}

#[derive(Debug, Clone)]
struct PendingReply {
    expect: Expect,
    command: &'static str,
    deadline: Instant,
}

/// What the reply to a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Register,
    Reconnect,
    Rollback,
    Info,
    List {
        revision: Option<u64>,
    },
    Stage(usize),
    Apply,
    Ping,
    /// DRAIN_START, or DRAIN_CANCEL.
    Drain(bool),
    /// MAINT_ENTER or MAINT_EXIT, the one that is under way.
    Maintain,
    /// MAINT_STATUS, where what is in maintenance is in doubt.
    Maintained,
    Subscribe(EventKind),
    /// CIRCUIT_BREAKER_STATUS, to see whether a reference server still knows the route.
    Watch(RouteId),
    /// ROUTE_UPDATE and CONFIG_APPLY that change nothing, which repair that.
    Repair,
    Call(Ticket),
    Shutdown,
    /// The session has changed meanwhile.
    Ignore,
}

/// What the client knows of its session.
#[derive(Debug, Clone)]
struct Known {
    id: SessionId,
    /// `None`: SESSION_INFO has not been answered yet.
    dialect: Option<Dialect>,
    cluster: Option<Arc<str>>,
    revision: Option<u64>,
    applied: Applied,
    /// A batch whose apply was sent and whose reply was lost: the revision will tell.
    in_doubt: Option<(Batch, BTreeMap<RouteKey, RouteId>)>,
    drain: Drain,
    /// The routes that it was told to keep in maintenance.
    maintained: BTreeMap<RouteId, MaintainedRoute>,
    /// It may have forgotten that, or not have been told: MAINT_STATUS will tell.
    is_uncertain: bool,
    subscribed: BTreeSet<EventKind>,
}

#[derive(Debug, Clone)]
struct Refused {
    refusal: Refusal,
    backoff: Backoff,
    retry_at: Instant,
}

/// The inputs of the state machine.
impl Session {
    /// A session that wants to connect at `now`. The seed steers its jitter.
    pub fn new(name: Arc<str>, timing: Timing, intent: Intent, seed: u64, now: Instant) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (registration, goal) = (intent.registration(), intent.goal());
        let mut backoff = || Backoff::new(timing.reconnect_min, timing.reconnect_max, rng.u64(..));
        let (link_backoff, apply_backoff, ask_backoff) = (backoff(), backoff(), backoff());
        let mut session = Session {
            name,
            registration,
            wanted: intent.routes,
            intent: 0,
            state: State::Disconnected { retry_at: now },
            link: None,
            outstanding: VecDeque::new(),
            known: None,
            refused: BTreeMap::new(),
            reported_unsupported: BTreeSet::new(),
            apply_retry_at: None,
            apply_refusal: None,
            calls: VecDeque::new(),
            visibility: intent.visibility,
            page: intent.maintenance_page,
            maintenance: Requests::default(),
            requests_seen: 0,
            pending_maintenance: None,
            verdicts_to_ignore: 0,
            stuck: BTreeSet::new(),
            maintenance_retry_at: None,
            maintenance_refusal: None,
            subscriptions: BTreeSet::new(),
            watched: Vec::new(),
            watched_up_to: None,
            watch_at: None,
            last_peer: None,
            cause: None,
            replaced: false,
            left: false,
            ever_bound: false,
            connection_reported: false,
            link_backoff,
            apply_backoff,
            ask_backoff,
            rng,
            timing,
            effects: Vec::new(),
            version: 0,
        };
        session.take_maintenance_requests(&goal, now);
        session.assume_left_over_maintenance(&goal);
        session.update_visibility(now);
        session
    }

    /// There is a connection.
    pub fn link_up(&mut self, peer: SocketAddr, now: Instant) {
        if !matches!(self.state, State::Connecting) {
            return self.effects.push(Effect::Hangup);
        }
        self.last_peer = Some(peer);
        self.link = Some(Link { peer, bound_since: None, registered: false });
        if self.known.is_none() {
            return self.register(now);
        }
        if self.replaced {
            self.enter(State::Dormant { ask_at: now });
        } else {
            self.enter(State::Resuming);
        }
        self.reconnect(now);
    }

    /// The attempt to connect has failed.
    pub fn link_failed(&mut self, error: ConnectError, now: Instant) {
        if matches!(self.state, State::Connecting) {
            self.lose(error.into(), now);
        }
    }

    /// The connection ended.
    pub fn link_down(&mut self, cause: Cause, now: Instant) {
        if self.link.is_some() {
            self.lose(cause, now);
        }
    }

    /// A line came.
    pub fn receive(&mut self, received: Received, now: Instant) {
        if self.link.is_none() {
            return;
        }
        let fault = match received {
            Received::Line(ServerLine::Reply(reply)) => return self.answer(reply, now),
            Received::Line(ServerLine::Push(Push::Shutdown)) => Cause::ServerShutdown,
            Received::Line(ServerLine::Push(Push::Event(kind, data))) => {
                return self.emit(Event::Registry { kind, data });
            }
            // A newer server's; it answers nothing.
            Received::Line(ServerLine::Push(Push::OtherEvent(_))) => return,
            Received::Line(ServerLine::Push(verdict)) => return self.verdict_received(&verdict, now),
            Received::Http => Cause::SpeaksHttp,
            Received::Garbage(text) => Cause::NotARegistry(text),
            Received::TooLong => Cause::LineTooLong,
        };
        self.lose(fault, now);
    }

    /// Time has passed: at or after [`Session::deadline`].
    pub fn tick(&mut self, now: Instant) {
        self.report_maintenance(now);
        let silent = self.outstanding.front().filter(|sent| sent.deadline <= now).map(|sent| sent.command);
        match self.state {
            State::Disconnected { retry_at } if retry_at <= now => {
                self.enter(State::Connecting);
                self.effects.push(Effect::Dial { attempt: self.link_backoff.taken() });
            }
            State::Leaving { until } if until <= now => self.stop(),
            State::Disconnected { .. } | State::Connecting | State::Leaving { .. } | State::Stopped => {}
            _ if silent.is_some() => {
                let command = silent.unwrap_or_default();
                self.lose(Cause::Silent { command, after: self.timing.request_timeout }, now);
            }
            State::Dormant { ask_at } if self.outstanding.is_empty() && ask_at <= now => self.reconnect(now),
            _ => self.pump(now),
        }
    }

    /// This host has other addresses than before. An attempt to connect from an address that is gone would hang, and there
    /// may be a way now where there was none: begin anew without a pause.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        if matches!(self.state, State::Connecting | State::Disconnected { .. }) {
            self.link_backoff.reset();
            self.enter(State::Disconnected { retry_at: now });
            self.tick(now);
        }
    }

    /// Whether a command is on the wire that has no reply yet.
    pub(crate) fn awaits_reply(&self) -> bool {
        !self.outstanding.is_empty()
    }

    /// When [`Session::tick`] must be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Leaving { .. } | State::Stopped => self.state_deadline(),
            _ => self.state_deadline().into_iter().chain(self.maintenance_deadline()).min(),
        }
    }

    fn state_deadline(&self) -> Option<Instant> {
        let oldest = self.outstanding.front().map(|sent| sent.deadline);
        match self.state {
            State::Disconnected { retry_at } => Some(retry_at),
            State::Leaving { until } => Some(until),
            State::Connecting | State::Stopped => None,
            State::Dormant { ask_at } => oldest.or(Some(ask_at)),
            State::Live { ping_at } => oldest.or_else(|| {
                let retries = self.refused.values().map(|refused| refused.retry_at);
                let due = match self.apply_retry_at {
                    Some(until) => Some(until),
                    None => retries.min(),
                };
                due.into_iter().chain([ping_at]).chain(self.watch_at).min()
            }),
            State::Registering | State::Resuming | State::Syncing(_) => oldest,
        }
    }

    /// The intent has changed.
    pub fn want(&mut self, mut goal: Goal, now: Instant) {
        self.intent = goal.change;
        let before = std::mem::replace(&mut self.wanted, std::mem::take(&mut goal.routes));
        // What was refused as it was may be accepted as it is.
        self.refused.retain(|key, _| before.get(key) == self.wanted.get(key));
        if before != self.wanted {
            (self.apply_retry_at, self.apply_refusal) = (None, None);
        }
        self.take_maintenance_requests(&goal, now);
        (self.visibility, self.page) = (goal.visibility, goal.page);
        if std::mem::replace(&mut self.registration.metadata, goal.metadata) != self.registration.metadata {
            // What was refused with the former token may be accepted with this one.
            self.cause.take_if(|cause| matches!(cause, Cause::Refused { .. }));
        }
        self.update_visibility(now);
        self.version += 1;
        self.pump(now);
    }

    /// A dormant client registers although another process has its name.
    pub fn take_over(&mut self, now: Instant) {
        if !self.replaced {
            return;
        }
        self.replaced = false;
        self.known = None;
        self.version += 1;
        if matches!(self.state, State::Dormant { .. }) {
            self.ignore_outstanding();
            self.register(now);
        }
    }

    /// Leaves in order: at once without a session, otherwise within 500 ms.
    pub fn leave(&mut self, now: Instant) {
        match self.state {
            State::Leaving { .. } | State::Stopped => {}
            State::Disconnected { .. } | State::Connecting | State::Dormant { .. } => self.stop(),
            State::Registering | State::Resuming | State::Syncing(_) | State::Live { .. } => {
                self.fail_calls(&CallError::Stopped);
                self.enter(State::Leaving { until: now + SHUTDOWN_TIMEOUT });
                self.send(Request::ClientShutdown, Expect::Shutdown, now);
            }
        }
    }

    /// The effects since the last call, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether the client has stopped for good.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped)
    }

    /// Grows with every change of [`Session::status`].
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The state of the client.
    pub fn status(&self) -> Status {
        let desired = self.desired();
        let routes: BTreeMap<_, _> = self
            .wanted
            .iter()
            .map(|(key, route)| (key.clone(), self.route_status(key, route, desired.contains_key(key))))
            .collect();
        // What the registry cannot have beside other routes is served by those.
        let surplus = self.dialect().surplus(&self.wanted);
        let mut counted = routes.iter().filter(|(key, _)| !surplus.contains(*key));
        let in_force = counted.all(|(_, status)| matches!(status, RouteStatus::Applied(_)));
        let phase = self.state.phase();
        let bound = self.link.as_ref().is_some_and(|link| link.bound_since.is_some());
        let known = self.known.as_ref();
        let nothing_else = known.is_some_and(|known| known.applied.len() == routes.len() - surplus.len());
        Status {
            phase,
            registry: self.registry(),
            last_peer: self.last_peer,
            bound,
            cause: self.cause.clone(),
            session_known: known.is_some(),
            revision: known.and_then(|known| known.revision),
            ours: matches!(self.dialect(), Dialect::Ours { .. }),
            capabilities: match self.dialect() {
                Dialect::Ours { capabilities, .. } => capabilities.clone(),
                Dialect::Reference => BTreeSet::new(),
            },
            session: known.map(|known| known.id.clone()),
            cluster_id: known.and_then(|known| known.cluster.clone()),
            replaced: self.replaced,
            left: self.left,
            visibility_wanted: self.visibility,
            shown: self.shown(),
            can_drain: self.can_drain(),
            maintenance_wanted: self.maintenance.entered().cloned().collect(),
            maintenance_requests: self.maintenance.progress().collect(),
            maintenance_refusal: self.maintenance_refusal.clone(),
            maintenance: self.maintenance_status(),
            intent: self.intent,
            live: bound && phase == Phase::Live && in_force && nothing_else,
            settled: bound && phase == Phase::Live && self.is_as_wanted(),
            routes,
            apply_refusal: self.apply_refusal.clone(),
        }
    }

    /// Whether the registry has confirmed everything that is wanted of it, and nothing else is in force.
    fn is_as_wanted(&self) -> bool {
        let Some(known) = &self.known else { return false };
        let desired = self.desired();
        let surplus = self.dialect().surplus(desired);
        let in_force = |(key, route): (&RouteKey, &Route)| {
            surplus.contains(key) || known.applied.id_of(key, route, self.dialect()).is_some()
        };
        known.applied.len() == desired.len() - surplus.len()
            && desired.iter().all(in_force)
            && self.visibility_is_as_wanted()
            && known.subscribed == self.subscriptions
    }

    fn dialect(&self) -> &Dialect {
        self.known.as_ref().and_then(|known| known.dialect.as_ref()).unwrap_or(&Dialect::Reference)
    }

    fn registry(&self) -> Registry {
        Registry { name: self.name.clone(), peer: self.link.as_ref().map(|link| link.peer) }
    }

    fn route_status(&self, key: &RouteKey, route: &Route, is_desired: bool) -> RouteStatus {
        if self.replaced {
            // The session, and the routes in it, belong to whoever has taken the name.
            return RouteStatus::Pending;
        }
        let id = self.known.as_ref().and_then(|known| known.applied.id_of(key, route, self.dialect()));
        let unsupported = self.dialect() == &Dialect::Reference
            && (route.backend.scheme() == Scheme::H2c || self.dialect().surplus(&self.wanted).contains(key));
        match (id, self.refused.get(key)) {
            (Some(id), _) => RouteStatus::Applied(id),
            (None, Some(refused)) if is_desired => RouteStatus::Refused(refused.refusal.clone()),
            (None, None) if unsupported && self.known.is_some() => RouteStatus::Unsupported,
            (None, _) => RouteStatus::Pending,
        }
    }
}

impl State {
    fn phase(&self) -> Phase {
        match self {
            State::Disconnected { .. } => Phase::Disconnected,
            State::Connecting => Phase::Connecting,
            State::Registering => Phase::Registering,
            State::Resuming => Phase::Resuming,
            State::Syncing(_) => Phase::Syncing,
            State::Live { .. } => Phase::Live,
            State::Dormant { .. } => Phase::Dormant,
            State::Leaving { .. } => Phase::Leaving,
            State::Stopped => Phase::Stopped,
        }
    }
}

impl Known {
    fn window(&self) -> usize {
        self.dialect.as_ref().map_or(1, Dialect::window)
    }
}

#[cfg(test)]
mod tests;
