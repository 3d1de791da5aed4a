//! Virtual time, the queue of events, and one seeded source of chance: a run is repeatable to the byte.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use registry_client::protocol::{Command, Host};
use registry_sidecar::server::registry::{ConnId, Input, Now};

use super::client::{Client, Reaction};
use super::etcd::Etcd;
use super::faults::Counts;
use super::oracle::Oracle;
use super::replica::{Belief, Deed, Replica};

/// When the faults are over.
pub(crate) const CALM_FROM: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// Something goes wrong.
    Strike,
    /// etcd forgets its history.
    Compact,
    /// A replica's deadline has come.
    Alarm(usize, u64),
    /// A probe of a replica is due.
    Probe(usize, u64, u64),
    /// A replica tries its first commit.
    Commit(usize, u64),
    /// A replica hears what changed.
    Watch(usize, u64),
    /// A replica renews its lease, or looks whether it may lead.
    Election(usize, u64),
    /// A replica's process starts.
    Start(usize),
    /// A line of a client has arrived.
    Line(usize, u64, ConnId, String),
    /// A line for a client has arrived.
    Reply(ConnId, String),
    /// A connection is closed, as its client sees.
    Eof(ConnId),
    /// A connection is closed, as the replica sees.
    Closed(usize, u64, ConnId),
    /// A client goes on.
    Client(usize),
    /// A client's application answers again.
    Up(usize),
}

pub(crate) struct World {
    pub(crate) now: Duration,
    base: Now,
    queue: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    order: u64,
    pub(crate) rng: fastrand::Rng,
    pub(crate) etcd: Etcd,
    /// Changes up to this revision are compacted.
    pub(crate) compacted: u64,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) clients: Vec<Client>,
    /// Which client has a connection.
    pub(crate) conns: BTreeMap<ConnId, usize>,
    last_conn: u64,
    /// When the last line for a connection arrives.
    arrivals: BTreeMap<ConnId, Duration>,
    /// Connections that are closed, as their replica's core does not know yet.
    pub(crate) parked: Vec<(usize, u64, ConnId)>,
    /// Answers of etcd are lost until then.
    pub(crate) forgetful_until: Duration,
    pub(crate) oracle: Oracle,
    pub(crate) counts: Counts,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) failure: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64, trace: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World {
            now: Duration::ZERO,
            base: Now {
                mono: Instant::now() + Duration::from_secs(1_000_000),
                wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            },
            queue: BinaryHeap::new(),
            order: 0,
            etcd: Etcd::default(),
            compacted: 0,
            replicas: (0..3).map(|_| Replica::new(rng.u64(..))).collect(),
            clients: (0..5).map(|number| Client::new(number, number / 2)).collect(),
            conns: BTreeMap::new(),
            last_conn: 0,
            arrivals: BTreeMap::new(),
            parked: Vec::new(),
            forgetful_until: Duration::ZERO,
            oracle: Oracle::default(),
            counts: Counts::default(),
            trace: trace.then(Vec::new),
            failure: None,
            rng,
        };
        for at in 0..world.replicas.len() {
            world.at(Duration::ZERO, Event::Start(at));
        }
        for at in 0..world.clients.len() {
            world.at(Duration::from_secs(8), Event::Client(at));
        }
        world.at(Duration::from_secs(15), Event::Strike);
        world
    }

    pub(crate) fn clock(&self) -> Now {
        Now { mono: self.base.mono + self.now, wall: self.base.wall + self.now }
    }

    pub(crate) fn at(&mut self, at: Duration, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((at.max(self.now), self.order, event)));
    }

    pub(crate) fn after(&mut self, time: Duration, event: Event) {
        self.at(self.now + time, event);
    }

    pub(crate) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.u64(from..=to))
    }

    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>11.6} {}", now.as_secs_f64(), what()));
        }
    }

    pub(crate) fn fail(&mut self, why: String) {
        self.failure.get_or_insert(format!("at {:?}: {why}", self.now));
    }

    pub(crate) fn run_until(&mut self, end: Duration) {
        while self.failure.is_none()
            && let Some(Reverse((at, ..))) = self.queue.peek()
            && *at <= end
            && let Some(Reverse((at, _, event))) = self.queue.pop()
        {
            self.now = at;
            if let Some(until) = self.paused_until(&event) {
                self.at(until, event);
                continue;
            }
            self.happen(event);
        }
        self.now = end;
    }

    /// What would happen at a replica that was stopped happens when it goes on.
    fn paused_until(&self, event: &Event) -> Option<Duration> {
        let (Event::Alarm(at, _)
        | Event::Probe(at, ..)
        | Event::Commit(at, _)
        | Event::Watch(at, _)
        | Event::Election(at, _)
        | Event::Line(at, ..)
        | Event::Closed(at, ..)) = event
        else {
            return None;
        };
        Some(self.replicas[*at].paused_until).filter(|until| *until > self.now)
    }

    pub(crate) fn is_process(&self, at: usize, process: u64) -> bool {
        self.replicas[at].core.is_some() && self.replicas[at].process == process
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Strike => self.strike(),
            Event::Start(at) => self.start(at),
            Event::Compact => self.compacted = self.etcd.revision,
            Event::Alarm(at, process) if self.is_process(at, process) => {
                self.replicas[at].alarm = None;
                self.input(at, Input::Tick);
            }
            Event::Probe(at, process, no) if self.is_process(at, process) => self.probe(at, process, no),
            Event::Commit(at, process) if self.is_process(at, process) => self.try_commit(at),
            Event::Watch(at, process) if self.is_process(at, process) => self.watch(at),
            Event::Election(at, process) if self.is_process(at, process) => self.election(at),
            Event::Line(at, process, conn, line) if self.is_process(at, process) => {
                self.say(|| format!("{conn:?} says {line}"));
                self.input(at, Input::Line(conn, Command::parse(&line)));
            }
            Event::Closed(at, process, conn) if self.is_process(at, process) => {
                self.input(at, Input::Closed(conn));
            }
            Event::Reply(conn, line) => self.reply(conn, &line),
            Event::Eof(conn) => self.eof(conn),
            Event::Client(at) => self.client(at),
            Event::Up(at) => self.clients[at].is_up = true,
            _ => {}
        }
    }

    /// Passes an input to a replica's core, and carries out what it wants done.
    pub(crate) fn input(&mut self, at: usize, input: Input) {
        if let Belief::Leads { proof, .. } = self.replicas[at].belief {
            let answers = self.now < proof;
            if std::mem::replace(&mut self.replicas[at].answers, answers) != answers {
                self.input(at, Input::Answers(answers));
            }
        }
        let clock = self.clock();
        let deeds = self.replicas[at].turn(clock, input);
        let process = self.replicas[at].process;
        let mut was_published = false;
        for deed in deeds {
            match deed {
                Deed::Send(conn, line) => self.send(at, conn, line),
                Deed::Close(conn) => {
                    let arrives = self.arrivals.get(&conn).copied().unwrap_or_default();
                    self.at(arrives.max(self.now + Duration::from_millis(1)), Event::Eof(conn));
                }
                Deed::Ask(no) => self.after(Duration::ZERO, Event::Probe(at, process, no)),
                Deed::Published => was_published = true,
                Deed::Log(event) => self.say(|| format!("replica {at} logs {event:?}")),
                Deed::Commit => self.after(Duration::from_millis(1), Event::Commit(at, process)),
            }
        }
        if was_published {
            self.judge_table(at);
        }
        let deadline = self.replicas[at].core.as_ref().and_then(|core| core.next_deadline());
        if let Some(deadline) = deadline {
            let due = deadline.saturating_duration_since(self.base.mono).max(self.now);
            if self.replicas[at].alarm.is_none_or(|alarm| due < alarm) {
                self.replicas[at].alarm = Some(due);
                self.at(due, Event::Alarm(at, process));
            }
        }
    }

    /// A leader without proof that it leads says nothing. Its core takes the connection for open until there is a proof
    /// again, so that no session is lost for want of it.
    fn send(&mut self, at: usize, conn: ConnId, line: String) {
        let Belief::Leads { proof, .. } = self.replicas[at].belief else { return };
        // Lines of one connection arrive in their order.
        let arrives = self.now + self.millis(1, 5);
        let last = self.arrivals.entry(conn).or_default();
        *last = arrives.max(*last);
        let arrives = *last;
        if self.now < proof {
            self.at(arrives, Event::Reply(conn, line));
        } else {
            let process = self.replicas[at].process;
            self.at(arrives, Event::Eof(conn));
            self.parked.push((at, process, conn));
        }
    }

    /// Asks a backend, as the prober does, and comes again after the interval.
    fn probe(&mut self, at: usize, process: u64, no: u64) {
        let Some(probe) = self.replicas[at].probes.get(&no).cloned() else { return };
        let answers = |client: &Client| {
            let Host::Ip(IpAddr::V4(ip)) = probe.backend.host() else { return false };
            client.is_up && client.address == *ip && client.port == probe.backend.port()
        };
        let result = if self.clients.iter().any(answers) { Ok(()) } else { Err("refused".to_owned().into()) };
        let again = probe.interval.mul_f64(0.9 + 0.2 * self.rng.f64());
        self.input(at, Input::Probed(probe, result));
        self.after(again, Event::Probe(at, process, no));
    }
}

/// Clients and their connections.
impl World {
    pub(crate) fn client(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if client.away_until > self.now {
            let until = client.away_until;
            return self.at(until, Event::Client(at));
        }
        if client.conn.is_none() {
            return self.connect(at);
        }
        let (conn, line) = (client.conn, client.next_line());
        if let (Some((replica, process, conn)), Some(line)) = (conn, line) {
            let takes = self.millis(1, 5);
            self.after(takes, Event::Line(replica, process, conn, line));
        }
    }

    /// Connects to whoever leads, by way of any replica.
    fn connect(&mut self, at: usize) {
        let now = self.now;
        let leads = |replica: &Replica| {
            matches!(replica.belief, Belief::Leads { proof, .. } if now < proof) && replica.core.is_some()
        };
        let leaders: Vec<usize> = (0..self.replicas.len()).filter(|at| leads(&self.replicas[*at])).collect();
        let again = self.millis(100, 1000);
        let Some(leader) = (!leaders.is_empty()).then(|| leaders[self.rng.usize(..leaders.len())]) else {
            return self.after(again, Event::Client(at));
        };
        let conn = self.open(at, leader);
        self.clients[at].connected();
        self.input(leader, Input::Opened(conn, self.clients[at].address.into()));
        self.client(at);
    }

    /// A connection of a client that ends in a replica's core.
    pub(crate) fn open(&mut self, at: usize, leader: usize) -> ConnId {
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        self.conns.insert(conn, at);
        self.clients[at].conn = Some((leader, self.replicas[leader].process, conn));
        conn
    }

    fn reply(&mut self, conn: ConnId, line: &str) {
        let Some(at) = self.conns.get(&conn).copied() else { return };
        self.say(|| format!("{conn:?} hears {line}"));
        let before = (self.clients[at].drains, self.clients[at].has_page);
        let reaction = self.clients[at].hear(line);
        if before != (self.clients[at].drains, self.clients[at].has_page) {
            self.excuse(at);
        }
        // One that begins anew was told nothing.
        if before.0 != self.clients[at].drains && self.clients[at].id.is_some() {
            self.judge_drain(at);
        }
        match reaction {
            Reaction::None => {}
            Reaction::Applied(domains) => self.judge_apply(at, &domains),
            Reaction::HangUp => return self.hang_up(at, Duration::from_millis(500)),
        }
        self.client(at);
    }

    fn eof(&mut self, conn: ConnId) {
        let Some(at) = self.conns.remove(&conn) else { return };
        self.say(|| format!("{conn:?} is closed"));
        self.clients[at].disconnected();
        let again = self.millis(50, 500);
        self.after(again, Event::Client(at));
    }

    /// The client is gone for a while.
    pub(crate) fn hang_up(&mut self, at: usize, away: Duration) {
        self.clients[at].away_until = self.now + away;
        if let Some((replica, process, conn)) = self.clients[at].conn {
            self.conns.remove(&conn);
            self.clients[at].disconnected();
            self.after(Duration::from_millis(2), Event::Closed(replica, process, conn));
        }
        self.after(away, Event::Client(at));
    }

    /// A replica does not have its connections any more: those that are idle are announced to the next leader, if there
    /// is one already.
    pub(crate) fn release(&mut self, at: usize) {
        for client in 0..self.clients.len() {
            let Some((of, _, conn)) = self.clients[client].conn.filter(|(of, ..)| *of == at) else {
                continue;
            };
            debug_assert_eq!(of, at);
            self.conns.remove(&conn);
            let is_idle = self.clients[client].is_settled() && self.clients[client].id.is_some();
            let next = (0..self.replicas.len()).find(|other| *other != at && self.replicas[*other].leads());
            match next.filter(|next| is_idle && self.replicas[*next].core.is_some()) {
                Some(next) => {
                    let (id, peer) = (self.clients[client].id.clone().unwrap(), self.clients[client].address);
                    let conn = self.open(client, next);
                    let id = id.parse().unwrap();
                    self.input(next, Input::Announced(conn, peer.into(), id));
                }
                None => {
                    self.clients[client].disconnected();
                    let again = self.millis(50, 500);
                    self.after(again, Event::Client(client));
                }
            }
        }
    }
}
