//! The registry's core in virtual time, with a scripted store and prober around it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use registry_client::protocol::report::BackendReport;
use registry_client::protocol::{Auth, CircuitBreaker, Command, MAX_LINE, Refusal, Reply, ServerLine};
use registry_sidecar::server::registry::{
    ConnId, Effect, Input, Keepalive, Limits, Now, Registry, RegistryConfig, TestId, Token, Tx,
};
use registry_sidecar::server::routing::{Claim, Member, Probe, ProbeFailure, ProbeKind, Table};

use super::compare::{Clock, ROUNDING};
use super::duel::Core;
use super::model::{ClaimView, MemberView, Out, REFUSED, Rules, SLOW, Watched};
use super::steps::{self, Answer, StoreMode};

/// What came out on a connection.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    Line(usize, String),
    Close(usize),
}

pub(crate) struct World {
    registry: Registry,
    started: Instant,
    now: Now,
    table: Table,
    watched: Vec<Probe>,
    store: StoreMode,
    given: Vec<Tx>,
    tests: Vec<TestId>,
    said: Vec<Said>,
    /// Commands of each connection that the registry has not replied to.
    unanswered: HashMap<ConnId, usize>,
    /// What each connection was given last to answer keepalives with.
    pulses: HashMap<ConnId, Arc<Keepalive>>,
}

/// When the virtual clock starts.
pub(crate) fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

pub(crate) fn config(rules: &Rules) -> RegistryConfig {
    let ms = Duration::from_millis;
    RegistryConfig {
        grace: ms(rules.grace),
        hold: ms(rules.hold),
        stage_ttl: ms(rules.stage_ttl),
        silent_connection: ms(rules.silent),
        longest_wait: ms(rules.longest_wait),
        cluster_id: "one".to_owned(),
        token: rules.token.as_deref().map(Token::new),
        limits: Limits {
            connections: rules.max_connections,
            connections_per_address: rules.max_connections_per_address,
            sessions: rules.max_sessions,
            sessions_per_address: rules.max_sessions_per_address,
            routes: rules.max_routes,
            domains: rules.max_domains,
            headers: rules.max_headers,
            metadata_bytes: rules.max_metadata,
            queue: rules.max_queue,
            staged_bytes: if rules.no_staging { 0 } else { Limits::default().staged_bytes },
            ..Limits::default()
        },
        ..RegistryConfig::default()
    }
}

impl World {
    pub(crate) fn new(rules: &Rules) -> Self {
        let mut last = 0;
        let random = move || {
            last += 1;
            Some(last)
        };
        let started = Instant::now();
        World {
            registry: Registry::new(config(rules), Box::new(random)),
            started,
            now: Now { mono: started, wall: epoch() },
            table: Table::default(),
            watched: Vec::new(),
            store: StoreMode::Holds,
            given: Vec::new(),
            tests: Vec::new(),
            said: Vec::new(),
            unanswered: HashMap::new(),
            pulses: HashMap::new(),
        }
    }

    fn set_time(&mut self, mono: Instant) {
        self.now = Now { mono, wall: epoch() + mono.duration_since(self.started) };
    }

    fn happens(&mut self, input: Input) {
        let mut inputs = vec![input];
        while !inputs.is_empty() {
            self.registry.handle(self.now, inputs.remove(0));
            let effects: Vec<Effect> = self.registry.effects().collect();
            for effect in effects {
                inputs.extend(self.perform(effect));
            }
        }
    }

    fn perform(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Send(conn, line) => {
                if let (ServerLine::Reply(_), Some(count)) = (&line, self.unanswered.get_mut(&conn)) {
                    *count = count.saturating_sub(1);
                }
                self.said.push(Said::Line(conn.0 as usize, line.encode()));
            }
            Effect::Bound(conn, pulse) => drop(self.pulses.insert(conn, pulse)),
            Effect::Close(conn) => self.said.push(Said::Close(conn.0 as usize)),
            Effect::Commit(tx, _) => match self.store {
                StoreMode::Holds => return Some(Input::Committed(tx)),
                StoreMode::Refuses => return Some(Input::Rejected(tx)),
                StoreMode::Waits => self.given.push(tx),
            },
            Effect::Event(conns, push) => {
                let line = ServerLine::from(push).encode();
                self.said.extend(conns.iter().map(|conn| Said::Line(conn.0 as usize, line.clone())));
            }
            Effect::Publish(table) => self.table = table,
            Effect::Watch(probe) => {
                assert!(!self.watched.contains(&probe), "watched twice: {probe:?}");
                self.watched.push(probe);
            }
            Effect::Forget(probe) => {
                let at = self.watched.iter().position(|other| *other == probe);
                self.watched.remove(at.expect("only what is watched is forgotten"));
            }
            Effect::Test { test, .. } => self.tests.push(test),
            _ => {}
        }
        None
    }
}

impl Core for World {
    fn peer(&self, index: usize) -> IpAddr {
        steps::peer(index)
    }

    fn clock(&self) -> Clock {
        Clock { epoch: epoch(), tolerance_ms: ROUNDING }
    }

    fn ends_tests_itself(&self) -> bool {
        false
    }

    fn set_store(&mut self, mode: StoreMode) {
        self.store = mode;
    }

    fn watched(&self) -> Vec<Probe> {
        self.watched.clone()
    }

    fn table(&self) -> Arc<Table> {
        Arc::new(self.table.clone())
    }

    fn session_count(&self) -> Option<usize> {
        Some(self.registry.session_count())
    }

    fn take_said(&mut self, _foreseen: &[Out]) -> Vec<Said> {
        std::mem::take(&mut self.said)
    }

    fn open(&mut self, conn: usize, peer: IpAddr) {
        self.happens(Input::Opened(ConnId(conn as u64), peer));
    }

    fn close(&mut self, conn: usize) {
        self.happens(Input::Closed(ConnId(conn as u64)));
    }

    /// As the listener does it.
    fn line(&mut self, conn: usize, line: &str) {
        let parsed = if line.len() > MAX_LINE { Err(Refusal::LineTooLong) } else { Command::parse(line) };
        let id = ConnId(conn as u64);
        let unanswered = self.unanswered.entry(id).or_default();
        // As the listener does: what a connection may answer by itself does not go to the registry.
        if let (0, Some(pulse), Ok(command)) = (*unanswered, self.pulses.get(&id), &parsed)
            && pulse.answers(command, || self.now.wall)
        {
            return self.said.push(Said::Line(conn, Reply::Pong.encode()));
        }
        *unanswered += 1;
        self.happens(Input::Line(id, parsed));
    }

    fn probed(&mut self, probe: &Probe, answer: Answer) {
        let result = result_of(answer);
        self.happens(Input::Probed(probe.clone(), result));
    }

    fn store_answers(&mut self, holds: bool) {
        self.store = if holds { StoreMode::Holds } else { StoreMode::Refuses };
        for tx in std::mem::take(&mut self.given) {
            self.happens(if holds { Input::Committed(tx) } else { Input::Rejected(tx) });
        }
    }

    fn test_ends(&mut self, result: Result<u16, &str>) -> Option<u64> {
        if self.tests.is_empty() {
            return None;
        }
        let test = self.tests.remove(0);
        let report = |status_code| BackendReport {
            reachable: true,
            response_time_ms: 1.5,
            status_code,
            tls_valid: false,
        };
        self.happens(Input::Tested(test, result.map(report).map_err(str::to_owned)));
        Some(test.0)
    }

    fn stop(&mut self) {
        self.happens(Input::Stop);
    }

    /// From deadline to deadline.
    fn advance(&mut self, to_ms: u64) {
        let end = self.started + Duration::from_millis(to_ms);
        let mut ticks = 0;
        while let Some(deadline) = self.registry.next_deadline().filter(|deadline| *deadline <= end) {
            self.set_time(deadline.max(self.now.mono));
            self.happens(Input::Tick);
            ticks += 1;
            assert!(ticks < 10_000, "a deadline that has passed is due again");
        }
        self.set_time(end);
    }

    /// The routing table in the model's words. Moments are milliseconds since the start.
    fn claims(&self) -> Vec<ClaimView> {
        self.table.claims().map(|claim| view(claim, self.started, self.now.mono)).collect()
    }
}

/// What the prober says of an answer.
pub(crate) fn result_of(answer: Answer) -> Result<(), ProbeFailure> {
    match answer {
        Answer::Passes => Ok(()),
        Answer::Refuses => Err(REFUSED.to_owned().into()),
        Answer::IsSlow => Err(ProbeFailure::slow(SLOW.to_owned())),
    }
}

pub(crate) fn watched(probe: &Probe) -> Watched {
    let get = match &probe.kind {
        ProbeKind::Connect => None,
        ProbeKind::Get { path, host, statuses } => {
            let host = host.as_ref().map(ToString::to_string);
            Some((path.to_string(), host, statuses.as_ref().map(ToString::to_string)))
        }
    };
    let interval = probe.interval.as_millis() as u64;
    let timeout = probe.timeout.as_millis() as u64;
    Watched { backend: probe.backend.to_string(), peer: probe.peer, get, interval, timeout }
}

pub(crate) fn view(claim: &Claim, started: Instant, now: Instant) -> ClaimView {
    let millis = |duration: Duration| duration.as_millis() as u64;
    ClaimView {
        domain: claim.domain.to_string(),
        path: claim.path.to_string(),
        service: claim.terms.service.to_string(),
        priority: claim.terms.priority,
        limit: claim
            .limit
            .as_ref()
            .map(|limit| (limit.figure().requests, millis(limit.figure().window.get()))),
        hold: millis(claim.terms.hold),
        guards: guards(claim),
        held_until: claim.hold.deadline(now).map(|until| millis(until.duration_since(started))),
        members: claim.members.iter().map(|member| member_view(member, started)).collect(),
    }
}

fn guards(claim: &Claim) -> (bool, [Option<String>; 3], Option<u64>) {
    let extras = &claim.terms.extras;
    let guards = extras.guards();
    (
        extras.is_sticky(),
        [
            guards.and_then(|guards| guards.redirect.as_ref().map(ToString::to_string)),
            guards.and_then(|guards| guards.allow_from.as_ref().map(ToString::to_string)),
            guards.and_then(|guards| guards.auth.as_ref().map(Auth::value_text)),
        ],
        guards.and_then(|guards| guards.body_limit.map(u64::from)),
    )
}

fn member_view(member: &Member, started: Instant) -> MemberView {
    let millis = |duration: Duration| duration.as_millis() as u64;
    let breaker = |b: CircuitBreaker| (b.threshold, millis(b.timeout.get()), b.half_open_requests);
    let (terms, settings) = (&member.terms, &member.terms.settings);
    MemberView {
        instance: terms.instance.to_string(),
        backend: member.backend.to_string(),
        peer: terms.peer,
        usable: member.usable,
        drain: terms
            .drain
            .as_ref()
            .map(|drain| (millis(drain.since.duration_since(started)), millis(drain.time))),
        timeout: millis(settings.timeout),
        flags: [
            settings.websocket,
            settings.preserve_host,
            settings.compression,
            settings.http2,
            settings.strip_prefix,
        ],
        weight: settings.weight.get().into(),
        headers: headers(member),
        breaker: terms.extras.breaker().map(breaker),
        maintenance: terms
            .extras
            .maintenance()
            .map(|shown| shown.page.as_ref().map(|page| page.backend.to_string())),
    }
}

fn headers(member: &Member) -> Vec<(String, String)> {
    let mut map = http::HeaderMap::new();
    if let Some(headers) = member.terms.extras.headers() {
        headers.put_into(&mut map);
    }
    let text = |value: &http::HeaderValue| value.to_str().expect("visible text").to_owned();
    let mut all: Vec<_> = map.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    all.sort();
    all
}

/// Session ids as they are on the wire, by the model's numbers.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    /// Not of every session: an id is told when the answers before it are.
    known: BTreeMap<usize, String>,
}

impl Ids {
    pub(crate) fn learn(&mut self, number: usize, id: &str) -> Result<(), String> {
        if self.known.values().any(|known| known == id) {
            return Err(format!("the id {id} was given twice"));
        }
        self.known.insert(number, id.to_owned());
        Ok(())
    }

    /// A line for the model: `@n` becomes the number of a session that there was, `%…` a long text: `PING` and
    /// `%full` are the longest line that there may be.
    pub(crate) fn resolve(&self, line: &str) -> String {
        let mut fields: Vec<String> = line.split('|').map(str::to_owned).collect();
        if let Some(field) = fields.get_mut(1)
            && let Some(rest) = field.strip_prefix('@')
            && let Ok(number) = rest.trim_end_matches('~').parse::<usize>()
        {
            let half = if rest.ends_with('~') { "~" } else { "" };
            let nth = number.checked_rem(self.known.len());
            *field = match nth.and_then(|nth| self.known.keys().nth(nth)) {
                Some(number) => format!("@{number}{half}"),
                None => "nobody".to_owned(),
            };
        }
        for (name, length) in [("%long", 600), ("%full", 65_530), ("%over", 65_531)] {
            if let Some(field) = fields.get_mut(1).filter(|field| *field == name) {
                *field = "x".repeat(length);
            }
        }
        fields.join("|")
    }

    /// The same line for the wire.
    pub(crate) fn spell(&self, line: &str) -> String {
        let mut fields: Vec<String> = line.split('|').map(str::to_owned).collect();
        if let Some(field) = fields.get_mut(1) {
            let (name, half) = match field.strip_suffix('~') {
                Some(name) => (name, true),
                None => (field.as_str(), false),
            };
            let number = name.strip_prefix('@').and_then(|n| n.parse::<usize>().ok());
            if let Some(id) = number.and_then(|number| self.known.get(&number)) {
                *field = if half { id[..id.len() / 2].to_owned() } else { id.clone() };
            }
        }
        fields.join("|")
    }

    /// A line from the wire with the model's names for sessions.
    pub(crate) fn hide(&self, line: &str) -> String {
        let found = self.known.iter().find(|(_, id)| line.contains(id.as_str()));
        found.map_or_else(|| line.to_owned(), |(number, id)| line.replace(id, &format!("@{number}")))
    }
}
