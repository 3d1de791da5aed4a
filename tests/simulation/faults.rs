//! What goes wrong, and how it is mended.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use registry_client::machine::Timing;

use super::cast::{ProcId, ReplicaId, Wish, some_check};
use super::server::{GRACE, Mood};
use super::wire::{LinkId, Piece, Trap, Way};
use super::world::{Event, KEEPALIVE, World, timing};

/// How many bytes ahead a trap may lie: within the next few lines.
const REACH: usize = 400;

/// The kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// What the client sends is lost, from some byte on.
    LossUp,
    /// What the registry sends is lost, from some byte on.
    LossDown,
    /// One direction is late, from some byte on.
    Delay,
    /// Both directions are lost, from some byte on, and nobody is told.
    HalfOpen,
    /// The connection breaks behind some byte.
    Reset,
    /// One direction ends behind some byte.
    HalfClose,
    /// Nothing passes between a sidecar and the registry for a while.
    Partition,
    /// The registry is killed; its disk stays.
    RegistryCrash,
    /// The registry is killed, and its disk is lost.
    RegistryAmnesia,
    /// The registry's machine loses its power: nobody is told.
    RegistryPower,
    /// The registry is asked to stop.
    RegistryStop,
    /// The registry refuses every registration.
    RegistryRefuses,
    /// The disk takes no change.
    StoreRefuses,
    /// The disk takes its time.
    StoreSlow,
    /// The registry's wall clock is set.
    ClockJump,
    /// A sidecar is killed; its application goes on.
    SidecarCrash,
    /// A sidecar stands still.
    SidecarFreeze,
    /// A replica is killed, its address given away, and it comes back elsewhere.
    Redeploy,
    /// A replica leaves in order, and comes back later.
    Leave,
    /// The application's address changes from one moment to the next.
    AddressChange,
    /// The application has two addresses for a while.
    AddressOverlap,
    /// The application is down.
    AppCrash,
    /// The application accepts nothing and refuses nothing.
    AppSilence,
    /// Something else is wanted.
    IntentChange,
    /// A second sidecar of the same name at the same address.
    Twin,
    /// Two services want one claim.
    Contest,
}

impl Kind {
    pub(crate) const ALL: [Kind; 26] = [
        Kind::LossUp,
        Kind::LossDown,
        Kind::Delay,
        Kind::HalfOpen,
        Kind::Reset,
        Kind::HalfClose,
        Kind::Partition,
        Kind::RegistryCrash,
        Kind::RegistryAmnesia,
        Kind::RegistryPower,
        Kind::RegistryStop,
        Kind::RegistryRefuses,
        Kind::StoreRefuses,
        Kind::StoreSlow,
        Kind::ClockJump,
        Kind::SidecarCrash,
        Kind::SidecarFreeze,
        Kind::Redeploy,
        Kind::Leave,
        Kind::AddressChange,
        Kind::AddressOverlap,
        Kind::AppCrash,
        Kind::AppSilence,
        Kind::IntentChange,
        Kind::Twin,
        Kind::Contest,
    ];
}

/// How often each kind struck.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(BTreeMap<Kind, u64>);

impl Counts {
    pub(crate) fn add(&mut self, kind: Kind) {
        *self.0.entry(kind).or_default() += 1;
    }

    pub(crate) fn merge(&mut self, other: &Counts) {
        for (kind, count) in &other.0 {
            *self.0.entry(*kind).or_default() += count;
        }
    }

    pub(crate) fn of(&self, kind: Kind) -> u64 {
        self.0.get(&kind).copied().unwrap_or_default()
    }
}

/// What a seed has chosen.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) kinds: Vec<Kind>,
    /// No fault begins, and none lasts, beyond this.
    pub(crate) calm_from: Duration,
    /// From one fault to the next, on average.
    pub(crate) pause: Duration,
    pub(crate) latency: Duration,
    pub(crate) timing: Timing,
}

/// The end of a fault.
#[derive(Debug, Clone)]
pub(crate) enum Mending {
    Registry,
    Accepts,
    Disk,
    Sidecar(ReplicaId),
    Return(ReplicaId),
    Listen(ReplicaId),
    Answer(ReplicaId),
    Learn(ReplicaId),
    DropAddress(ReplicaId, Ipv4Addr),
    EndTwin(ReplicaId),
    EndContest(ReplicaId),
}

impl Plan {
    /// Nothing goes wrong by itself.
    pub(crate) fn calm() -> Self {
        Plan {
            kinds: Vec::new(),
            calm_from: Duration::from_secs(3600),
            pause: Duration::from_secs(1),
            latency: Duration::from_micros(300),
            timing: timing(30, 10),
        }
    }

    /// Few kinds of fault together go deeper than all of them.
    pub(crate) fn of(rng: &mut fastrand::Rng) -> Self {
        let odds = rng.u8(30..=200);
        let mut kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|_| rng.u8(..) < odds).collect();
        if kinds.is_empty() {
            kinds.push(Kind::Reset);
        }
        let (keepalive, request) = *rng.choice(&[(30, 10), (5, 2), (10, 5)]).unwrap();
        Plan {
            kinds,
            calm_from: Duration::from_secs(rng.u64(15..60)),
            pause: Duration::from_millis(*rng.choice(&[300, 1000, 3000]).unwrap()),
            latency: Duration::from_micros(*rng.choice(&[300, 2_000, 40_000]).unwrap()),
            timing: timing(keepalive, request),
        }
    }

    /// How long a live service may be without its route once nothing is wrong any more: a silent peer is
    /// noticed, a last attempt fails, the longest pause passes, and the proxy reaches the backend.
    pub(crate) fn bound(&self) -> Duration {
        let silent = self.timing.keepalive_interval + self.timing.request_timeout;
        silent + super::world::CONNECT_TIMEOUT + self.timing.reconnect_max + Duration::from_secs(3)
    }
}

/// Striking.
impl World {
    /// The next fault, and when the one after it comes.
    pub(crate) fn strike(&mut self) {
        if self.now >= self.plan.calm_from {
            return;
        }
        let kind = *self.rng.choice(&self.plan.kinds).unwrap();
        let victim = self.rng.usize(..self.replicas.len());
        self.strike_with(kind, victim);
        let pause = self.plan.pause.mul_f64(2.0 * self.rng.f64());
        self.after(pause, Event::Strike);
    }

    pub(crate) fn strike_with(&mut self, kind: Kind, victim: ReplicaId) {
        match kind {
            Kind::LossUp | Kind::LossDown | Kind::Delay | Kind::HalfOpen | Kind::Reset | Kind::HalfClose => {
                self.lay_trap(kind, victim);
            }
            Kind::Partition => self.partition(victim),
            Kind::RegistryCrash
            | Kind::RegistryAmnesia
            | Kind::RegistryPower
            | Kind::RegistryStop
            | Kind::RegistryRefuses => self.registry_down(kind),
            Kind::StoreRefuses | Kind::StoreSlow => self.disk_fails(kind),
            Kind::ClockJump => {
                self.clock_error += self.rng.i64(-4000..4000);
                self.oracle.clock_jumped = true;
                self.struck(kind, String::new);
            }
            Kind::SidecarCrash => self.crash_sidecar(victim),
            Kind::SidecarFreeze => self.freeze(victim),
            Kind::Redeploy => self.redeploy(victim),
            Kind::Leave => self.leave(victim),
            Kind::AddressChange | Kind::AddressOverlap => self.change_address(kind, victim),
            Kind::AppCrash | Kind::AppSilence => self.app_fails(kind, victim),
            Kind::IntentChange => self.change_intent(victim),
            Kind::Twin => self.twin(victim),
            Kind::Contest => self.contest(victim),
        }
    }

    /// Mends it after a while, but not later than everything else.
    fn mend_after(&mut self, wait: Duration, mending: Mending) -> Duration {
        let at = (self.now + wait).min(self.plan.calm_from.max(self.now));
        self.at(at, Event::Mend(mending));
        at
    }

    /// Nothing is to be expected of the replica before then, and for a bound after it.
    pub(crate) fn disturb(&mut self, victim: ReplicaId, until: Duration) {
        let replica = &mut self.replicas[victim];
        replica.quiet_since = replica.quiet_since.max(until).max(self.now);
    }

    /// The application is not at its address, or may be taken for that, until then.
    pub(crate) fn unsettle(&mut self, victim: ReplicaId, until: Duration) {
        self.disturb(victim, until);
        let replica = &mut self.replicas[victim];
        replica.steady_since = replica.steady_since.max(until).max(self.now);
        self.oracle.forget(victim);
        self.dirty = true;
    }

    fn link_of(&self, victim: ReplicaId) -> Option<LinkId> {
        self.procs.get(&self.replicas[victim].sidecar?)?.link
    }

    fn lay_trap(&mut self, kind: Kind, victim: ReplicaId) {
        let way = match kind {
            Kind::LossUp => Way::Up,
            Kind::LossDown => Way::Down,
            _ if self.rng.bool() => Way::Up,
            _ => Way::Down,
        };
        let after = self.rng.usize(0..REACH);
        let trap = Trap { after, kind, time: self.between(50, 15_000) };
        match self.link_of(victim) {
            Some(link) if self.rng.bool() => self.set_trap(link, way, trap),
            _ => self.traps.push((victim, way, trap)),
        }
    }

    fn set_trap(&mut self, link: LinkId, way: Way, trap: Trap) {
        if let Some(link) = self.links.get_mut(&link) {
            link.pipe(way).set_trap(trap);
        }
    }

    /// Traps that wait for the next connection of a replica.
    pub(crate) fn set_traps(&mut self, proc: ProcId, link: LinkId) {
        let Some(replica) = self.procs.get(&proc).map(|sidecar| sidecar.replica) else { return };
        if self.now >= self.plan.calm_from {
            return self.traps.clear();
        }
        let (due, later): (Vec<_>, Vec<_>) =
            self.traps.drain(..).partition(|(victim, ..)| *victim == replica);
        self.traps = later;
        due.into_iter().for_each(|(_, way, trap)| self.set_trap(link, way, trap));
    }

    /// A trap springs.
    pub(crate) fn spring(&mut self, id: LinkId, way: Way, trap: Trap) {
        let Some(proc) = self.links.get(&id).map(|link| link.proc) else { return };
        let Some(victim) = self.procs.get(&proc).map(|sidecar| sidecar.replica) else { return };
        if self.now >= self.plan.calm_from {
            return;
        }
        self.struck(trap.kind, || {
            format!("link {id}, replica {victim}, {way:?}, behind byte {}", trap.after)
        });
        self.disturb(victim, self.now + trap.time);
        let Some(link) = self.links.get_mut(&id) else { return };
        match trap.kind {
            Kind::LossUp | Kind::LossDown => link.pipe(way).dead = true,
            Kind::HalfOpen => link.go_dead(),
            Kind::Delay => link.pipe(way).delay(self.now + trap.time),
            Kind::HalfClose => {
                self.transmit(id, way, Piece::Fin);
                if let Some(link) = self.links.get_mut(&id) {
                    link.pipe(way).dead = true;
                }
            }
            _ => {
                self.transmit(id, Way::Up, Piece::Reset);
                self.transmit(id, Way::Down, Piece::Reset);
                if let Some(link) = self.links.get_mut(&id) {
                    link.go_dead();
                }
            }
        }
        self.after(KEEPALIVE, Event::Keepalive(id));
    }

    fn partition(&mut self, victim: ReplicaId) {
        let until = (self.now + self.between(200, 45_000)).min(self.plan.calm_from);
        self.struck(Kind::Partition, || format!("replica {victim} until {until:?}"));
        self.replicas[victim].held_until = until;
        self.disturb(victim, until);
    }

    fn registry_down(&mut self, kind: Kind) {
        if self.server.core.is_none() {
            return;
        }
        if kind == Kind::RegistryRefuses && self.server.refuses {
            return;
        }
        self.struck(kind, String::new);
        self.kill_registry(kind);
        let outage = if self.rng.bool() { self.between(5, 400) } else { self.between(400, 20_000) };
        let until = self.mend_after(outage, Mending::Registry);
        self.oracle.registry_quiet_since = self.oracle.registry_quiet_since.max(until);
        if kind == Kind::RegistryRefuses {
            let wait = outage + self.between(1_000, 20_000);
            let until = self.mend_after(wait, Mending::Accepts);
            self.oracle.registry_quiet_since = self.oracle.registry_quiet_since.max(until);
        }
    }

    /// The registry is gone, in the manner of `kind`.
    pub(crate) fn kill_registry(&mut self, kind: Kind) {
        let clock = self.clock();
        if kind == Kind::RegistryStop {
            let deeds = self.server.stop(self.now, clock);
            self.perform(deeds);
        }
        self.server.crash(&mut self.rng, clock);
        self.power = kind != Kind::RegistryPower;
        let forgets = matches!(kind, Kind::RegistryAmnesia | Kind::RegistryRefuses);
        if forgets {
            self.server.forget();
        }
        self.server.refuses |= kind == Kind::RegistryRefuses;
        self.oracle.registry_down(self.now, forgets);
        let open: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| link.server_open).map(|(id, _)| *id).collect();
        for id in open {
            if self.power {
                self.transmit(id, Way::Down, Piece::Reset);
            }
            if let Some(link) = self.links.get_mut(&id) {
                link.server_open = false;
            }
        }
    }

    fn disk_fails(&mut self, kind: Kind) {
        if self.server.mood != Mood::Fine {
            return;
        }
        self.struck(kind, String::new);
        self.server.mood = if kind == Kind::StoreSlow { Mood::Slow } else { Mood::Refuses };
        let wait = self.between(500, 12_000);
        let until = self.mend_after(wait, Mending::Disk) + Duration::from_secs(8);
        self.oracle.registry_quiet_since = self.oracle.registry_quiet_since.max(until);
        self.oracle.disk_quiet_since = until;
    }

    fn crash_sidecar(&mut self, victim: ReplicaId) {
        let Some(proc) = self.replicas[victim].sidecar.take() else { return };
        self.struck(Kind::SidecarCrash, || format!("replica {victim}"));
        self.kill(proc, false);
        let wait =
            if self.rng.u8(..) < 40 { GRACE + self.between(1, 9_000) } else { self.between(20, 8_000) };
        let until = self.mend_after(wait, Mending::Sidecar(victim));
        self.disturb(victim, until);
    }

    fn freeze(&mut self, victim: ReplicaId) {
        let Some(proc) = self.replicas[victim].sidecar else { return };
        let until = (self.now + self.between(100, 40_000)).min(self.plan.calm_from);
        self.struck(Kind::SidecarFreeze, || format!("replica {victim} until {until:?}"));
        if let Some(sidecar) = self.procs.get_mut(&proc) {
            sidecar.frozen_until = until;
        }
        self.disturb(victim, until);
    }

    /// The first free address: engines give away what was given back last.
    pub(crate) fn free_address(&self) -> Ipv4Addr {
        let taken = |ip: &Ipv4Addr| self.replicas.iter().any(|replica| replica.addresses.contains(ip));
        (10..=250).map(|last| Ipv4Addr::new(10, 2, 2, last)).find(|ip| !taken(ip)).unwrap()
    }

    fn redeploy(&mut self, victim: ReplicaId) {
        let Some(proc) = self.replicas[victim].sidecar.take() else { return };
        self.struck(Kind::Redeploy, || format!("replica {victim}"));
        let silently = self.rng.u8(..) < 80;
        self.kill(proc, silently);
        self.vanish(victim);
        let wait =
            if self.rng.u8(..) < 60 { GRACE + self.between(1, 9_000) } else { self.between(20, 6_000) };
        self.mend_after(wait, Mending::Return(victim));
    }

    /// The replica's application and addresses are gone.
    fn vanish(&mut self, victim: ReplicaId) {
        self.end_twin(victim);
        self.replicas[victim].is_up = false;
        self.replicas[victim].has_applied = false;
        self.replicas[victim].addresses.clear();
        self.unsettle(victim, self.now);
    }

    fn leave(&mut self, victim: ReplicaId) {
        let Some(proc) = self.replicas[victim].sidecar else { return };
        if self.replicas[victim].twin.is_some() {
            return;
        }
        let (now, clock) = (self.now, self.instant());
        let Some(sidecar) = self.procs.get_mut(&proc).filter(|s| s.leaving_since.is_none()) else { return };
        sidecar.leaving_since = Some(now);
        sidecar.session.leave(clock);
        self.struck(Kind::Leave, || format!("replica {victim}"));
        self.unsettle(victim, now + Duration::from_secs(60));
        self.crank(proc);
    }

    /// A sidecar that was asked to leave has left.
    pub(crate) fn has_left(&mut self, victim: ReplicaId, proc: ProcId) {
        if self.replicas[victim].sidecar != Some(proc) {
            return;
        }
        self.replicas[victim].sidecar = None;
        self.replicas[victim].quiet_since = self.now;
        self.replicas[victim].steady_since = self.now;
        self.vanish(victim);
        let wait = self.between(20, 6_000);
        self.mend_after(wait, Mending::Return(victim));
    }

    fn change_address(&mut self, kind: Kind, victim: ReplicaId) {
        let replica = &self.replicas[victim];
        if replica.addresses.len() != 1 || replica.twin.is_some() || replica.sidecar.is_none() {
            return;
        }
        let (old, new) = (replica.addresses[0], self.free_address());
        self.struck(kind, || format!("replica {victim} from {old} to {new}"));
        let wait = self.between(10, 3_000);
        self.replicas[victim].addresses.push(new);
        if kind == Kind::AddressChange {
            self.drop_address(victim, old);
        } else {
            let until = self.between(15_000, 40_000);
            self.mend_after(until, Mending::DropAddress(victim, old));
        }
        let until = self.mend_after(wait, Mending::Learn(victim));
        self.disturb(victim, until);
    }

    pub(crate) fn drop_address(&mut self, victim: ReplicaId, old: Ipv4Addr) {
        let replica = &mut self.replicas[victim];
        if replica.address() == Some(old) || !replica.addresses.contains(&old) {
            return;
        }
        replica.addresses.retain(|address| *address != old);
        self.unsettle(victim, self.now);
        let cut: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| link.from == old).map(|(id, _)| *id).collect();
        cut.into_iter().for_each(|id| self.sever(id));
    }

    fn app_fails(&mut self, kind: Kind, victim: ReplicaId) {
        let replica = &mut self.replicas[victim];
        if replica.addresses.is_empty() || !replica.is_up || replica.is_silent {
            return;
        }
        let mending = if kind == Kind::AppCrash {
            replica.is_up = false;
            Mending::Listen(victim)
        } else {
            replica.is_silent = true;
            Mending::Answer(victim)
        };
        self.struck(kind, || format!("replica {victim}"));
        let wait = self.between(50, 15_000);
        let until = self.mend_after(wait, mending);
        self.unsettle(victim, until);
    }

    fn change_intent(&mut self, victim: ReplicaId) {
        self.struck(Kind::IntentChange, || format!("replica {victim}"));
        let wishes = self.replicas[victim].wishes.clone();
        let mut changed = BTreeMap::new();
        for (key, wish) in wishes {
            let wish = if self.rng.bool() { self.other_wish(&wish) } else { wish };
            changed.insert(key, wish);
        }
        let extra = "extra".into();
        match changed.remove(&extra) {
            Some(_) if self.rng.bool() => {}
            Some(wish) => drop(changed.insert(extra, wish)),
            None => {
                if let Some(main) = changed.get("main").cloned() {
                    let wish = Wish { path: "/extra".parse().unwrap(), ..self.other_wish(&main) };
                    changed.insert(extra, wish);
                }
            }
        }
        self.replicas[victim].wishes = changed;
        self.want(victim);
    }

    fn other_wish(&mut self, wish: &Wish) -> Wish {
        Wish {
            priority: self.rng.i32(1..4),
            compression: *self.rng.choice(&[None, Some(true), Some(false)]).unwrap(),
            check: some_check(&mut self.rng),
            ..wish.clone()
        }
    }

    /// The sidecars of a replica are told what is wanted now.
    pub(crate) fn want(&mut self, victim: ReplicaId) {
        let now = self.instant();
        let places = self.replicas[victim].places();
        self.replicas[victim].recent.push(places);
        self.disturb(victim, self.now);
        let replica = &self.replicas[victim];
        for proc in [replica.sidecar, replica.twin].into_iter().flatten() {
            if let Some(sidecar) = self.procs.get_mut(&proc) {
                let goal = sidecar.next_goal(&self.replicas[victim]);
                sidecar.session.want(goal, now);
            }
            self.crank(proc);
        }
    }

    fn twin(&mut self, victim: ReplicaId) {
        let replica = &self.replicas[victim];
        if replica.twin.is_some() || replica.sidecar.is_none() || replica.addresses.len() != 1 {
            return;
        }
        self.struck(Kind::Twin, || format!("replica {victim}"));
        self.replicas[victim].twin = self.spawn(victim);
        let wait = self.between(500, 20_000);
        let until = self.mend_after(wait, Mending::EndTwin(victim));
        self.disturb(victim, until + GRACE + KEEPALIVE);
    }

    pub(crate) fn end_twin(&mut self, victim: ReplicaId) {
        if let Some(twin) = self.replicas[victim].twin.take() {
            self.kill(twin, false);
        }
    }

    /// The victim wants what the next replica of another service has.
    fn contest(&mut self, victim: ReplicaId) {
        let service = self.replicas[victim].service.clone();
        let other = self.replicas.iter().find(|other| other.service != service);
        let Some(mut wish) = other.and_then(|other| other.wishes.get("main").cloned()) else { return };
        let key = "contest".into();
        if self.replicas[victim].wishes.contains_key(&key) {
            return;
        }
        self.struck(Kind::Contest, || format!("replica {victim}"));
        wish.check = some_check(&mut self.rng);
        self.replicas[victim].wishes.insert(key, wish);
        self.replicas[victim].contests = true;
        self.want(victim);
        let wait = self.between(1_000, 20_000);
        self.mend_after(wait, Mending::EndContest(victim));
    }
}
