//! The registry: the real core, with a listener, a disk and a prober of the world's around it. What is done to
//! the outside is handed back as [`Deed`]s.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use registry_client::protocol::{Command, Line, LineCodec, MAX_LINE, ServerLine};
use registry_sidecar::server::registry::persist::{SavedSession, SavedState};
use registry_sidecar::server::registry::{
    ConnId, Effect, Input, LogEvent, Now, Registry, RegistryConfig, StoreChange, Token, Tx,
};
use registry_sidecar::server::routing::{Probe, Table};
use tokio_util::codec::{Decoder, Encoder};

use super::wire::LinkId;

/// How long a session outlives its connection here.
pub(crate) const GRACE: Duration = Duration::from_secs(30);
/// How long an empty claim is held here.
pub(crate) const HOLD: Duration = Duration::from_secs(2);
/// How long what the disk says of the server's life may be old.
const HEARTBEAT: Duration = Duration::from_secs(7);
const BOOT: &str = "the only boot";

/// What is to be done to the outside.
pub(crate) enum Deed {
    Write(LinkId, Vec<u8>),
    /// What was written, then EOF.
    Close(LinkId),
    Ask(ProbeNo),
    Published,
    Log(LogEvent),
    /// A verdict of the store is due then.
    Store(Duration),
    Answered(ConnId, ServerLine),
}

/// Never given twice.
pub(crate) type ProbeNo = u64;

/// What the disk does with changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Fine,
    Slow,
    Refuses,
}

/// A server with its disk, which outlives it.
pub(crate) struct Server {
    pub(crate) core: Option<Core>,
    disk: SavedState,
    pub(crate) mood: Mood,
    /// Nobody has the token that it asks for.
    pub(crate) refuses: bool,
    pub(crate) table: Table,
    /// When the disk last heard that the server was alive.
    alive_at: Option<SystemTime>,
    last_conn: u64,
    last_probe: ProbeNo,
    seeds: fastrand::Rng,
}

/// What dies with the process.
pub(crate) struct Core {
    registry: Registry,
    conns: BTreeMap<ConnId, Conn>,
    commits: VecDeque<(Duration, Tx, StoreChange)>,
    pub(crate) probes: BTreeMap<ProbeNo, Probe>,
    pub(crate) alarm: Option<Duration>,
    inputs: VecDeque<Input>,
}

struct Conn {
    link: LinkId,
    codec: LineCodec,
    input: BytesMut,
    unanswered: usize,
    /// The peer has sent all it wants.
    finished: bool,
}

impl Server {
    pub(crate) fn new(seed: u64) -> Self {
        Server {
            core: None,
            disk: SavedState::default(),
            mood: Mood::Fine,
            refuses: false,
            table: Table::default(),
            alive_at: None,
            last_conn: 0,
            last_probe: 0,
            seeds: fastrand::Rng::with_seed(seed),
        }
    }

    /// Starts the process with what the disk holds.
    pub(crate) fn start(&mut self, at: Duration, now: Now) -> Vec<Deed> {
        let token = self.refuses.then(|| Token::new("nobody knows it"));
        let config = RegistryConfig {
            grace: GRACE,
            hold: HOLD,
            cluster_id: "c".to_owned(),
            boot_id: BOOT.to_owned(),
            token,
            ..RegistryConfig::default()
        };
        let mut random = self.seeds.fork();
        let mut registry = Registry::new(config, Box::new(move || Some(random.u128(..))));
        if !self.disk.sessions.is_empty() {
            registry.restore(now, self.saved());
        }
        let (conns, commits, probes) = (BTreeMap::new(), VecDeque::new(), BTreeMap::new());
        self.core = Some(Core { registry, conns, commits, probes, alarm: None, inputs: VecDeque::new() });
        self.perform(at)
    }

    /// The process is gone, from one moment to the next. Of what it was writing some of the first may be on
    /// the disk, though nobody was told.
    pub(crate) fn crash(&mut self, rng: &mut fastrand::Rng, now: Now) {
        let Some(core) = self.core.take() else { return };
        let age = Duration::from_millis(rng.u64(0..=HEARTBEAT.as_millis() as u64));
        self.alive_at = now.wall.checked_sub(age);
        let written = rng.usize(0..=core.commits.len());
        if self.mood != Mood::Refuses {
            core.commits.into_iter().take(written).for_each(|(_, _, change)| self.write(&change));
        }
        self.table = Table::default();
    }

    /// The disk is lost, too.
    pub(crate) fn forget(&mut self) {
        self.disk.sessions.clear();
    }

    /// What is on the disk.
    pub(crate) fn disk(&self) -> impl Iterator<Item = &SavedSession> {
        self.disk.sessions.iter()
    }

    pub(crate) fn session_count(&self) -> usize {
        self.core.as_ref().map_or(0, |core| core.registry.session_count())
    }

    /// Somebody connects.
    pub(crate) fn accept(
        &mut self,
        link: LinkId,
        from: Ipv4Addr,
        at: Duration,
        now: Now,
    ) -> (ConnId, Vec<Deed>) {
        self.last_conn += 1;
        let id = ConnId(self.last_conn);
        if let Some(core) = &mut self.core {
            let (codec, input) = (LineCodec::new(MAX_LINE), BytesMut::new());
            core.conns.insert(id, Conn { link, codec, input, unanswered: 0, finished: false });
        }
        (id, self.turn(at, now, id, Input::Opened(id, from.into())))
    }

    /// Bytes came.
    pub(crate) fn read(&mut self, id: ConnId, bytes: &[u8], at: Duration, now: Now) -> Vec<Deed> {
        let Some(conn) = self.core.as_mut().and_then(|core| core.conns.get_mut(&id)) else {
            return Vec::new();
        };
        conn.input.extend_from_slice(bytes);
        let mut deeds = Vec::new();
        while let Some(line) = self.next_line(id) {
            deeds.extend(self.line(id, &line, at, now));
        }
        deeds
    }

    /// The peer has sent all it wants.
    pub(crate) fn finish(&mut self, id: ConnId, at: Duration, now: Now) -> Vec<Deed> {
        if let Some(conn) = self.core.as_mut().and_then(|core| core.conns.get_mut(&id)) {
            conn.finished = true;
        }
        let mut deeds = self.read(id, &[], at, now);
        deeds.extend(self.close_if_done(id, at, now));
        deeds
    }

    /// The connection is broken.
    pub(crate) fn lose(&mut self, id: ConnId, at: Duration, now: Now) -> Vec<Deed> {
        let known = self.core.as_mut().and_then(|core| core.conns.remove(&id));
        if known.is_some() { self.turn(at, now, id, Input::Closed(id)) } else { Vec::new() }
    }

    /// SIGTERM.
    pub(crate) fn stop(&mut self, at: Duration, now: Now) -> Vec<Deed> {
        self.turn(at, now, ConnId(0), Input::Stop)
    }

    pub(crate) fn tick(&mut self, at: Duration, now: Now) -> Vec<Deed> {
        self.turn(at, now, ConnId(0), Input::Tick)
    }

    /// When it wants to be told the time.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.core.as_ref()?.registry.next_deadline()
    }

    pub(crate) fn probed(
        &mut self,
        no: ProbeNo,
        result: Result<(), String>,
        at: Duration,
        now: Now,
    ) -> Vec<Deed> {
        let probe = self.core.as_ref().and_then(|core| core.probes.get(&no)).cloned();
        probe.map_or_else(Vec::new, |probe| {
            self.turn(at, now, ConnId(0), Input::Probed(probe, result.map_err(Into::into)))
        })
    }

    /// The disk is done with whatever is due.
    pub(crate) fn stored(&mut self, at: Duration, now: Now) -> Vec<Deed> {
        let mut deeds = Vec::new();
        while let Some(core) = &mut self.core
            && core.commits.front().is_some_and(|(due, ..)| *due <= at)
            && let Some((_, tx, change)) = core.commits.pop_front()
        {
            deeds.extend(self.verdict(tx, &change, at, now));
        }
        deeds
    }

    fn verdict(&mut self, tx: Tx, change: &StoreChange, at: Duration, now: Now) -> Vec<Deed> {
        if self.mood == Mood::Refuses {
            return self.turn(at, now, ConnId(0), Input::Rejected(tx));
        }
        self.write(change);
        self.turn(at, now, ConnId(0), Input::Committed(tx))
    }

    fn next_line(&mut self, id: ConnId) -> Option<Line> {
        let conn = self.core.as_mut()?.conns.get_mut(&id)?;
        match conn.finished {
            true => conn.codec.decode_eof(&mut conn.input).unwrap(),
            false => conn.codec.decode(&mut conn.input).unwrap(),
        }
    }

    fn line(&mut self, id: ConnId, line: &Line, at: Duration, now: Now) -> Vec<Deed> {
        let Line::Text(text) = line else { panic!("a client that sends {line:?}") };
        if let Some(conn) = self.core.as_mut().and_then(|core| core.conns.get_mut(&id)) {
            conn.unanswered += 1;
        }
        self.turn(at, now, id, Input::Line(id, Command::parse(text)))
    }

    fn close_if_done(&mut self, id: ConnId, at: Duration, now: Now) -> Vec<Deed> {
        let conn = self.core.as_ref().and_then(|core| core.conns.get(&id));
        let Some(conn) = conn.filter(|conn| conn.finished && conn.unanswered == 0) else { return Vec::new() };
        let link = conn.link;
        let mut deeds = self.lose(id, at, now);
        deeds.push(Deed::Close(link));
        deeds
    }

    /// Tells the registry what happened, and what came of what it wanted done.
    fn turn(&mut self, at: Duration, now: Now, cause: ConnId, input: Input) -> Vec<Deed> {
        let mut deeds = Vec::new();
        let mut next = Some(input);
        while let Some(input) = next {
            let Some(core) = &mut self.core else { break };
            core.registry.handle(now, input);
            deeds.extend(self.perform(at));
            next = self.core.as_mut().and_then(|core| core.inputs.pop_front());
        }
        if cause != ConnId(0) {
            deeds.extend(self.close_if_done(cause, at, now));
        }
        deeds
    }

    fn perform(&mut self, at: Duration) -> Vec<Deed> {
        let Some(core) = &mut self.core else { return Vec::new() };
        let effects: Vec<Effect> = core.registry.effects().collect();
        let mut deeds = Vec::new();
        for effect in effects {
            self.carry_out(effect, at, &mut deeds);
        }
        deeds
    }

    fn carry_out(&mut self, effect: Effect, at: Duration, deeds: &mut Vec<Deed>) {
        let Some(core) = &mut self.core else { return };
        match effect {
            Effect::Send(id, line) => {
                let Some(conn) = core.conns.get_mut(&id) else { return };
                if matches!(line, ServerLine::Reply(_)) {
                    conn.unanswered = conn.unanswered.saturating_sub(1);
                }
                let mut bytes = BytesMut::new();
                conn.codec.encode(&line.encode(), &mut bytes).unwrap();
                deeds.push(Deed::Write(conn.link, bytes.to_vec()));
                deeds.push(Deed::Answered(id, line));
            }
            Effect::Close(id) => {
                if let Some(conn) = core.conns.remove(&id) {
                    deeds.push(Deed::Close(conn.link));
                }
            }
            Effect::Commit(tx, change) => self.commit(tx, change, at, deeds),
            Effect::Publish(table) => {
                self.table = table;
                deeds.push(Deed::Published);
            }
            Effect::Watch(probe) => {
                self.last_probe += 1;
                core.probes.insert(self.last_probe, probe);
                deeds.push(Deed::Ask(self.last_probe));
            }
            Effect::Forget(probe) => core.probes.retain(|_, other| *other != probe),
            Effect::Log(event) => deeds.push(Deed::Log(event)),
            _ => {}
        }
    }

    fn commit(&mut self, tx: Tx, change: StoreChange, at: Duration, deeds: &mut Vec<Deed>) {
        let Some(core) = &mut self.core else { return };
        let takes = match self.mood {
            Mood::Slow => Duration::from_millis(self.seeds.u64(500..8_000)),
            _ if self.seeds.bool() => Duration::from_micros(self.seeds.u64(100..20_000)),
            _ => Duration::ZERO,
        };
        if takes.is_zero() && core.commits.is_empty() {
            let verdict = match self.mood {
                Mood::Refuses => Input::Rejected(tx),
                _ => Input::Committed(tx),
            };
            core.inputs.push_back(verdict);
            if self.mood != Mood::Refuses {
                self.write(&change);
            }
            return;
        }
        let last = core.commits.back().map_or(Duration::ZERO, |(due, ..)| *due);
        let due = last.max(at + takes);
        core.commits.push_back((due, tx, change));
        deeds.push(Deed::Store(due));
    }

    fn write(&mut self, change: &StoreChange) {
        if let StoreChange::Maintenance(all) = change {
            let is_held = |no: u64| self.disk.sessions.iter().any(|saved| saved.session.no == no);
            assert!(
                all.iter().all(|(no, _)| is_held(no.0)),
                "only sessions that are held are in maintenance"
            );
        }
        self.disk.apply(change);
    }

    /// As the store gives it back, through the form in which it is written.
    fn saved(&self) -> SavedState {
        let saved = SavedState {
            boot_id: BOOT.to_owned(),
            alive_at: self.alive_at,
            cluster_id: "c".to_owned(),
            sessions: self.disk.sessions.clone(),
        };
        serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap()
    }
}
