//! Sessions, staging, apply: one pure state machine (PROTOCOL sections 1 to 5, SEMANTICS sections 1, 3, 4).
//!
//! [`Registry::handle`] takes what happened and the time at which it did, and queues what is to be done about
//! it. There is no socket, clock, task or lock in here, and the store is an effect like any other: what a
//! session applies is in force, and answered, when the store has said that it holds it.
//!
//! | file | what it decides |
//! |---|---|
//! | `mod` (this) | which command is next: connections, their queues, deadlines |
//! | `command`, `settings` | what each command does |
//! | `binding` | which session a connection has; how sessions begin, replace each other and end |
//! | `pulse` | what a connection may answer for its session by itself |
//! | `stage`, `route` | what an apply would change; what a route's settings mean |
//! | `apply` | whether a change may be made, and making it |
//! | `pools` | members of claims: who serves, what is probed, the routing table |
//! | `session`, `timers` | finding sessions; finding what is due |
//! | `lifecycle` | the two transition tables |
//! | `maintenance` | pages instead of members, and the verdicts on them |
//! | `drain` | a session's members get less and less |
//! | `events` | who subscribed to what, and is told |
//! | `report` | the bodies of longer replies |
//! | `policy` | which service may claim which domains |
//! | `persist`, `restore` | the form in which sessions outlive the server; taking it up again |
//! | `route_ids` | that none is given twice, restarts included |

mod apply;
mod binding;
mod command;
mod config;
mod drain;
mod events;
mod io;
mod lifecycle;
mod maintenance;
pub mod persist;
mod policy;
mod pools;
mod pulse;
mod report;
mod restore;
mod route;
mod route_ids;
mod session;
mod settings;
mod stage;
#[cfg(test)]
mod tests;
mod timers;
mod token;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use crate::protocol::report::BackendReport;
use crate::protocol::{Command, Push, Refusal, Reply, ServerLine};
use crate::server::routing::MemberId;

pub use apply::Delta;
pub use config::{Limits, RegistryConfig};
pub use io::{Change, ConnId, Effect, Happening, Input, Now, SessionNo, TestId, Tx, Which, Who};
pub use lifecycle::MemberEvent;
pub use policy::{ClaimPolicy, PolicyError};
pub use pulse::Pulse;
pub use route::{Cells, OwnCells, Route};
pub use token::{ServiceToken, Token};

use apply::{Claimed, Pending};
use events::Subscriptions;
use pools::Pools;
use session::Sessions;
use timers::{Timer, Timers};

/// Where 128 bits of a session's id come from. `None`: there are none to be had just now.
pub type Random = Box<dyn FnMut() -> Option<u128> + Send>;

/// Every session, what each has staged and applied, and the routing table that follows from it.
pub struct Registry {
    config: RegistryConfig,
    random: Random,
    connections: HashMap<ConnId, Connection>,
    /// How many of them come from an address.
    addresses: HashMap<IpAddr, usize>,
    sessions: Sessions,
    pools: Pools,
    timers: Timers,
    pending: HashMap<Tx, Pending>,
    claimed: Claimed,
    tests: HashMap<TestId, ConnId>,
    /// Questions that maintenance requests wait for, and whose they are.
    verdicts: HashMap<MemberId, SessionNo>,
    subscriptions: Subscriptions,
    last_tx: u64,
    last_test: u64,
    stopping: bool,
    effects: Vec<Effect>,
}

struct Connection {
    peer: IpAddr,
    /// Its own session, which may have been replaced meanwhile.
    bound: Option<SessionNo>,
    /// The session that a later connection took from it.
    robbed_of: Option<SessionNo>,
    /// It sent a valid command once.
    heard: bool,
    /// What its oldest unanswered command waits for.
    waiting: Option<Wait>,
    /// Verdicts on maintenance that it has not had.
    verdicts: usize,
    /// The commands behind that one. Replies come in the order of the commands.
    queue: VecDeque<Result<Command, Refusal>>,
}

/// What a command waits for.
enum Wait {
    /// The store's verdict.
    Store(Tx),
    /// A backend's answer.
    Test(TestId),
    /// The store's verdict on a change of its session that came before it.
    Turn(SessionNo, Box<Command>),
}

impl Registry {
    /// A registry without sessions.
    pub fn new(config: RegistryConfig, random: Random) -> Self {
        Registry {
            pools: Pools::new(config.hold),
            config,
            random,
            connections: HashMap::new(),
            addresses: HashMap::new(),
            sessions: Sessions::default(),
            timers: Timers::default(),
            pending: HashMap::new(),
            claimed: Claimed::default(),
            tests: HashMap::new(),
            verdicts: HashMap::new(),
            subscriptions: Subscriptions::default(),
            last_tx: 0,
            last_test: 0,
            stopping: false,
            effects: Vec::new(),
        }
    }

    /// Takes what happened. What is to be done about it is in [`Registry::effects`].
    pub fn handle(&mut self, now: Now, input: Input) {
        self.pools.set_time(now.mono);
        match input {
            Input::Opened(conn, peer) => self.opened(now, conn, peer),
            Input::Line(conn, line) => self.line(now, conn, line),
            Input::Closed(conn) => self.closed(now, conn),
            Input::Tick => self.tick(now),
            Input::Committed(tx) => self.decided(now, tx, true),
            Input::Rejected(tx) => self.decided(now, tx, false),
            Input::Probed(probe, result) => {
                if result.is_ok() {
                    self.page_answered(now, self.pools.waiting_for(&probe));
                }
                for answered in self.pools.probed(&probe, &result) {
                    self.answered(now, &answered);
                }
            }
            Input::Tested(test, result) => self.tested(now, test, result),
            Input::Ejection(member) => self.pools.ejection(member, now.mono),
            Input::Certificate { names, renewed } => self.tell_certificate(&names, renewed),
            Input::Policy(policy) => self.set_policy(policy),
            Input::Stop => self.stop(now),
        }
        self.flush_pools(true);
        self.tell_health();
    }

    /// What is to be done, in order. What is not taken out is kept for the next call.
    pub fn effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.effects.drain(..)
    }

    /// How many sessions there are, lost ones in grace included.
    pub fn session_count(&self) -> usize {
        self.sessions.active()
    }

    /// When to say [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.pools.next_deadline()).min()
    }

    /// Whether nothing is kept of anybody.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.connections.is_empty()
            && self.addresses.is_empty()
            && self.pending.is_empty()
            && self.claimed.is_empty()
            && self.tests.is_empty()
            && self.verdicts.is_empty()
            && self.subscriptions.is_empty()
            && self.sessions.is_empty()
            && self.pools.is_empty()
    }

    fn opened(&mut self, now: Now, conn: ConnId, peer: IpAddr) {
        let full = self.connections.len() >= self.config.limits.connections;
        let (bound, robbed_of, heard) = (None, None, false);
        let (waiting, verdicts, queue) = (None, 0, VecDeque::new());
        let connection = Connection { peer, bound, robbed_of, heard, waiting, verdicts, queue };
        self.connections.insert(conn, connection);
        let from_there = self.addresses.entry(peer).or_default();
        *from_there += 1;
        let crowded = *from_there > self.config.limits.connections_per_address && !peer.is_loopback();
        if self.stopping {
            self.send(conn, Push::Shutdown);
            self.close(now, conn);
        } else if full {
            self.drop_connection(now, conn, "too many connections");
        } else if crowded {
            self.drop_connection(now, conn, "too many connections from this address");
        } else {
            self.timers.set(Timer::Silent(conn), now.mono + self.config.silent_connection);
        }
    }

    fn line(&mut self, now: Now, conn: ConnId, line: Result<Command, Refusal>) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if connection.waiting.is_none() {
            self.execute(now, conn, line);
        } else if connection.queue.len() < self.config.limits.queue {
            connection.queue.push_back(line);
        } else {
            self.drop_connection(now, conn, "too many commands at once");
        }
    }

    fn execute(&mut self, now: Now, conn: ConnId, line: Result<Command, Refusal>) {
        let command = match line {
            Ok(command) => command,
            Err(refusal) => return self.send(conn, Reply::Error(refusal)),
        };
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if !std::mem::replace(&mut connection.heard, true) {
            self.timers.cancel(Timer::Silent(conn));
        }
        match self.command(now, conn, command) {
            Outcome::Reply(reply) => self.send(conn, reply),
            Outcome::Done => {}
            Outcome::Wait(wait) => {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.waiting = Some(wait);
                    self.timers.set(Timer::Wait(conn), now.mono + self.config.longest_wait);
                }
            }
        }
    }

    /// Goes on with what waited behind a command that has been answered.
    fn resume(&mut self, now: Now, conn: ConnId) {
        while let Some(connection) = self.connections.get_mut(&conn) {
            if connection.waiting.is_some() {
                return;
            }
            let Some(line) = connection.queue.pop_front() else { return };
            self.execute(now, conn, line);
        }
    }

    /// Ends a wait, if `conn` is still in the one that `is` describes.
    fn stop_waiting(&mut self, conn: ConnId, is: impl Fn(&Wait) -> bool) -> Option<Wait> {
        let connection = self.connections.get_mut(&conn)?;
        let wait = connection.waiting.take_if(|wait| is(wait))?;
        self.timers.cancel(Timer::Wait(conn));
        Some(wait)
    }

    /// Answers the command that waited for the store, unless it was answered when its time was over.
    fn answer_commit(&mut self, now: Now, conn: ConnId, tx: Tx, reply: Reply) {
        if self.stop_waiting(conn, |wait| matches!(wait, Wait::Store(of) if *of == tx)).is_some() {
            self.send(conn, reply);
            self.resume(now, conn);
        }
    }

    /// Lets the commands go on that waited behind a change of this session.
    fn release(&mut self, now: Now, no: SessionNo, waiting: Vec<ConnId>) {
        for conn in waiting {
            let wait = self.stop_waiting(conn, |wait| matches!(wait, Wait::Turn(of, _) if *of == no));
            if let Some(Wait::Turn(_, command)) = wait {
                self.execute(now, conn, Ok(*command));
                self.resume(now, conn);
            }
        }
    }

    fn tested(&mut self, now: Now, test: TestId, result: Result<BackendReport, String>) {
        let Some(conn) = self.tests.remove(&test) else { return };
        if self.stop_waiting(conn, |wait| matches!(wait, Wait::Test(of) if *of == test)).is_some() {
            self.send(conn, result.map_or_else(Reply::BackendFail, Reply::BackendOk));
            self.resume(now, conn);
        }
    }

    fn tick(&mut self, now: Now) {
        self.pools.tick();
        while let Some(timer) = self.timers.pop(now.mono) {
            match timer {
                Timer::Silent(conn) => self.drop_connection(now, conn, "no valid command in time"),
                Timer::Wait(conn) => self.waited_too_long(now, conn),
                Timer::Grace(no) => self.grace_over(now, no),
                Timer::Stage(no) => self.stage_expired(now, no),
                Timer::Forget(no) => self.forget_in_store(no),
                Timer::Remember(no) => self.remember_maintenance(no),
                Timer::Verdict(no) => self.verdict_due(now, no),
                Timer::Drain(no) => self.drain_over(no),
            }
        }
    }

    /// Every command is answered in time (PROTOCOL section 1). What it waited for may still happen; a client
    /// sees it in the session's revision.
    fn waited_too_long(&mut self, now: Now, conn: ConnId) {
        let Some(wait) = self.stop_waiting(conn, |_| true) else { return };
        let reply = match wait {
            Wait::Store(_) | Wait::Turn(..) => Reply::Error(Refusal::StoreUnavailable),
            Wait::Test(test) => {
                self.tests.remove(&test);
                Reply::BackendFail("no answer in time".to_owned())
            }
        };
        self.send(conn, reply);
        self.resume(now, conn);
    }

    /// The peer is gone.
    fn closed(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connections.remove(&conn) else { return };
        if let Some(from_there) = self.addresses.get_mut(&connection.peer) {
            *from_there -= 1;
            if *from_there == 0 {
                self.addresses.remove(&connection.peer);
            }
        }
        self.timers.cancel(Timer::Silent(conn));
        self.timers.cancel(Timer::Wait(conn));
        if let Some(Wait::Test(test)) = connection.waiting {
            self.tests.remove(&test);
        }
        self.drop_subscriptions_on(conn);
        if let Some(no) = connection.bound {
            self.unbind(now, no);
        }
    }

    /// We let the peer go.
    fn close(&mut self, now: Now, conn: ConnId) {
        if self.connections.contains_key(&conn) {
            self.push(Effect::Close(conn));
            self.closed(now, conn);
        }
    }

    /// Closes a connection that takes more than its share, and says why on both ends.
    fn drop_connection(&mut self, now: Now, conn: ConnId, why: &'static str) {
        if let Some(connection) = self.connections.get(&conn) {
            let peer = connection.peer;
            self.push(Effect::Happened(Happening::Dropped(conn, peer, why)));
            self.send(conn, Reply::Error(Refusal::Other(why.to_owned())));
            self.close(now, conn);
        }
    }

    /// `SHUTDOWN` to every connection, then EOF (PROTOCOL section 2). Routes stay as they are.
    fn stop(&mut self, now: Now) {
        self.stopping = true;
        let mut all: Vec<ConnId> = self.connections.keys().copied().collect();
        all.sort_unstable();
        for conn in all {
            self.send(conn, Push::Shutdown);
            self.close(now, conn);
        }
    }

    fn send(&mut self, conn: ConnId, line: impl Into<ServerLine>) {
        self.push(Effect::Send(conn, line.into()));
    }

    /// Queues an effect behind everything that has led to it. The table is published before anybody is told.
    fn push(&mut self, effect: Effect) {
        self.flush_pools(matches!(effect, Effect::Send(..) | Effect::Event(..) | Effect::Close(_)));
        self.effects.push(effect);
    }

    fn flush_pools(&mut self, publish: bool) {
        let known = self.effects.len();
        self.effects.extend(self.pools.take_effects());
        for effect in &self.effects[known..] {
            if let Effect::Happened(happening) = effect {
                self.subscriptions.note_health(&self.sessions, happening);
            }
        }
        if publish && let Some(table) = self.pools.take_table() {
            self.effects.push(Effect::Publish(table));
            if self.pools.take_departure() {
                self.effects.push(Effect::Departure);
            }
        }
    }
}

/// What a command comes to.
enum Outcome {
    /// This answer.
    Reply(Reply),
    /// It has been answered.
    Done,
    /// It is answered later.
    Wait(Wait),
}

impl From<Result<Reply, Refusal>> for Outcome {
    fn from(result: Result<Reply, Refusal>) -> Self {
        Outcome::Reply(result.unwrap_or_else(Reply::Error))
    }
}
