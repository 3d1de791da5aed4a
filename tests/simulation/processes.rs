//! The sidecars' machines, and what is done for them: what the driver does with a socket and a clock.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use registry_client::machine::{Effect, Received};
use registry_client::protocol::{Command, LineCodec, MAX_CLIENT_LINE, MAX_LINE};
use registry_client::{Cause, ConnectError, Event as Told};
use tokio_util::codec::{Decoder, Encoder};

use super::cast::{ProcId, ReplicaId, Sidecar};
use super::wire::{Link, LinkId, Way};
use super::world::{CONNECT_TIMEOUT, Event, World};

/// More lines a minute than this from one client are a storm, whatever goes wrong.
const STORM: usize = 600;
const REGISTRY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 2, 2, 1)), 81);

impl World {
    /// A process starts for a replica, if that has an address.
    pub(crate) fn spawn(&mut self, replica: ReplicaId) -> Option<ProcId> {
        let seed = self.rng.u64(..);
        let timing = self.plan.timing.clone();
        let sidecar = Sidecar::new(replica, &self.replicas[replica], timing, seed, self.instant())?;
        self.last_proc += 1;
        let proc = self.last_proc;
        self.procs.insert(proc, sidecar);
        self.say(|| format!("p{proc} starts for replica {replica}"));
        self.crank(proc);
        Some(proc)
    }

    /// The process is gone, from one moment to the next. The system closes its connection.
    pub(crate) fn kill(&mut self, proc: ProcId, silently: bool) {
        let Some(sidecar) = self.procs.remove(&proc) else { return };
        if let Some(link) = sidecar.link {
            if silently {
                self.sever(link);
            }
            self.let_go(link);
        }
    }

    /// Whoever is stopped gets nothing done; what came waits.
    pub(crate) fn is_frozen(&mut self, proc: ProcId, event: impl FnOnce() -> Event) -> bool {
        let frozen_until = self.procs.get(&proc).map_or(Duration::ZERO, |sidecar| sidecar.frozen_until);
        let frozen = frozen_until > self.now;
        if frozen {
            self.at(frozen_until, event());
        }
        frozen
    }

    pub(crate) fn alarm(&mut self, proc: ProcId) {
        let now = self.now;
        if self.is_frozen(proc, || Event::Alarm(proc)) {
            return;
        }
        let Some(sidecar) = self.procs.get_mut(&proc) else { return };
        if sidecar.alarm.is_some_and(|alarm| alarm > now) {
            return;
        }
        sidecar.alarm = None;
        if sidecar.spins.0 == now {
            sidecar.spins.1 += 1;
        } else {
            sidecar.spins = (now, 0);
        }
        if sidecar.spins.1 > 100 {
            return self.fail(format!("p{proc} spins"));
        }
        self.crank(proc);
    }

    /// Tells a sidecar the time if it wants to know, and does what it says.
    pub(crate) fn crank(&mut self, proc: ProcId) {
        let now = self.instant();
        if let Some(sidecar) = self.procs.get_mut(&proc)
            && sidecar.session.deadline().is_some_and(|deadline| deadline <= now)
        {
            sidecar.session.tick(now);
        }
        loop {
            let Some(sidecar) = self.procs.get_mut(&proc) else { return };
            let effects = sidecar.session.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.carry_out(proc, effect);
            }
        }
        self.set_alarm(proc);
    }

    fn set_alarm(&mut self, proc: ProcId) {
        let (base, now) = (self.base, self.now);
        let Some(sidecar) = self.procs.get_mut(&proc) else { return };
        if sidecar.session.is_stopped() {
            return self.stopped(proc);
        }
        let Some(deadline) = sidecar.session.deadline() else { return };
        let at = deadline.saturating_duration_since(base).max(now);
        if sidecar.alarm.is_none_or(|alarm| at < alarm) {
            sidecar.alarm = Some(at);
            self.at(at, Event::Alarm(proc));
        }
    }

    fn carry_out(&mut self, proc: ProcId, effect: Effect) {
        match effect {
            Effect::Dial { .. } => self.dial(proc),
            Effect::Send(command) => self.send(proc, &command),
            Effect::Hangup => {
                let Some(sidecar) = self.procs.get_mut(&proc) else { return };
                sidecar.dialling = None;
                if let Some(link) = sidecar.link.take() {
                    self.let_go(link);
                }
            }
            Effect::Event(event) => self.told(proc, &event),
            Effect::Answer(..) => {}
        }
    }

    fn told(&mut self, proc: ProcId, event: &Told) {
        self.say(|| format!("p{proc} ! {} ({event})", event.name()));
        let now = self.now;
        let Some(sidecar) = self.procs.get_mut(&proc) else { return };
        if let Told::Retrying(retry) | Told::ExtendedRetry(retry) = event {
            sidecar.retry = Some((now, retry.delay));
            sidecar.lost_at.get_or_insert(now);
            // SEMANTICS section 8: noticed, and tried again.
            if retry.attempt == 1 && retry.delay > Duration::from_millis(150) {
                return self.fail(format!("p{proc} waits {:?} before its first retry", retry.delay));
            }
        }
        let Some(sidecar) = self.procs.get_mut(&proc) else { return };
        if let Told::ConfigApplied { .. } = event {
            self.replicas[sidecar.replica].has_applied = true;
        }
        if let Err(why) = sidecar.grammar.take(event) {
            self.fail(format!("p{proc} tells what may not be told: {why}"));
        }
    }

    fn send(&mut self, proc: ProcId, command: &Command) {
        self.say(|| format!("p{proc} > {}", command.redacted()));
        let now = self.now;
        let Some(sidecar) = self.procs.get_mut(&proc) else { return };
        sidecar.sent.push_back(now);
        while sidecar.sent.front().is_some_and(|at| now - *at > Duration::from_secs(60)) {
            sidecar.sent.pop_front();
        }
        let (count, link) = (sidecar.sent.len(), sidecar.link);
        self.busiest = self.busiest.max(count);
        if count > STORM {
            self.fail(format!("p{proc} sent {count} lines in a minute"));
        }
        let mut bytes = BytesMut::new();
        LineCodec::new(MAX_LINE).encode(command.encode().as_str(), &mut bytes).unwrap();
        if let Some(link) = link {
            self.write(link, Way::Up, &bytes);
        }
    }

    fn dial(&mut self, proc: ProcId) {
        self.last_dial += 1;
        let (dial, now) = (self.last_dial, self.now);
        self.dials.push(now);
        let Some(sidecar) = self.procs.get_mut(&proc) else { return };
        sidecar.dialling = Some(dial);
        if let Some((lost, wait)) = sidecar.retry.take()
            && now < lost + wait
        {
            return self.fail(format!("p{proc} does not wait {wait:?} as it said"));
        }
        let replica = &self.replicas[sidecar.replica];
        let (from, held_until) = (replica.sidecar_address(), replica.held_until);
        let weather = self.weather(held_until);
        let arrival = weather.latency + weather.held_until.max(now);
        match from {
            Some(from) if arrival < now + CONNECT_TIMEOUT && self.power => {
                self.at(arrival, Event::Knock(proc, dial, from));
            }
            _ => {
                let error = ConnectError::Timeout { address: REGISTRY, after: CONNECT_TIMEOUT };
                self.after(CONNECT_TIMEOUT, Event::Dialled(proc, dial, Err(error)));
            }
        }
    }

    pub(crate) fn knock(&mut self, proc: ProcId, dial: u64, from: Ipv4Addr) {
        let latency = self.weather(Duration::ZERO).latency;
        if self.server.core.is_none() {
            let refused = Err(ConnectError::Refused { address: REGISTRY });
            return self.after(latency, Event::Dialled(proc, dial, refused));
        }
        self.last_link += 1;
        let link = self.last_link;
        let (conn, deeds) = self.server.accept(link, from, self.now, self.clock());
        self.links.insert(link, Link::new(proc, conn, from));
        self.oracle.connected(conn, link);
        self.perform(deeds);
        self.after(latency, Event::Dialled(proc, dial, Ok(link)));
    }

    pub(crate) fn dialled(&mut self, proc: ProcId, dial: u64, result: Result<LinkId, ConnectError>) {
        if self.is_frozen(proc, || Event::Dialled(proc, dial, result.clone())) {
            return;
        }
        self.say(|| format!("p{proc} dialled: {result:?}"));
        let now = self.instant();
        let sidecar = self.procs.get_mut(&proc).filter(|sidecar| sidecar.dialling == Some(dial));
        match (sidecar, result) {
            (None, Ok(link)) => self.let_go(link),
            (None, Err(_)) => {}
            (Some(sidecar), Ok(link)) => {
                sidecar.dialling = None;
                sidecar.link = Some(link);
                (sidecar.codec, sidecar.input) = (LineCodec::new(MAX_CLIENT_LINE), BytesMut::new());
                self.set_traps(proc, link);
                if let Some(sidecar) = self.procs.get_mut(&proc) {
                    sidecar.session.link_up(REGISTRY, now);
                }
                self.crank(proc);
            }
            (Some(sidecar), Err(error)) => {
                sidecar.dialling = None;
                sidecar.session.link_failed(error, now);
                self.crank(proc);
            }
        }
    }

    /// The machine has come to its end.
    fn stopped(&mut self, proc: ProcId) {
        let Some(sidecar) = self.procs.get(&proc) else { return };
        let (replica, asked) = (sidecar.replica, sidecar.leaving_since);
        let late = asked.is_some_and(|asked| {
            sidecar.frozen_until <= asked && self.now > asked + Duration::from_millis(500)
        });
        if late {
            return self.fail(format!("p{proc} was asked to stop at {asked:?}"));
        }
        self.kill(proc, false);
        self.has_left(replica, proc);
    }

    pub(crate) fn client_reads(&mut self, proc: ProcId, bytes: &[u8]) {
        let Some(sidecar) = self.procs.get_mut(&proc) else { return };
        sidecar.input.extend_from_slice(bytes);
        loop {
            let now = self.base + self.now;
            let Some(sidecar) = self.procs.get_mut(&proc).filter(|sidecar| sidecar.link.is_some()) else {
                return;
            };
            let Some(line) = sidecar.codec.decode(&mut sidecar.input).unwrap() else { return };
            let received = Received::from(line);
            if let Some(trace) = &mut self.trace {
                trace.push(format!("{:>12.6} p{proc} < {received:?}", self.now.as_secs_f64()));
            }
            let Some(sidecar) = self.procs.get_mut(&proc) else { return };
            sidecar.session.receive(received, now);
            self.crank(proc);
        }
    }

    pub(crate) fn client_loses(&mut self, proc: ProcId, cause: Cause) {
        let now = self.instant();
        let Some(sidecar) = self.procs.get_mut(&proc) else { return };
        // As the driver does it: the connection is gone before the machine hears of it.
        if let Some(link) = sidecar.link.take() {
            sidecar.session.link_down(cause, now);
            self.let_go(link);
            self.crank(proc);
        }
    }
}
