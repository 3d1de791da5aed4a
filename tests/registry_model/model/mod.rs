//! A registry as PROTOCOL.md and SEMANTICS.md describe it, written from those two pages and from nothing else.
//!
//! It takes lines of text and says which lines must come back. It is slow on purpose: vectors that are searched
//! from the front, whole copies for what is staged and what is applied, everything that can be computed anew
//! computed anew. What it leaves open, because the protocol does, it says with `Want`.

mod command;
mod config;
mod events;
mod maintenance;
mod report;
mod resume;
mod serving;
mod sessions;
mod staging;
mod table;
pub(crate) mod text;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

pub(crate) use command::COMMANDS;
use command::{Command, Request};
use config::Config;
use serving::Claim;
pub(crate) use serving::{REFUSED, SLOW, Watched};
use staging::{Given, Pending, Stage};
pub(crate) use table::{ClaimView, MemberView};
use text::Refused;

/// What an operator may set. Milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub grace: u64,
    pub hold: u64,
    pub stage_ttl: u64,
    pub silent: u64,
    pub longest_wait: u64,
    pub token: Option<String>,
    pub max_sessions: usize,
    pub max_sessions_per_address: usize,
    pub max_routes: usize,
    pub max_domains: usize,
    pub max_headers: usize,
    /// A stage has no room at all.
    pub no_staging: bool,
    pub max_metadata: usize,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    /// Commands behind one that waits.
    pub max_queue: usize,
}

/// What must come out next on a connection.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Out {
    Line(usize, Want),
    /// What is queued, then the end of the stream.
    Close(usize),
    /// A line that nobody asked for; where it stands among the others is open.
    Event(usize, String, Value),
}

/// A line as far as it is foreseen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Want {
    Exactly(String),
    /// The beginning is foreseen, and something must follow.
    Begins(String),
    /// A word and JSON. In it the text `*` stands for anything, and `ms:1234` for that moment in RFC 3339.
    Json(&'static str, Value),
    /// The same, as base64 of gzip.
    Compressed(&'static str, Value),
    /// `DRAIN_OK|` and this moment.
    DrainUntil(u64),
    /// `ACK|` and an id that nobody had before: from now on it is `@` and this number.
    Registered(usize),
}

#[derive(Debug)]
struct Connection {
    number: usize,
    peer: IpAddr,
    session: Option<usize>,
    /// The session that a later connection took from it.
    robbed_of: Option<usize>,
    opened: u64,
    heard: bool,
    /// What waits for an answer from outside, and the lines behind it.
    waiting: Option<Waiting>,
    queue: Vec<String>,
    /// What may not be said yet, because a backend that was asked for before has not answered.
    unsaid: Vec<Unsaid>,
}

#[derive(Debug, Clone)]
enum Unsaid {
    /// For a backend: which test of all this is.
    Test {
        number: u64,
        since: u64,
    },
    Line(Want),
}

#[derive(Debug, Clone, PartialEq)]
enum Waiting {
    /// For the store's word on what it asked for, since then.
    Store { session: usize, since: u64 },
    /// For a backend that the session of this id may have left behind: any of these, from the earliest question on.
    Resume { id: String, asked: Vec<Watched>, number: u64, since: u64 },
    /// For the store's word on what its session does already, and then to be executed.
    Turn { line: String, since: u64 },
}

impl Waiting {
    fn since(&self) -> u64 {
        match self {
            Waiting::Store { since, .. } | Waiting::Resume { since, .. } | Waiting::Turn { since, .. } => {
                *since
            }
        }
    }
}

#[derive(Debug)]
struct Session {
    service: String,
    instance: String,
    metadata: serde_json::Map<String, Value>,
    /// From where it was bound last.
    peer: IpAddr,
    connected_at: u64,
    last_activity: u64,
    last_apply: Option<u64>,
    /// It has no connection.
    lost: bool,
    grace_until: Option<u64>,
    /// A newer session has its name; while that lives, `replaced_by` is the newest of its replacers.
    replaced: bool,
    replaced_by: Option<usize>,
    /// One of its backends has answered.
    answered: bool,
    /// Another service has one of its claims.
    robbed: bool,
    ended: bool,
    applied: Config,
    stage: Option<Stage>,
    next_route: u32,
    revision: u64,
    drain: Option<Drain>,
    maintained: maintenance::Maintained,
    requests: Vec<maintenance::Asked>,
    /// What the store is known to hold of it.
    kept: maintenance::Maintained,
    remember_at: Option<u64>,
    /// What is with the store.
    pending: Option<Pending>,
    /// The how-manieth of all that the store was given this is.
    given: u64,
    /// Connections whose command waits for the store's word.
    turn: Vec<usize>,
    /// What must be given to join the service as long as this one is there.
    service_token: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Drain {
    since: u64,
    /// How long it takes, which is less than was asked for where nothing is in flight.
    time: u64,
    asked: u64,
}

/// Whether a command has to do with what its session has applied or staged.
fn shows_or_changes(request: &Request) -> bool {
    use Request::{BackendTest, Ping, Subscribe, Unsubscribe};
    !matches!(request, Ping | BackendTest(_) | Subscribe(_) | Unsubscribe(_))
}

/// What the store says to what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Holds,
    Refuses,
    /// Nothing, until it is told to answer.
    Waits,
}

pub(crate) struct Model {
    pub now: u64,
    rules: Rules,
    store: Store,
    connections: Vec<Connection>,
    /// All that ever were; a session's number is its place.
    sessions: Vec<Session>,
    claims: Vec<Claim>,
    /// Addresses from which two sessions were connected at once.
    shared: Vec<IpAddr>,
    /// For an address and a session, the oldest of those that it has met there.
    kin: BTreeMap<(IpAddr, usize), usize>,
    subscriptions: Vec<events::Subscription>,
    news: Vec<events::News>,
    tests: u64,
    /// Who has begun tests since then.
    tests_since: Option<u64>,
    counted_tests: Vec<(usize, IpAddr)>,
    /// Who gave wrong secrets.
    guesses: Vec<sessions::Guess>,
    /// How many RECONNECTs have had to wait.
    resumes: u64,
    given_so_far: u64,
    /// What the store was given and has not answered, in order.
    given: Vec<Given>,
    /// The same of a store that does not wait.
    undecided: Vec<Given>,
    out: Vec<Out>,
}

impl Model {
    pub(crate) fn new(rules: Rules) -> Self {
        Model {
            now: 0,
            rules,
            store: Store::Holds,
            connections: Vec::new(),
            sessions: Vec::new(),
            claims: Vec::new(),
            shared: Vec::new(),
            kin: BTreeMap::new(),
            subscriptions: Vec::new(),
            news: Vec::new(),
            tests: 0,
            tests_since: None,
            counted_tests: Vec::new(),
            guesses: Vec::new(),
            resumes: 0,
            given_so_far: 0,
            given: Vec::new(),
            undecided: Vec::new(),
            out: Vec::new(),
        }
    }

    /// What must have come out since the last call, in this order for each connection.
    pub(crate) fn take_out(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.out)
    }

    pub(crate) fn open(&mut self, number: usize, peer: IpAddr) {
        let same = self.connections.iter().filter(|c| c.peer == peer).count();
        let refused = if self.connections.len() >= self.rules.max_connections {
            Some("too many connections")
        } else if !peer.is_loopback() && same >= self.rules.max_connections_per_address {
            Some("too many connections from this address")
        } else {
            None
        };
        if let Some(text) = refused {
            self.say(number, Want::Exactly(format!("ERROR|{text}")));
            self.out.push(Out::Close(number));
            return;
        }
        let opened = self.now;
        self.connections.push(Connection {
            number,
            peer,
            session: None,
            robbed_of: None,
            opened,
            heard: false,
            waiting: None,
            queue: Vec::new(),
            unsaid: Vec::new(),
        });
    }

    /// The connection is gone.
    pub(crate) fn close(&mut self, number: usize) {
        let session = self.connection(number).and_then(|c| c.session);
        self.connections.retain(|c| c.number != number);
        self.end_subscriptions(|s| s.conn == number);
        if let Some(session) = session {
            self.lose(session);
        }
        self.settle();
    }

    pub(crate) fn line(&mut self, number: usize, line: &str) {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let Some(connection) = self.connection_mut(number) else { return };
        if line.is_empty() || line == "ACK" || line.starts_with("ACK|") {
            return;
        }
        let behind = connection.queue.len() + connection.unsaid.len().saturating_sub(1);
        let is_busy = connection.waiting.is_some() || !connection.unsaid.is_empty();
        if is_busy && behind >= self.rules.max_queue {
            self.error(number, "too many commands at once");
            self.say_goodbye(number);
            return self.close(number);
        }
        let connection = self.connection_mut(number).expect("it is open");
        connection.queue.push(line.to_owned());
        self.proceed(number);
        self.settle();
    }

    /// Answers what is queued on a connection until something has to wait.
    fn proceed(&mut self, number: usize) {
        while let Some(connection) = self.connection_mut(number) {
            if connection.waiting.is_some() || connection.queue.is_empty() {
                return;
            }
            let line = connection.queue.remove(0);
            self.take(number, &line);
        }
    }

    fn take(&mut self, number: usize, line: &str) {
        if line.len() > report::MAX_LINE {
            return self.error(number, "line too long");
        }
        match command::read(line) {
            Err(refused) => self.refuse(number, refused),
            Ok(command) => {
                self.connection_mut(number).expect("it is open").heard = true;
                self.execute(number, line, command);
            }
        }
        self.settle_claims();
    }

    fn execute(&mut self, number: usize, line: &str, command: Command) {
        if let Some(session) = self.must_wait_for(number, &command) {
            self.sessions[session].turn.push(number);
            let waiting = Waiting::Turn { line: line.to_owned(), since: self.now };
            self.connection_mut(number).expect("it is open").waiting = Some(waiting);
            return;
        }
        match command {
            Command::Register { service, instance, metadata } => {
                self.register(number, service, instance, metadata);
            }
            Command::Reconnect(id) => self.reconnect(number, &id),
            Command::Request(id, request) => match self.find_session(number, &id) {
                Err(text) => self.error(number, text),
                Ok(session) => {
                    self.touch(number, session);
                    self.request(number, session, request);
                }
            },
        }
    }

    /// The session whose change is with the store, where the command could get in its way.
    fn must_wait_for(&self, number: usize, command: &Command) -> Option<usize> {
        let (id, may_pass) = match command {
            Command::Register { .. } => return None,
            Command::Request(_, request) if !shows_or_changes(request) => return None,
            Command::Reconnect(id) if id.is_empty() => return None,
            Command::Reconnect(id) => (id, true),
            Command::Request(id, _) => (id, false),
        };
        let session = self.find_session(number, id).ok()?;
        match self.sessions[session].pending.as_ref()? {
            Pending::ShutDown { .. } | Pending::Expiry => Some(session),
            _ if may_pass => None,
            _ => Some(session),
        }
    }

    fn request(&mut self, conn: usize, s: usize, request: Request) {
        match request {
            Request::Ping => self.exactly(conn, "PONG"),
            Request::SessionInfo => self.session_info(conn, s),
            Request::ClientShutdown => self.client_shutdown(conn, s),
            Request::RouteList { compressed, after } => self.route_list(conn, s, compressed, after),
            Request::CircuitStatus(id) => self.circuit_status(conn, s, id),
            Request::CircuitReset(id) => self.circuit_reset(conn, s, id),
            Request::Validate => match self.validate(s, None) {
                Ok(_) => self.exactly(conn, "OK"),
                Err(text) => self.error(conn, &text),
            },
            Request::Apply => self.apply(conn, s, None),
            Request::ApplyPartial(scopes) => self.apply(conn, s, Some(scopes)),
            Request::Rollback => {
                self.sessions[s].stage = None;
                self.exactly(conn, "OK");
            }
            Request::Diff => self.diff(conn, s),
            Request::DrainStart(time) => self.drain_start(conn, s, time),
            Request::DrainStatus => self.drain_status(conn, s),
            Request::DrainCancel => self.drain_cancel(conn, s),
            Request::MaintEnter(target, page) => self.maintenance(conn, s, &target, Some(page)),
            Request::MaintExit(target) => self.maintenance(conn, s, &target, None),
            Request::MaintStatus(after) => self.maintenance_status(conn, s, after),
            Request::Stats(which, after) => self.stats(conn, s, which, after),
            Request::BackendTest(url) => self.backend_test(conn, s, url),
            Request::Subscribe(kind) => self.subscribe(conn, s, kind),
            Request::Unsubscribe(kind) => self.unsubscribe(conn, s, kind),
            other => self.stage(conn, s, other),
        }
    }

    /// Time passes: everything that was due on the way happens at its own moment.
    pub(crate) fn advance(&mut self, to: u64) {
        while let Some(due) = self.next_deadline().filter(|due| *due <= to) {
            self.now = due;
            self.pass_deadlines();
            self.settle();
        }
        self.now = to;
        self.settle();
    }

    pub(crate) fn set_store(&mut self, store: Store) {
        self.store = store;
    }

    /// The store answers everything that it was given.
    pub(crate) fn store_answers(&mut self, holds: bool) {
        self.store = if holds { Store::Holds } else { Store::Refuses };
        for what in std::mem::take(&mut self.given) {
            self.answer(what, holds);
            self.settle();
        }
    }

    /// The server goes down.
    pub(crate) fn stop(&mut self) {
        let numbers: Vec<usize> = self.connections.iter().map(|c| c.number).collect();
        for number in numbers {
            self.exactly(number, "SHUTDOWN");
            self.say_goodbye(number);
            self.close(number);
        }
    }

    fn connection(&self, number: usize) -> Option<&Connection> {
        self.connections.iter().find(|c| c.number == number)
    }

    fn connection_mut(&mut self, number: usize) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|c| c.number == number)
    }

    fn say(&mut self, conn: usize, want: Want) {
        match self.connection_mut(conn) {
            Some(connection) if !connection.unsaid.is_empty() => connection.unsaid.push(Unsaid::Line(want)),
            _ => self.out.push(Out::Line(conn, want)),
        }
    }

    /// Says what may be said.
    fn say_on(&mut self, conn: usize) {
        while let Some(connection) = self.connection_mut(conn)
            && let Some(Unsaid::Line(want)) = connection.unsaid.first().cloned()
        {
            connection.unsaid.remove(0);
            self.out.push(Out::Line(conn, want));
        }
    }

    /// The last of a connection: nobody waits for backends any more.
    fn say_goodbye(&mut self, conn: usize) {
        self.give_up_tests(conn);
        self.out.push(Out::Close(conn));
    }

    fn exactly(&mut self, conn: usize, text: &str) {
        self.say(conn, Want::Exactly(text.to_owned()));
    }

    fn error(&mut self, conn: usize, text: &str) {
        self.say(conn, Want::Exactly(format!("ERROR|{text}")));
    }

    fn refuse(&mut self, conn: usize, refused: Refused) {
        match refused {
            Refused::Exactly(text) => self.error(conn, &text),
            Refused::About(text) => self.say(conn, Want::Begins(format!("ERROR|{text}"))),
        }
    }
}
