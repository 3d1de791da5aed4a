//! Virtual time: one queue of events, one seeded source of chance, nothing else that could differ from run to
//! run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

use registry_client::machine::Timing;
use registry_client::protocol::Host;
use registry_client::{Cause, ConnectError};
use registry_sidecar::server::registry::{LogEvent, MemberLabel, Now};

use super::cast::{ProcId, Replica, ReplicaId, Sidecar};
use super::faults::{Counts, Kind, Mending, Plan};
use super::oracle::Oracle;
use super::server::{Deed, ProbeNo, Server};
use super::wire::{Link, LinkId, Piece, Trap, Way, Weather};

/// How long a connection attempt takes to give up.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// When TCP keepalive finds a peer that is gone without a word (PROTOCOL section 1).
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(60);
/// A run of more events than this does not end by itself.
const MOST_EVENTS: u64 = 400_000;

/// What happens next.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A sidecar wants to be told the time.
    Alarm(ProcId),
    RegistryAlarm,
    /// The disk is done with something.
    Store,
    /// A SYN reaches the registry's host.
    Knock(ProcId, u64, Ipv4Addr),
    Dialled(ProcId, u64, Result<LinkId, ConnectError>),
    Arrive(LinkId, Way, Piece),
    /// TCP keepalive at the registry's end.
    Keepalive(LinkId),
    Probe(ProbeNo),
    Probed(ProbeNo, Result<(), String>),
    Strike,
    Mend(Mending),
    /// The oracle looks at everything once more.
    Audit,
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) base: Instant,
    queue: BinaryHeap<Reverse<(Duration, u64, Queued)>>,
    queued: u64,
    pub(crate) events: u64,
    pub(crate) rng: fastrand::Rng,
    pub(crate) plan: Plan,
    pub(crate) counts: Counts,
    pub(crate) server: Server,
    /// The registry's machine has power.
    pub(crate) power: bool,
    /// How far the registry's wall clock is off, in seconds.
    pub(crate) clock_error: i64,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) procs: BTreeMap<ProcId, Sidecar>,
    pub(crate) last_proc: ProcId,
    pub(crate) links: BTreeMap<LinkId, Link>,
    pub(crate) last_link: LinkId,
    pub(crate) last_dial: u64,
    /// Traps for the next connection of a replica.
    pub(crate) traps: Vec<(ReplicaId, Way, Trap)>,
    pub(crate) oracle: Oracle,
    /// Something that the oracle looks at has changed.
    pub(crate) dirty: bool,
    pub(crate) failure: Option<String>,
    pub(crate) fault_log: Vec<String>,
    /// The story, if somebody wants to read it.
    pub(crate) trace: Option<Vec<String>>,
    /// The most lines that one sidecar sent in a minute.
    pub(crate) busiest: usize,
    /// When sidecars tried to connect.
    pub(crate) dials: Vec<Duration>,
}

/// An event in the queue: ordered by its time and number only.
#[derive(Debug)]
struct Queued(Event);

impl PartialEq for Queued {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan, replicas: Vec<Replica>, trace: bool) -> Self {
        let rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
        World {
            now: Duration::ZERO,
            base: Instant::now(),
            queue: BinaryHeap::new(),
            queued: 0,
            events: 0,
            rng,
            plan,
            counts: Counts::default(),
            server: Server::new(seed),
            power: true,
            clock_error: 0,
            replicas,
            procs: BTreeMap::new(),
            last_proc: 0,
            links: BTreeMap::new(),
            last_link: 0,
            last_dial: 0,
            traps: Vec::new(),
            oracle: Oracle::default(),
            dirty: false,
            failure: None,
            fault_log: Vec::new(),
            trace: trace.then(Vec::new),
            busiest: 0,
            dials: Vec::new(),
        }
    }

    /// Runs until `end`, or until something is wrong.
    pub(crate) fn run_until(&mut self, end: Duration) {
        while self.failure.is_none()
            && self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= end)
            && let Some(Reverse((at, _, Queued(event)))) = self.queue.pop()
        {
            self.now = at;
            self.events += 1;
            if self.events > MOST_EVENTS {
                self.fail("the world does not come to rest".to_owned());
            }
            self.handle(event);
            if std::mem::take(&mut self.dirty) {
                self.observe();
            }
        }
        if self.failure.is_none() {
            self.now = end;
        }
    }

    pub(crate) fn at(&mut self, at: Duration, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse((at.max(self.now), self.queued, Queued(event))));
    }

    pub(crate) fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + wait, event);
    }

    pub(crate) fn instant(&self) -> Instant {
        self.base + self.now
    }

    pub(crate) fn clock(&self) -> Now {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.now;
        let error = Duration::from_secs(self.clock_error.unsigned_abs());
        let wall = if self.clock_error < 0 { wall - error } else { wall + error };
        Now { mono: self.instant(), wall }
    }

    pub(crate) fn fail(&mut self, what: String) {
        if self.failure.is_none() {
            self.say(|| format!("FAILED: {what}"));
            self.failure = Some(format!("at {:?}: {what}", self.now));
        }
    }

    /// Adds to the story.
    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let mut line = String::new();
            write!(line, "{:>12.6} {}", self.now.as_secs_f64(), what()).unwrap();
            trace.push(line);
        }
    }

    pub(crate) fn between(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.rng.u64(least..=most))
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Alarm(proc) => self.alarm(proc),
            Event::RegistryAlarm => self.registry_alarm(),
            Event::Store => {
                let deeds = self.server.stored(self.now, self.clock());
                self.perform(deeds);
            }
            Event::Knock(proc, dial, from) => self.knock(proc, dial, from),
            Event::Dialled(proc, dial, result) => self.dialled(proc, dial, result),
            Event::Arrive(link, way, piece) => self.arrive(link, way, piece),
            Event::Keepalive(link) => self.keepalive(link),
            Event::Probe(no) => self.probe(no),
            Event::Probed(no, result) => {
                self.say(|| format!("probe {no}: {result:?}"));
                let deeds = self.server.probed(no, result, self.now, self.clock());
                self.perform(deeds);
            }
            Event::Strike => self.strike(),
            Event::Mend(mending) => self.mend(mending),
            Event::Audit => {
                self.dirty = true;
                self.after(Duration::from_secs(1), Event::Audit);
            }
        }
    }
}

/// Connections.
impl World {
    pub(crate) fn weather(&mut self, held_until: Duration) -> Weather {
        let spread = self.plan.latency.as_micros() as u64;
        let latency = Duration::from_micros(100 + self.rng.u64(0..=spread));
        Weather { now: self.now, latency, held_until }
    }

    fn weather_of(&mut self, link: LinkId) -> Weather {
        let proc = self.links.get(&link).map_or(0, |link| link.proc);
        let replica = self.procs.get(&proc).map(|sidecar| sidecar.replica);
        let held_until = replica.map_or(Duration::ZERO, |id| self.replicas[id].held_until);
        self.weather(held_until)
    }

    pub(crate) fn write(&mut self, id: LinkId, way: Way, bytes: &[u8]) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let (taken, trap) = link.pipe(way).take(bytes.len());
        let mut rest = &bytes[..taken];
        while !rest.is_empty() {
            // Now and then a line comes in two pieces.
            let count = if self.rng.u8(..) < 64 { self.rng.usize(1..=rest.len()) } else { rest.len() };
            let (piece, more) = rest.split_at(count);
            rest = more;
            self.transmit(id, way, Piece::Bytes(piece.to_vec()));
        }
        if let Some(trap) = trap {
            self.spring(id, way, trap);
            if self.links.contains_key(&id) {
                self.write(id, way, &bytes[taken..]);
            }
        }
    }

    pub(crate) fn transmit(&mut self, id: LinkId, way: Way, piece: Piece) {
        let weather = self.weather_of(id);
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Some(at) = link.pipe(way).arrival(weather) {
            self.at(at, Event::Arrive(id, way, piece));
        }
    }

    fn arrive(&mut self, id: LinkId, way: Way, piece: Piece) {
        let Some(link) = self.links.get(&id) else { return };
        let (proc, conn) = (link.proc, link.conn);
        let open = if way == Way::Up { link.server_open } else { link.client_open };
        if way == Way::Down && self.is_frozen(proc, || Event::Arrive(id, way, piece.clone())) {
            return;
        }
        match (way, piece) {
            // The machine there is up, and has never heard of this connection.
            (Way::Up, Piece::Bytes(_)) if !open && self.power => self.transmit(id, Way::Down, Piece::Reset),
            _ if !open => {}
            (Way::Up, Piece::Bytes(bytes)) => {
                let deeds = self.server.read(conn, &bytes, self.now, self.clock());
                self.perform(deeds);
            }
            (Way::Up, Piece::Fin) => {
                let deeds = self.server.finish(conn, self.now, self.clock());
                self.perform(deeds);
            }
            (Way::Up, Piece::Reset) => self.server_loses(id),
            (Way::Down, Piece::Bytes(bytes)) => self.client_reads(proc, &bytes),
            (Way::Down, Piece::Fin) => self.client_loses(proc, Cause::Closed),
            (Way::Down, Piece::Reset) => self.client_loses(proc, Cause::Broken("reset".to_owned())),
        }
        self.tidy(id);
    }

    /// The client's end is closed.
    pub(crate) fn let_go(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if std::mem::take(&mut link.client_open) {
            self.transmit(id, Way::Up, Piece::Fin);
            self.after(KEEPALIVE, Event::Keepalive(id));
        }
        self.tidy(id);
    }

    pub(crate) fn server_loses(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.server_open = false;
        let conn = link.conn;
        let deeds = self.server.lose(conn, self.now, self.clock());
        self.perform(deeds);
    }

    fn keepalive(&mut self, id: LinkId) {
        if self.links.get(&id).is_some_and(|link| link.server_open && link.is_half_open()) {
            self.server_loses(id);
        }
        self.tidy(id);
    }

    /// From now on nothing passes, and what is under way is lost.
    pub(crate) fn sever(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.go_dead();
            self.queue.retain(
                |Reverse((_, _, Queued(event)))| !matches!(event, Event::Arrive(of, Way::Up, _) if *of == id),
            );
            self.after(KEEPALIVE, Event::Keepalive(id));
        }
    }

    fn tidy(&mut self, id: LinkId) {
        if self.links.get(&id).is_some_and(|link| !link.client_open && !link.server_open) {
            self.links.remove(&id);
        }
    }
}

/// The registry.
impl World {
    fn registry_alarm(&mut self) {
        let now = self.now;
        let Some(core) = &mut self.server.core else { return };
        if core.alarm.is_some_and(|alarm| alarm > now) {
            return;
        }
        core.alarm = None;
        let deeds = self.server.tick(self.now, self.clock());
        self.perform(deeds);
    }

    pub(crate) fn perform(&mut self, deeds: Vec<Deed>) {
        for deed in deeds {
            match deed {
                Deed::Write(link, bytes) => self.write(link, Way::Down, &bytes),
                Deed::Close(link) => {
                    self.transmit(link, Way::Down, Piece::Fin);
                    if let Some(link) = self.links.get_mut(&link) {
                        link.server_open = false;
                    }
                    self.tidy(link);
                }
                Deed::Ask(no) => self.after(Duration::ZERO, Event::Probe(no)),
                Deed::Published => self.dirty = true,
                Deed::Log(event) => {
                    self.say(|| format!("registry: {}", shown(&event)));
                    self.happened(&event);
                }
                Deed::Store(at) => self.at(at, Event::Store),
                Deed::Answered(conn, line) => self.answered(conn, &line),
            }
        }
        let (base, now) = (self.base, self.now);
        let Some(deadline) = self.server.deadline() else { return };
        let at = deadline.saturating_duration_since(base).max(now);
        if let Some(core) = &mut self.server.core
            && core.alarm.is_none_or(|alarm| at < alarm)
        {
            core.alarm = Some(at);
            self.at(at, Event::RegistryAlarm);
        }
    }

    /// Asks a backend, as the proxy's prober does, and comes again after the interval.
    fn probe(&mut self, no: ProbeNo) {
        let Some(probe) = self.server.core.as_ref().and_then(|core| core.probes.get(&no)) else { return };
        let (interval, patience) = (probe.interval, probe.timeout);
        let Host::Ip(ip) = probe.backend.host() else { return };
        let (result, takes) = match self.answers(super::cast::v4(*ip)) {
            Some(Ok(_)) => (Ok(()), Duration::from_millis(1)),
            Some(Err(())) => (Err("no answer".to_owned()), patience),
            None => (Err("refused".to_owned()), Duration::from_millis(1)),
        };
        let stretch = 0.9 + 0.2 * self.rng.f64();
        self.after(takes, Event::Probed(no, result));
        self.after(interval.mul_f64(stretch).max(takes), Event::Probe(no));
    }

    /// Who answers at an address: a replica, silence, or nobody.
    pub(crate) fn answers(&self, address: Ipv4Addr) -> Option<Result<ReplicaId, ()>> {
        let holder = self.replicas.iter().position(|replica| replica.addresses.contains(&address))?;
        let replica = &self.replicas[holder];
        match (replica.is_silent, replica.is_up) {
            (true, _) => Some(Err(())),
            (false, true) => Some(Ok(holder)),
            (false, false) => None,
        }
    }

    /// Notes that a fault has struck.
    pub(crate) fn struck(&mut self, kind: Kind, what: impl FnOnce() -> String) {
        self.counts.add(kind);
        let line = format!("{:>12.6} {kind:?}: {}", self.now.as_secs_f64(), what());
        self.say(|| format!("*** {kind:?}"));
        self.fault_log.push(line);
    }
}

/// What happened in the registry, in a short line.
fn shown(event: &LogEvent) -> String {
    match event {
        LogEvent::MemberIn(MemberLabel { session, endpoint, domain, path, .. }) => {
            format!("{session} in: {domain}{path} -> {}", endpoint.backend)
        }
        LogEvent::MemberOut { which: MemberLabel { session, endpoint, domain, path, .. }, event, .. } => {
            format!("{session} out: {domain}{path} -> {}, {event:?}", endpoint.backend)
        }
        other => format!("{other:?}"),
    }
}

/// The times of a machine.
pub(crate) fn timing(keepalive: u64, request: u64) -> Timing {
    Timing {
        keepalive_interval: Duration::from_secs(keepalive),
        request_timeout: Duration::from_secs(request),
        reconnect_min: Duration::from_millis(100),
        reconnect_max: Duration::from_secs(10),
        route_watch: None,
    }
}
