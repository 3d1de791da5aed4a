//! What goes wrong, until it does not any more.

use std::time::Duration;

use super::client::Client;
use super::etcd::TTL;
use super::world::{CALM_FROM, Event, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    LeaderDies,
    FollowerDies,
    /// The leader is stopped for up to three leases, and goes on as if nothing had happened.
    LeaderPauses,
    LeaderIsCutOff,
    LeaderResigns,
    /// A follower hears nothing for a while, and what it missed is compacted.
    WatchGap,
    /// Requests to etcd, or their answers, are lost.
    LostAnswers,
    EtcdIsAway,
    ClientIsLost,
    ClientLeaves,
    ClientRestarts,
    /// A client is lost, and another one comes to its address.
    AddressIsTaken,
    /// A client of another service wants what a lost one had.
    DomainIsTaken,
    BackendFails,
    WishChanges,
    Drain,
    Maintenance,
}

impl Kind {
    pub(crate) const ALL: [Kind; 17] = [
        Kind::LeaderDies,
        Kind::FollowerDies,
        Kind::LeaderPauses,
        Kind::LeaderIsCutOff,
        Kind::LeaderResigns,
        Kind::WatchGap,
        Kind::LostAnswers,
        Kind::EtcdIsAway,
        Kind::ClientIsLost,
        Kind::ClientLeaves,
        Kind::ClientRestarts,
        Kind::AddressIsTaken,
        Kind::DomainIsTaken,
        Kind::BackendFails,
        Kind::WishChanges,
        Kind::Drain,
        Kind::Maintenance,
    ];
}

/// How often each kind has struck.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts([u64; Kind::ALL.len()]);

impl Counts {
    pub(crate) fn add(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }

    pub(crate) fn merge(&mut self, other: &Counts) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, more)| *mine += more);
    }

    pub(crate) fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }
}

impl World {
    pub(crate) fn strike(&mut self) {
        if self.now >= CALM_FROM {
            return self.heal();
        }
        let kind = Kind::ALL[self.rng.usize(..Kind::ALL.len())];
        if self.strike_with(kind) {
            self.say(|| format!("*** {kind:?}"));
            self.counts.add(kind);
        }
        let next = self.millis(300, 7_000);
        self.after(next, Event::Strike);
    }

    fn strike_with(&mut self, kind: Kind) -> bool {
        let leader = (0..self.replicas.len()).find(|at| self.replicas[*at].leads());
        let client = self.rng.usize(..self.clients.len());
        match kind {
            Kind::LeaderDies | Kind::LeaderPauses | Kind::LeaderIsCutOff | Kind::LeaderResigns => {
                return leader.is_some_and(|at| self.strike_leader(kind, at));
            }
            Kind::FollowerDies => return self.kill_follower(),
            Kind::WatchGap => {
                let follower = self.rng.usize(..self.replicas.len());
                let gap = self.millis(500, 30_000);
                self.replicas[follower].cut_off_until = self.now + gap;
                self.after(gap, Event::Compact);
            }
            Kind::LostAnswers => {
                let time = self.millis(500, 5_000);
                self.forgetful_until = self.now + time;
            }
            Kind::EtcdIsAway => {
                if self.etcd.is_away {
                    self.etcd.come_back(self.now);
                } else {
                    self.etcd.is_away = true;
                }
            }
            _ => return self.strike_client(kind, client),
        }
        true
    }

    fn strike_leader(&mut self, kind: Kind, at: usize) -> bool {
        let time = self.millis(200, 3 * TTL.as_millis() as u64);
        match kind {
            Kind::LeaderDies => {
                self.replicas[at].kill();
                self.release(at);
                self.after(time, Event::Start(at));
            }
            Kind::LeaderPauses => self.replicas[at].paused_until = self.now + time,
            Kind::LeaderIsCutOff => self.replicas[at].cut_off_until = self.now + time,
            _ => {
                if self.etcd.is_away || self.replicas[at].paused_until > self.now {
                    return false;
                }
                if let super::replica::Belief::Leads { term, .. } = self.replicas[at].belief {
                    self.etcd.resign(term);
                }
                self.step_down(at);
            }
        }
        true
    }

    fn kill_follower(&mut self) -> bool {
        let at = self.rng.usize(..self.replicas.len());
        if self.replicas[at].leads() || self.replicas[at].core.is_none() {
            return false;
        }
        self.replicas[at].kill();
        let time = self.millis(200, 10_000);
        self.after(time, Event::Start(at));
        true
    }

    fn strike_client(&mut self, kind: Kind, at: usize) -> bool {
        let excused = |client: &mut Client, now: Duration| {
            client.excused_until = client.excused_until.max(now + Duration::from_secs(45));
        };
        match kind {
            Kind::ClientIsLost => {
                let away = self.millis(100, 40_000);
                if away > Duration::from_secs(20) {
                    self.clients[at].excused_until = self.now + away + Duration::from_secs(30);
                }
                self.hang_up(at, away);
            }
            Kind::ClientLeaves => {
                excused(&mut self.clients[at], self.now);
                self.clients[at].leave();
                self.client(at);
            }
            Kind::ClientRestarts => {
                // Its backend has another port from now on, so what its former session had is of no use.
                excused(&mut self.clients[at], self.now);
                self.clients[at].forget();
                self.clients[at].port = 16_161 - self.clients[at].port;
                let away = self.millis(100, 2_000);
                self.hang_up(at, away);
            }
            Kind::AddressIsTaken => {
                let other = (at + 1) % self.clients.len();
                self.clients.iter_mut().for_each(|client| excused(client, self.now));
                self.clients[at].forget();
                self.hang_up(at, Duration::from_secs(3));
                self.clients[other].forget();
                self.hang_up(other, Duration::from_millis(500));
                let (one, two) = (self.clients[at].address, self.clients[other].address);
                (self.clients[at].address, self.clients[other].address) = (two, one);
            }
            Kind::DomainIsTaken => {
                let other = (at + 2) % self.clients.len();
                self.clients.iter_mut().for_each(|client| excused(client, self.now));
                let Some(domain) = self.clients[at].wants.first().cloned() else { return false };
                self.clients[at].is_up = false;
                let time = self.millis(3_000, 8_000);
                self.after(time, Event::Up(at));
                self.hang_up(at, time);
                self.clients[other].wants.insert(domain);
                self.client(other);
            }
            Kind::BackendFails => {
                excused(&mut self.clients[at], self.now);
                self.clients[at].is_up = false;
                let time = self.millis(500, 8_000);
                self.after(time, Event::Up(at));
            }
            Kind::WishChanges => {
                excused(&mut self.clients[at], self.now);
                let extra = format!("x{at}{}.example.com", self.rng.u8(..3));
                if !self.clients[at].wants.remove(&extra) {
                    self.clients[at].wants.insert(extra);
                }
                self.client(at);
            }
            Kind::Drain => {
                excused(&mut self.clients[at], self.now);
                self.clients[at].wants_drain = !self.clients[at].wants_drain;
                self.client(at);
            }
            _ => {
                excused(&mut self.clients[at], self.now);
                self.clients[at].wants_page = !self.clients[at].wants_page;
                self.client(at);
            }
        }
        true
    }

    /// Everything is as it should be from now on.
    fn heal(&mut self) {
        self.etcd.come_back(self.now);
        self.forgetful_until = Duration::ZERO;
        for replica in &mut self.replicas {
            (replica.paused_until, replica.cut_off_until) = (self.now, self.now);
        }
        for at in 0..self.clients.len() {
            let client = &mut self.clients[at];
            (client.wants_drain, client.wants_page, client.is_up) = (false, false, true);
            client.away_until = self.now;
            let own = format!("{}.example.com", client.service);
            client.wants.retain(|domain| domain.starts_with('x') || *domain == own);
            self.client(at);
        }
        for at in 0..self.replicas.len() {
            self.after(Duration::from_secs(1), Event::Start(at));
        }
    }
}
