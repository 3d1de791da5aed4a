//! Stories about the registry in virtual time. Each is a sentence of PROTOCOL or SEMANTICS.

mod announced;
mod backend_tests;
mod bounds;
mod commit;
mod drain;
mod events;
mod hiding;
mod hold;
mod install;
mod kin;
mod lifecycle;
mod maintenance;
mod marks;
mod membership;
mod policy;
mod reference_client;
mod replicas;
mod replies;
mod restoring;
mod resume;
mod sessions;
mod settings;
mod staging;
mod tokens;
mod validate;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::server::routing::{Probe, ProbeFailure, ProbeKind, Table};
use registry_client::protocol::Command;

use super::persist::SavedState;
use super::{
    ConnId, Effect, Input, Keepalive, LogEvent, Now, Registry, RegistryConfig, StoreChange, TestId, Tx,
};

/// A registry and everything around it, scripted.
struct World {
    registry: Registry,
    now: Now,
    connections: u64,
    /// What each connection was sent and has not read.
    lines: HashMap<ConnId, Vec<String>>,
    closed: HashSet<ConnId>,
    table: Table,
    watched: Vec<Probe>,
    /// The store answers at once; otherwise what it was asked is in `commits`.
    store_answers: bool,
    commits: Vec<(Tx, StoreChange)>,
    /// What it holds.
    paper: SavedState,
    /// The changes that it took, in their order.
    history: Vec<StoreChange>,
    tests: Vec<TestId>,
    /// What each connection was given last to answer keepalives with.
    keepalives: HashMap<ConnId, Arc<Keepalive>>,
    log: Vec<LogEvent>,
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut RegistryConfig)) -> Self {
        let mut config = RegistryConfig { cluster_id: "c1".to_owned(), ..RegistryConfig::default() };
        change(&mut config);
        let mut counter = 0;
        let random = move || {
            counter += 1;
            Some(counter)
        };
        World {
            registry: Registry::new(config, Box::new(random)),
            now: Now { mono: Instant::now(), wall: SystemTime::UNIX_EPOCH + seconds(1_700_000_000) },
            connections: 0,
            lines: HashMap::new(),
            closed: HashSet::new(),
            table: Table::default(),
            watched: Vec::new(),
            store_answers: true,
            commits: Vec::new(),
            paper: SavedState::default(),
            history: Vec::new(),
            tests: Vec::new(),
            keepalives: HashMap::new(),
            log: Vec::new(),
        }
    }

    fn input(&mut self, input: Input) {
        let mut inputs = vec![input];
        while !inputs.is_empty() {
            self.registry.handle(self.now, inputs.remove(0));
            inputs.extend(self.perform());
        }
    }

    /// Does what the registry wants. Returns what the store says at once.
    fn perform(&mut self) -> Vec<Input> {
        let mut inputs = Vec::new();
        for effect in self.registry.effects() {
            match effect {
                Effect::Send(conn, line) => {
                    assert!(!self.closed.contains(&conn), "nothing is sent after EOF: {line:?}");
                    self.lines.entry(conn).or_default().push(line.encode());
                }
                Effect::Event(to, event) => {
                    for conn in to {
                        assert!(!self.closed.contains(&conn), "nobody is told after EOF: {event:?}");
                        self.lines.entry(conn).or_default().push(event.encode());
                    }
                }
                Effect::Close(conn) => assert!(self.closed.insert(conn), "closed once"),
                Effect::Commit(tx, change) if self.store_answers => {
                    self.paper.apply(&change);
                    self.history.push(change);
                    inputs.push(Input::Committed(tx));
                }
                Effect::Commit(tx, change) => self.commits.push((tx, change)),
                Effect::Publish(table) => self.table = table,
                Effect::Bound(conn, keepalive) => drop(self.keepalives.insert(conn, keepalive)),
                Effect::Unbound(conn) => {
                    let keepalive = self.keepalives.remove(&conn).expect("only what was bound is unbound");
                    let ping = Command::parse("PING").unwrap();
                    assert!(!keepalive.answers(&ping, || self.now.wall), "it answers no PING by then");
                }
                Effect::Departure => {}
                Effect::Watch(probe) => {
                    assert!(!self.watched.contains(&probe), "watched once");
                    self.watched.push(probe);
                }
                Effect::Forget(probe) => {
                    let at = self.watched.iter().position(|other| *other == probe);
                    self.watched.remove(at.expect("only what is watched is forgotten"));
                }
                Effect::Test { test, .. } => self.tests.push(test),
                Effect::Log(event) => self.log.push(event),
            }
        }
        inputs
    }

    /// The store says that it holds the change that it was asked for at this place among those it has not
    /// answered, or that it does not.
    fn decides(&mut self, at: usize, holds: bool) {
        let (tx, change) = self.commits.remove(at);
        if holds {
            self.paper.apply(&change);
            self.history.push(change);
        }
        self.input(if holds { Input::Committed(tx) } else { Input::Rejected(tx) });
    }

    /// Every member of every claim, in words, whether or not it serves.
    fn shown(&self) -> Vec<String> {
        let mut shown = Vec::new();
        for claim in self.table.claims() {
            for member in &claim.members {
                shown.push(format!(
                    "{}{} of {} priority {} limited {}: {} {} {:?} {:?} {:?}",
                    claim.domain,
                    claim.path,
                    claim.terms.service,
                    claim.terms.priority,
                    claim.limit.is_some(),
                    member.terms.instance,
                    member.backend,
                    member.terms.settings,
                    member.terms.extras.headers(),
                    member.terms.extras.breaker(),
                ));
            }
        }
        shown.sort();
        shown
    }

    fn connect(&mut self, from: &str) -> ConnId {
        self.connections += 1;
        let conn = ConnId(self.connections);
        self.input(Input::Opened(conn, from.parse::<IpAddr>().unwrap()));
        conn
    }

    /// A connection of another replica, to which a former leader had bound this session.
    fn announce(&mut self, id: &str, from: &str) -> ConnId {
        self.connections += 1;
        let conn = ConnId(self.connections);
        self.input(Input::Announced(conn, from.parse().unwrap(), id.parse().unwrap()));
        conn
    }

    fn hang_up(&mut self, conn: ConnId) {
        self.input(Input::Closed(conn));
    }

    fn say(&mut self, conn: ConnId, line: &str) {
        self.input(Input::Line(conn, Command::parse(line)));
    }

    /// Whether the connection may answer this keepalive without the registry.
    fn answers_keepalive(&self, conn: ConnId, line: &str) -> bool {
        let command = Command::parse(line).unwrap();
        self.keepalives.get(&conn).is_some_and(|keepalive| keepalive.answers(&command, || self.now.wall))
    }

    /// The lines that the connection has not read.
    fn read(&mut self, conn: ConnId) -> Vec<String> {
        self.lines.remove(&conn).unwrap_or_default()
    }

    /// Sends a line and reads its one reply.
    fn ask(&mut self, conn: ConnId, line: &str) -> String {
        self.say(conn, line);
        let mut lines = self.read(conn);
        assert_eq!(lines.len(), 1, "{line} has one reply: {lines:?}");
        lines.remove(0)
    }

    /// Sends lines that are all answered with OK or one of its kind.
    fn do_all(&mut self, conn: ConnId, lines: &[&str]) {
        for line in lines {
            let reply = self.ask(conn, line);
            assert!(reply.contains("OK"), "{line}: {reply}");
        }
    }

    /// A session on a connection of its own.
    fn register(&mut self, service: &str, instance: &str, from: &str) -> (ConnId, String) {
        let conn = self.connect(from);
        let id = self.register_on(conn, service, instance);
        (conn, id)
    }

    fn register_on(&mut self, conn: ConnId, service: &str, instance: &str) -> String {
        let reply = self.ask(conn, &format!("REGISTER|{service}|{instance}|0|null"));
        reply.strip_prefix("ACK|").expect(&reply).to_owned()
    }

    /// Applies a route, and returns the reply to the apply.
    fn apply(&mut self, conn: ConnId, domain: &str, backend: &str) -> String {
        let added = self.ask(conn, &format!("ROUTE_ADD||{domain}|/|{backend}|0"));
        assert!(added.starts_with("ROUTE_OK|r"), "{added}");
        self.ask(conn, "CONFIG_APPLY|")
    }

    /// Registers and applies a route on a connection. Returns the reply to the apply.
    fn apply_as(&mut self, conn: ConnId, service: &str, domain: &str, backend: &str) -> String {
        self.register_on(conn, service, &format!("{service}-1"));
        self.apply(conn, domain, backend)
    }

    /// A session with one applied route, whose backend has answered.
    fn live(
        &mut self,
        service: &str,
        instance: &str,
        from: &str,
        domain: &str,
        backend: &str,
    ) -> (ConnId, String) {
        let (conn, id) = self.register(service, instance, from);
        assert_eq!(self.apply(conn, domain, backend), "OK");
        self.passes(backend);
        (conn, id)
    }

    fn probed(&mut self, backend: &str, result: &Result<(), ProbeFailure>) {
        let backend = backend.parse().unwrap();
        for probe in self.watched.clone().into_iter().filter(|probe| probe.backend == backend) {
            self.input(Input::Probed(probe, result.clone()));
        }
    }

    fn passes(&mut self, backend: &str) {
        self.probed(backend, &Ok(()));
    }

    fn fails(&mut self, backend: &str) {
        self.probed(backend, &Err("connection refused".to_owned().into()));
    }

    /// The port accepts the connection, and no answer comes in time.
    fn is_slow(&mut self, backend: &str) {
        self.probed(backend, &Err(ProbeFailure::slow("no answer within 5s".to_owned())));
    }

    /// What is asked of a backend, in short.
    fn questions(&self, backend: &str) -> Vec<String> {
        let backend = backend.parse().unwrap();
        let probes = self.watched.iter().filter(|probe| probe.backend == backend);
        let short = |probe: &Probe| match &probe.kind {
            ProbeKind::Connect => format!("connect every {:?}", probe.interval),
            ProbeKind::Get { path, host, .. } => {
                let host = host.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("GET {host}{path} every {:?} within {:?}", probe.interval, probe.timeout)
            }
        };
        probes.map(short).collect()
    }

    /// Lets time pass, from deadline to deadline.
    fn after(&mut self, time: Duration) {
        let end = self.now.mono + time;
        let mut ticks = 0;
        while let Some(deadline) = self.registry.next_deadline().filter(|deadline| *deadline <= end) {
            let step = deadline.saturating_duration_since(self.now.mono);
            self.now = Now { mono: self.now.mono + step, wall: self.now.wall + step };
            self.input(Input::Tick);
            ticks += 1;
            assert!(ticks < 1000, "a deadline that has passed is not due again");
        }
        let step = end - self.now.mono;
        self.now = Now { mono: end, wall: self.now.wall + step };
    }

    /// The backends to which requests for a domain go.
    fn serving(&self, domain: &str) -> Vec<String> {
        self.members(domain, true)
    }

    /// The backends of a claim, whether or not requests go there.
    fn pool(&self, domain: &str) -> Vec<String> {
        self.members(domain, false)
    }

    fn members(&self, domain: &str, usable: bool) -> Vec<String> {
        let claim = self.table.get(&domain.parse().unwrap(), &"/".parse().unwrap());
        let members = claim.map(|claim| claim.members.clone()).unwrap_or_default();
        let shown = members.iter().filter(|member| member.usable || !usable);
        shown.map(|member| member.backend.authority()).collect()
    }
}
