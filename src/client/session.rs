//! The session's state machine: `(intent, line, timer, link up or down) -> (lines, timers, events)`.
//!
//! It knows the protocol and the rules of PROTOCOL section 2 and SEMANTICS sections 1 and 8. It has no clock,
//! socket or task: [`driver`](super::driver) turns its crank. One function, `enter`, changes its state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::connect::ConnectError;
use super::event::{Cause, Event, Phase, Registry, Retry, RouteStatus, Status};
use super::handle::BackendTestError;
use super::intent::{Intent, Route, RouteKey, Routes};
use super::plan::{After, Applied, Batch, Dialect, Unsupported, plan};
use super::sync::{Blame, Failure, Next, Sync, checks_set, outcome_ids, owner_named_by};
use crate::protocol::report::{BackendReport, SessionInfo};
use crate::protocol::{
    BackendUrl, Command, Push, Refusal, Registration, Reply, Request, RouteId, Scheme, ServerLine, SessionId,
    SessionRef,
};

/// The times that steer a session.
#[derive(Debug, Clone)]
pub(super) struct Timing {
    pub(super) keepalive_interval: Duration,
    pub(super) request_timeout: Duration,
    pub(super) reconnect_min: Duration,
    pub(super) reconnect_max: Duration,
}

/// How long an unanswered CLIENT_SHUTDOWN may delay a stop (SEMANTICS section 8).
pub(super) const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);
/// A session that has lived this long makes the next back-off start anew.
const LIVED: Duration = Duration::from_secs(10);
/// How many backend tests may wait for their turn.
const MAX_TESTS: usize = 16;

/// A session and everything it has to remember, across connections.
#[derive(Debug, Clone)]
pub(super) struct Session {
    name: Arc<str>,
    timing: Timing,
    registration: Registration,
    wanted: Routes,
    state: State,
    link: Option<Link>,
    /// Commands without their replies, oldest first.
    outstanding: VecDeque<Sent>,
    known: Option<Known>,
    refused: BTreeMap<RouteKey, Refused>,
    noted: BTreeSet<Unsupported>,
    /// No new try before this, because an apply was refused as a whole.
    hold_until: Option<Instant>,
    tests: VecDeque<(Ticket, BackendUrl)>,
    /// Our name belongs to somebody else until a RECONNECT says otherwise.
    replaced: bool,
    ever_bound: bool,
    rng: fastrand::Rng,
    link_backoff: Backoff,
    apply_backoff: Backoff,
    ask_backoff: Backoff,
    effects: Vec<Effect>,
    version: u64,
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Effect {
    /// Connect, and report with `link_up` or `link_failed`.
    Dial { attempt: u32 },
    /// Put this on the wire, after what is there already.
    Send(Command),
    /// Give up the connection, or the attempt to get one.
    Hangup,
    /// Tell the listeners.
    Event(Event),
    /// Answer whoever asked.
    Tested(Ticket, Result<BackendReport, BackendTestError>),
}

/// Names a backend test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ticket(pub(super) u64);

/// What came over the wire.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Received {
    Line(ServerLine),
    Http,
    Garbage(String),
    TooLong,
}

#[derive(Debug, Clone)]
enum State {
    Disconnected { retry_at: Instant },
    Connecting,
    Registering,
    Resuming,
    Syncing(Box<Sync>),
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
struct Sent {
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
    Test(Ticket),
    Shutdown,
    /// The session has changed meanwhile.
    Ignore,
}

/// The session as the client remembers it.
#[derive(Debug, Clone)]
struct Known {
    id: SessionId,
    /// `None`: SESSION_INFO has not been answered yet.
    dialect: Option<Dialect>,
    revision: Option<u64>,
    applied: Applied,
    /// A batch whose apply was sent and whose reply was lost: the revision will tell.
    in_doubt: Option<(Batch, BTreeMap<RouteKey, RouteId>)>,
}

#[derive(Debug, Clone)]
struct Refused {
    refusal: Refusal,
    backoff: Backoff,
    retry_at: Instant,
}

/// What other tasks and the network tell the machine.
impl Session {
    /// A session that wants to connect at `now`. The seed steers its jitter.
    pub(super) fn new(name: Arc<str>, timing: Timing, intent: Intent, seed: u64, now: Instant) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let registration = intent.registration();
        let mut backoff = || Backoff::new(timing.reconnect_min, timing.reconnect_max, rng.u64(..));
        let (link_backoff, apply_backoff, ask_backoff) = (backoff(), backoff(), backoff());
        Session {
            name,
            registration,
            wanted: intent.routes,
            state: State::Disconnected { retry_at: now },
            link: None,
            outstanding: VecDeque::new(),
            known: None,
            refused: BTreeMap::new(),
            noted: BTreeSet::new(),
            hold_until: None,
            tests: VecDeque::new(),
            replaced: false,
            ever_bound: false,
            link_backoff,
            apply_backoff,
            ask_backoff,
            rng,
            timing,
            effects: Vec::new(),
            version: 0,
        }
    }

    /// There is a connection.
    pub(super) fn link_up(&mut self, peer: SocketAddr, now: Instant) {
        if !matches!(self.state, State::Connecting) {
            return self.effects.push(Effect::Hangup);
        }
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

    /// There is none to be had.
    pub(super) fn link_failed(&mut self, error: ConnectError, now: Instant) {
        if matches!(self.state, State::Connecting) {
            self.lose(error.into(), now);
        }
    }

    /// The connection ended.
    pub(super) fn link_down(&mut self, cause: Cause, now: Instant) {
        if self.link.is_some() {
            self.lose(cause, now);
        }
    }

    /// A line came.
    pub(super) fn receive(&mut self, received: Received, now: Instant) {
        if self.link.is_none() {
            return;
        }
        let fault = match received {
            Received::Line(ServerLine::Reply(reply)) => return self.answer(reply, now),
            Received::Line(ServerLine::Push(Push::Shutdown)) => Cause::ServerShutdown,
            // Verdicts and subscribed events: nothing here asks for them.
            Received::Line(ServerLine::Push(_)) => return,
            Received::Http => Cause::SpeaksHttp,
            Received::Garbage(text) => Cause::NotARegistry(text),
            Received::TooLong => Cause::LineTooLong,
        };
        self.lose(fault, now);
    }

    /// Time has passed: at or after [`Session::deadline`].
    pub(super) fn tick(&mut self, now: Instant) {
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

    /// When [`Session::tick`] must be called at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let oldest = self.outstanding.front().map(|sent| sent.deadline);
        match self.state {
            State::Disconnected { retry_at } => Some(retry_at),
            State::Leaving { until } => Some(until),
            State::Connecting | State::Stopped => None,
            State::Dormant { ask_at } => oldest.or(Some(ask_at)),
            State::Live { ping_at } => oldest.or_else(|| {
                let retries = self.refused.values().map(|refused| refused.retry_at);
                let due = match self.hold_until {
                    Some(until) => Some(until),
                    None => retries.min(),
                };
                due.into_iter().chain([ping_at]).min()
            }),
            State::Registering | State::Resuming | State::Syncing(_) => oldest,
        }
    }

    /// These routes are wanted from now on, whatever the state of the connection.
    pub(super) fn set_routes(&mut self, routes: Routes, now: Instant) {
        let before = std::mem::replace(&mut self.wanted, routes);
        // What was refused as it was may be accepted as it is.
        self.refused.retain(|key, _| before.get(key) == self.wanted.get(key));
        self.version += 1;
        self.pump(now);
    }

    /// The proxy is to try this URL; the ticket is answered in any case.
    pub(super) fn test_backend(&mut self, ticket: Ticket, url: BackendUrl, now: Instant) {
        let error = match &self.state {
            State::Live { .. } | State::Syncing(_) if self.tests.len() < MAX_TESTS => match self.dialect() {
                // A URL that it does not understand crashes it (PROTOCOL section 8).
                Dialect::Reference if url.scheme() == Scheme::H2c => BackendTestError::Unsupported,
                _ => {
                    self.tests.push_back((ticket, url));
                    return self.pump(now);
                }
            },
            State::Live { .. } | State::Syncing(_) => BackendTestError::TooMany,
            State::Stopped | State::Leaving { .. } => BackendTestError::Stopped,
            _ => BackendTestError::NoSession,
        };
        self.effects.push(Effect::Tested(ticket, Err(error)));
    }

    /// The name is ours again, whoever has it: the one case in which a dormant client registers.
    pub(super) fn take_over(&mut self, now: Instant) {
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

    /// Leave in order: at once where there is nothing to tell, otherwise within [`SHUTDOWN_TIMEOUT`].
    pub(super) fn leave(&mut self, now: Instant) {
        match self.state {
            State::Leaving { .. } | State::Stopped => {}
            State::Disconnected { .. } | State::Connecting | State::Dormant { .. } => self.stop(),
            State::Registering | State::Resuming | State::Syncing(_) | State::Live { .. } => {
                self.fail_tests(&BackendTestError::Stopped);
                self.enter(State::Leaving { until: now + SHUTDOWN_TIMEOUT });
                self.send(Request::ClientShutdown, Expect::Shutdown, now);
            }
        }
    }

    /// What there is to do since the last call.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// It has ended, for good.
    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped)
    }

    /// Grows with every change of [`Session::status`].
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Where it stands.
    pub(super) fn status(&self) -> Status {
        let routes: BTreeMap<_, _> =
            self.wanted.iter().map(|(key, route)| (key.clone(), self.route_status(key, route))).collect();
        let in_force = routes.values().all(|status| matches!(status, RouteStatus::Applied(_)));
        let phase = self.state.phase();
        let bound = self.link.as_ref().is_some_and(|link| link.bound_since.is_some());
        let known = self.known.as_ref();
        let nothing_else = known.is_some_and(|known| known.applied.len() == routes.len());
        Status {
            phase,
            registry: self.registry(),
            bound,
            session_known: known.is_some(),
            revision: known.and_then(|known| known.revision),
            ours: known.is_some_and(|known| matches!(known.dialect, Some(Dialect::Ours { .. }))),
            live: bound && phase == Phase::Live && in_force && nothing_else,
            routes,
        }
    }
}

/// The connection and its session.
impl Session {
    fn register(&mut self, now: Instant) {
        self.known = None;
        self.refused.clear();
        self.noted.clear();
        self.hold_until = None;
        if let Some(link) = &mut self.link {
            link.registered = true;
            link.bound_since = None;
        }
        self.enter(State::Registering);
        self.transmit(Command::Register(self.registration.clone()), "REGISTER", Expect::Register, now);
    }

    fn reconnect(&mut self, now: Instant) {
        if let Some(known) = &self.known {
            self.transmit(Command::Reconnect(known.id.clone()), "RECONNECT", Expect::Reconnect, now);
        }
    }

    /// The server does not know the session: a new one, and everything again.
    fn session_lost(&mut self, command: &'static str, refusal: Refusal, now: Instant) {
        self.ignore_outstanding();
        let again = self.link.as_ref().is_some_and(|link| link.registered);
        if again {
            // It has just been told. Asking at once, again and again, helps nobody.
            self.known = None;
            return self.lose(Cause::Refused { command, refusal }, now);
        }
        self.replaced = false;
        self.register(now);
    }

    /// A session is bound to the connection.
    fn bound(&mut self, resumed: bool, now: Instant) {
        if let Some(link) = &mut self.link {
            link.bound_since = Some(now);
        }
        self.replaced = false;
        self.ask_backoff.reset();
        let registry = self.registry();
        let event = match std::mem::replace(&mut self.ever_bound, true) {
            false => Event::Connected { registry },
            true => Event::Reconnected { registry, resumed },
        };
        self.tell(event);
    }

    /// Somebody else has our name. We say so once, and wait.
    fn go_dormant(&mut self, now: Instant) {
        self.ignore_outstanding();
        if let Some(link) = &mut self.link {
            link.bound_since = None;
        }
        if !std::mem::replace(&mut self.replaced, true) {
            let Registration { service, instance, .. } = self.registration.clone();
            self.tell(Event::Replaced { registry: self.registry(), service, instance });
        }
        let ask_at = now + self.ask_backoff.next().wait;
        self.enter(State::Dormant { ask_at });
    }

    /// The connection is gone, or is given up, or could not be made.
    fn lose(&mut self, cause: Cause, now: Instant) {
        if matches!(self.state, State::Leaving { .. }) {
            return self.stop();
        }
        if cause.is_the_peers_fault() {
            self.tell(Event::Error { registry: self.registry(), cause: cause.clone() });
        }
        let confused = matches!(cause, Cause::Unexpected { .. } | Cause::LineTooLong);
        if confused && matches!(self.state, State::Resuming) {
            // It would come again: the next try begins afresh.
            self.known = None;
        }
        if let (State::Syncing(sync), Some(known)) = (&self.state, &mut self.known) {
            if sync.is_applying() {
                known.in_doubt = Some(sync.as_ref().clone().outcome());
            }
        }
        self.fail_tests(&BackendTestError::NoSession);
        self.outstanding.clear();
        if let Some(link) = self.link.take() {
            self.effects.push(Effect::Hangup);
            if let Some(since) = link.bound_since {
                if now.saturating_duration_since(since) >= LIVED {
                    self.link_backoff.reset();
                }
                let registry = Registry { name: self.name.clone(), peer: Some(link.peer) };
                self.tell(Event::Disconnected { registry, cause: cause.clone() });
            }
        }
        let delay = self.link_backoff.next();
        let retry = Retry { registry: self.registry(), attempt: delay.attempt, delay: delay.wait, cause };
        self.tell(if delay.at_cap { Event::ExtendedRetry(retry) } else { Event::Retrying(retry) });
        self.enter(State::Disconnected { retry_at: now + delay.wait });
    }

    fn stop(&mut self) {
        self.fail_tests(&BackendTestError::Stopped);
        self.outstanding.clear();
        self.link = None;
        self.effects.push(Effect::Hangup);
        self.enter(State::Stopped);
    }
}

/// Replies.
impl Session {
    fn answer(&mut self, reply: Reply, now: Instant) {
        let Some(Sent { expect, command, .. }) = self.outstanding.pop_front() else {
            return self.lose(Cause::Unexpected { command: "", reply: reply.redacted() }, now);
        };
        match (expect, reply) {
            // In order, so whatever answers CLIENT_SHUTDOWN ends the session, for us.
            (Expect::Shutdown, _) => self.stop(),
            (Expect::Ignore, _) => self.pump(now),
            (_, _) if matches!(self.state, State::Leaving { .. }) => {}
            (Expect::Register, Reply::Registered(id)) => self.registered(id, now),
            (Expect::Register, Reply::Error(refusal)) => self.lose(Cause::Refused { command, refusal }, now),
            (Expect::Reconnect, Reply::Ok) => {
                self.bound(true, now);
                self.enter(State::Resuming);
                self.send(Request::ConfigRollback, Expect::Rollback, now);
            }
            (_, Reply::Error(Refusal::SessionReplaced)) => self.go_dormant(now),
            (Expect::Reconnect, Reply::Reregister) => self.register(now),
            (Expect::Reconnect, Reply::Error(_)) => self.register(now),
            (_, Reply::Error(refusal @ (Refusal::NoSession | Refusal::SessionNotFound))) => {
                self.session_lost(command, refusal, now);
            }
            (Expect::Rollback, Reply::Ok) => self.rolled_back(now),
            (Expect::Info, Reply::SessionInfo(info)) => self.informed(&info, now),
            // A server that does not even have this command is not ours.
            (Expect::Info, Reply::Error(Refusal::UnknownCommand(_))) => {
                self.informed(&SessionInfo::default(), now);
            }
            (Expect::List { revision }, Reply::RouteList(entries)) => {
                self.rebuilt(Applied::from_list(&entries), revision, now);
            }
            // Too long to be listed: a new session replaces this one without a gap.
            (Expect::List { .. }, _) => self.register(now),
            (Expect::Stage(step), reply) => self.staged(step, command, &reply, now),
            (Expect::Apply, Reply::Ok) => self.applied(now),
            (Expect::Apply, Reply::Error(refusal)) => self.apply_refused(&refusal, now),
            (Expect::Ping, Reply::Pong) => {
                self.link_backoff.reset();
                self.converge(now);
            }
            (Expect::Test(ticket), reply) => self.tested(ticket, command, reply, now),
            (_, Reply::Error(refusal)) => self.lose(Cause::Refused { command, refusal }, now),
            (_, reply) => self.lose(Cause::Unexpected { command, reply: reply.redacted() }, now),
        }
    }

    fn registered(&mut self, id: SessionId, now: Instant) {
        let (dialect, revision) = (None, None);
        self.known = Some(Known { id, dialect, revision, applied: Applied::default(), in_doubt: None });
        self.bound(false, now);
        self.send(Request::SessionInfo, Expect::Info, now);
    }

    /// The stage is empty: of a resumed session, or after a refusal.
    fn rolled_back(&mut self, now: Instant) {
        match &self.state {
            State::Syncing(sync) => {
                let failures = sync.failures().to_vec();
                failures.into_iter().for_each(|failure| self.blame(failure, now));
                self.converge(now);
            }
            _ => self.send(Request::SessionInfo, Expect::Info, now),
        }
    }

    /// SESSION_INFO tells which server this is, and whether its revision is the one we expect.
    fn informed(&mut self, info: &SessionInfo, now: Instant) {
        let resumed = matches!(self.state, State::Resuming);
        let Some(known) = &mut self.known else { return };
        let expected = std::mem::replace(&mut known.revision, info.revision);
        known.dialect = Some(Dialect::of(info));
        self.version += 1;
        if !resumed {
            return self.converge(now);
        }
        let in_doubt = known.in_doubt.take();
        match (expected, info.revision, in_doubt) {
            (Some(expected), Some(actual), _) if actual == expected => self.converge(now),
            (Some(expected), Some(actual), Some((batch, ids))) if actual == expected + 1 => {
                self.commit(&batch, &ids);
                self.converge(now);
            }
            (_, revision, _) => {
                let list = Request::RouteList { compressed: false, after: None };
                self.send(list, Expect::List { revision }, now);
            }
        }
    }

    /// The session was changed behind our back.
    fn rebuilt(&mut self, applied: Applied, revision: Option<u64>, now: Instant) {
        if let Some(known) = &mut self.known {
            (known.applied, known.revision) = (applied, revision);
        }
        self.converge(now);
    }

    fn staged(&mut self, step: usize, command: &'static str, reply: &Reply, now: Instant) {
        let (State::Syncing(sync), Some(known)) = (&mut self.state, &self.known) else { return };
        match sync.staged(step, reply, &known.applied) {
            Ok(()) => self.pump(now),
            Err(_) => self.lose(Cause::Unexpected { command, reply: reply.redacted() }, now),
        }
    }

    fn applied(&mut self, now: Instant) {
        let State::Syncing(sync) = &self.state else { return };
        let (batch, ids) = sync.as_ref().clone().outcome();
        if let Some(revision) = self.known.as_mut().and_then(|known| known.revision.as_mut()) {
            *revision += 1;
        }
        self.commit(&batch, &ids);
        self.converge(now);
    }

    /// The batch is in force.
    fn commit(&mut self, batch: &Batch, ids: &BTreeMap<RouteKey, RouteId>) {
        self.apply_backoff.reset();
        self.version += 1;
        let Some(known) = &mut self.known else { return };
        let mut events = Vec::new();
        for (id, after) in outcome_ids(batch, ids) {
            match after {
                After::Absent(_) => {
                    events.push(Event::RouteRemoved { key: known.applied.key_of(id).cloned(), id });
                }
                After::Present { at, key, route } => {
                    let (key, route) = (key.clone(), route.clone());
                    let check = checks_set(batch, at).then(|| Event::HealthCheckSet { key: key.clone(), id });
                    self.refused.remove(&key);
                    events.push(match ids.contains_key(&key) {
                        true => Event::RouteAdded { key, id, route },
                        false => Event::RouteUpdated { key, id, route },
                    });
                    events.extend(check);
                }
            }
        }
        known.applied.commit(batch, ids);
        let (routes, revision) = (known.applied.len(), known.revision);
        events.push(Event::ConfigApplied { routes, revision });
        events.into_iter().for_each(|event| self.tell(event));
    }

    fn apply_refused(&mut self, refusal: &Refusal, now: Instant) {
        if let (State::Syncing(sync), Some(known)) = (&mut self.state, &self.known) {
            sync.apply_refused(refusal, &known.applied);
        }
        self.pump(now);
    }

    /// What was refused waits for its next try, alone where one route is to blame (SEMANTICS section 1).
    fn blame(&mut self, Failure { blame, refusal }: Failure, now: Instant) {
        match blame {
            Blame::Missing(id) => {
                if let Some(known) = &mut self.known {
                    known.applied.forget(id);
                }
            }
            Blame::Route(key) => {
                let (min, max) = (self.timing.reconnect_min, self.timing.reconnect_max);
                let entry = self.refused.entry(key.clone()).or_insert_with(|| Refused {
                    refusal: refusal.clone(),
                    backoff: Backoff::new(min, max, self.rng.u64(..)),
                    retry_at: now,
                });
                let delay = entry.backoff.next().wait;
                (entry.retry_at, entry.refusal) = (now + delay, refusal.clone());
                let owner = owner_named_by(&refusal);
                self.tell(Event::RouteRefused { key, refusal, owner, delay });
            }
            Blame::Batch => {
                let delay = self.apply_backoff.next().wait;
                self.hold_until = Some(now + delay);
                self.tell(Event::ApplyRefused { refusal, delay });
            }
        }
    }

    fn tested(&mut self, ticket: Ticket, command: &'static str, reply: Reply, now: Instant) {
        let result = match reply {
            Reply::BackendOk(report) => Ok(report),
            Reply::BackendFail(error) => Err(BackendTestError::Unreachable(error)),
            Reply::Error(refusal) => Err(BackendTestError::Refused(refusal)),
            reply => {
                let error = Err(BackendTestError::NoSession);
                self.effects.push(Effect::Tested(ticket, error));
                return self.lose(Cause::Unexpected { command, reply: reply.redacted() }, now);
            }
        };
        self.effects.push(Effect::Tested(ticket, result));
        self.pump(now);
    }
}

/// What to do next.
impl Session {
    /// Plans anew, and stages the first batch if there is one.
    fn converge(&mut self, now: Instant) {
        let ping_at = now + self.timing.keepalive_interval;
        match self.next_batch(now) {
            Some(batch) => self.enter(State::Syncing(Box::new(Sync::new(batch)))),
            None => self.enter(State::Live { ping_at }),
        }
        self.pump(now);
    }

    fn next_batch(&mut self, now: Instant) -> Option<Batch> {
        if self.hold_until.is_some_and(|until| now < until) {
            return None;
        }
        self.hold_until = None;
        let Known { applied, dialect: Some(dialect), .. } = self.known.as_ref()? else { return None };
        let waiting = self.refused.iter().filter(|(_, refused)| now < refused.retry_at);
        let held: BTreeSet<_> = waiting.map(|(key, _)| key.clone()).collect();
        let plan = plan(&self.wanted, applied, &held, dialect);
        for note in plan.unsupported {
            if self.noted.insert(note.clone()) {
                let Unsupported { key, what } = note;
                self.effects.push(Effect::Event(Event::Unsupported { key, what }));
            }
        }
        let batch = plan.batches.into_iter().next();
        if batch.is_none() {
            // Whoever is due and has nothing left to do is refused no longer.
            self.refused.retain(|_, refused| now < refused.retry_at);
        }
        batch
    }

    /// Sends what may be sent now.
    fn pump(&mut self, now: Instant) {
        loop {
            let waiting = self.outstanding.len();
            match &mut self.state {
                State::Syncing(sync) => {
                    if waiting >= self.known.as_ref().map_or(1, Known::window) {
                        return;
                    }
                    let Some((next, request)) = sync.next(waiting == 0) else { return };
                    self.send(request, next.into(), now);
                }
                State::Live { ping_at } if waiting == 0 => {
                    let ping_at = *ping_at;
                    if let Some(batch) = self.next_batch(now) {
                        self.enter(State::Syncing(Box::new(Sync::new(batch))));
                    } else if let Some((ticket, url)) = self.tests.pop_front() {
                        self.send(Request::BackendTest(url), Expect::Test(ticket), now);
                    } else if ping_at <= now {
                        self.send(Request::Ping, Expect::Ping, now);
                    } else {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    fn send(&mut self, request: Request, expect: Expect, now: Instant) {
        let session = match &self.known {
            Some(known) => SessionRef::Id(known.id.clone()),
            None => SessionRef::Own,
        };
        let name = request.name();
        self.transmit(Command::Request(session, request), name, expect, now);
    }

    fn transmit(&mut self, command: Command, name: &'static str, expect: Expect, now: Instant) {
        let deadline = now + self.timing.request_timeout;
        self.outstanding.push_back(Sent { expect, command: name, deadline });
        self.effects.push(Effect::Send(command));
    }

    /// The one place where the state changes.
    fn enter(&mut self, state: State) {
        self.version += 1;
        self.state = state;
    }

    fn tell(&mut self, event: Event) {
        self.effects.push(Effect::Event(event));
    }

    /// The replies that are still due belong to a session that is no longer ours.
    fn ignore_outstanding(&mut self) {
        self.fail_tests(&BackendTestError::NoSession);
        self.outstanding.iter_mut().for_each(|sent| sent.expect = Expect::Ignore);
    }

    fn fail_tests(&mut self, error: &BackendTestError) {
        let mut tickets: Vec<_> = self.tests.drain(..).map(|(ticket, _)| ticket).collect();
        for sent in &mut self.outstanding {
            if let Expect::Test(ticket) = sent.expect {
                tickets.push(ticket);
                sent.expect = Expect::Ignore;
            }
        }
        self.effects.extend(tickets.into_iter().map(|ticket| Effect::Tested(ticket, Err(error.clone()))));
    }

    fn dialect(&self) -> &Dialect {
        self.known.as_ref().and_then(|known| known.dialect.as_ref()).unwrap_or(&Dialect::Reference)
    }

    fn registry(&self) -> Registry {
        Registry { name: self.name.clone(), peer: self.link.as_ref().map(|link| link.peer) }
    }

    fn route_status(&self, key: &RouteKey, route: &Route) -> RouteStatus {
        let id = self.known.as_ref().and_then(|known| known.applied.id_of(key, route, self.dialect()));
        let unsupported = self.dialect() == &Dialect::Reference && route.backend.scheme() == Scheme::H2c;
        match (id, self.refused.get(key)) {
            (Some(id), _) => RouteStatus::Applied(id),
            (None, Some(refused)) => RouteStatus::Refused(refused.refusal.clone()),
            (None, None) if unsupported && self.known.is_some() => RouteStatus::Unsupported,
            (None, None) => RouteStatus::Pending,
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

impl From<Next> for Expect {
    fn from(next: Next) -> Self {
        match next {
            Next::Stage(step) => Expect::Stage(step),
            Next::Apply => Expect::Apply,
            Next::Rollback => Expect::Rollback,
        }
    }
}
