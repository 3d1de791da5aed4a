//! Who leads; commits, the watch and the proof of leadership: what a replica's shell does with etcd.

use std::time::Duration;

use registry_sidecar::server::registry::{Input, StoreRevision, Term};

use super::etcd::TTL;
use super::replica::{BOOT, Belief};
use super::world::{Event, World};

/// How long until something is tried again.
const AGAIN: Duration = Duration::from_millis(200);

impl World {
    pub(crate) fn start(&mut self, at: usize) {
        if self.replicas[at].core.is_some() {
            return;
        }
        self.say(|| format!("replica {at} starts"));
        self.replicas[at].start();
        let process = self.replicas[at].process;
        self.after(Duration::ZERO, Event::Watch(at, process));
        self.after(AGAIN, Event::Election(at, process));
    }

    fn reaches_etcd(&self, at: usize) -> bool {
        !self.etcd.is_away && self.replicas[at].cut_off_until <= self.now
    }

    /// Tries the first commit. One whose answer is lost is sent again as it is.
    pub(crate) fn try_commit(&mut self, at: usize) {
        let Belief::Leads { term, .. } = self.replicas[at].belief else { return };
        let Some((number, tx, change)) = self.replicas[at].commits.front().cloned() else { return };
        let process = self.replicas[at].process;
        if !self.reaches_etcd(at) {
            return self.after(AGAIN, Event::Commit(at, process));
        }
        let is_lost = self.now < self.forgetful_until && self.rng.bool();
        if is_lost && self.rng.bool() {
            // The request is lost.
            return self.after(AGAIN, Event::Commit(at, process));
        }
        let before = self.etcd.revision;
        let holds = self.etcd.commit(term, number, &change, self.now);
        self.say(|| format!("replica {at} commits {number} of term {term}: {holds}, {change:?}"));
        if self.etcd.revision > before {
            self.note_revision();
            for other in 0..self.replicas.len() {
                let (takes, process) = (self.millis(1, 80), self.replicas[other].process);
                self.after(takes, Event::Watch(other, process));
            }
        }
        if is_lost {
            return self.after(AGAIN, Event::Commit(at, process));
        }
        self.replicas[at].commits.pop_front();
        if self.replicas[at].commits.front().is_some() {
            self.after(Duration::from_millis(1), Event::Commit(at, process));
        }
        self.input(at, if holds { Input::Committed(tx) } else { Input::Rejected(tx) });
        if !holds {
            // The key is gone.
            self.step_down(at);
        }
    }

    /// A replica that follows hears of everything that is new, revision by revision, or as a whole where that was
    /// compacted.
    pub(crate) fn watch(&mut self, at: usize) {
        let process = self.replicas[at].process;
        if !self.reaches_etcd(at) {
            return self.after(AGAIN, Event::Watch(at, process));
        }
        match self.replicas[at].belief {
            Belief::Leads { .. } => return,
            Belief::Empty => self.load(at),
            Belief::Follows(_) => match self.etcd.since(self.replicas[at].seen, self.compacted) {
                None => self.load(at),
                Some(changes) => {
                    for (revision, change) in changes {
                        self.replicas[at].seen = revision;
                        self.input(at, Input::Replicated(StoreRevision(revision), vec![change]));
                    }
                }
            },
        }
        self.follow_leader(at);
    }

    fn load(&mut self, at: usize) {
        let mut saved = self.etcd.state.clone();
        saved.boot_id = BOOT.to_owned();
        saved.alive_at = Some(self.clock().wall);
        let leader = self.etcd.leader(self.now).map(|key| key.term);
        self.replicas[at].belief = Belief::Follows(leader);
        self.replicas[at].ready_since.get_or_insert(self.now);
        self.replicas[at].seen = self.etcd.revision;
        self.say(|| format!("replica {at} loads everything"));
        self.input(at, Input::Follow(leader.map(Term)));
        // Through the form in which it is written.
        let saved = serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap();
        self.input(at, Input::Loaded(StoreRevision(self.etcd.revision), Box::new(saved)));
    }

    /// Tells a replica that follows who leads, if that has changed.
    fn follow_leader(&mut self, at: usize) {
        let leader = self.etcd.leader(self.now).map(|key| key.term);
        if self.replicas[at].belief != Belief::Follows(leader) && !self.replicas[at].leads() {
            self.replicas[at].belief = Belief::Follows(leader);
            self.input(at, Input::Follow(leader.map(Term)));
        }
    }

    /// A leader renews its lease, which is its proof as well. Others look whether anybody leads.
    pub(crate) fn election(&mut self, at: usize) {
        let process = self.replicas[at].process;
        let again = self.millis(300, 900);
        self.after(again, Event::Election(at, process));
        self.stretch_excuses();
        if !self.reaches_etcd(at) {
            return;
        }
        if let Belief::Leads { term, .. } = self.replicas[at].belief {
            if self.etcd.renew(term, self.now) {
                self.replicas[at].belief = Belief::Leads { term, proof: self.now + TTL };
                for (replica, process, conn) in std::mem::take(&mut self.parked) {
                    self.after(TTL, Event::Closed(replica, process, conn));
                }
            } else {
                self.step_down(at);
            }
            return;
        }
        self.watch(at);
        if self.etcd.leader(self.now).is_none() && self.rng.u8(..) < 128 {
            self.stand(at);
        }
    }

    fn stand(&mut self, at: usize) {
        // It has heard of everything: no other replica could commit.
        let Some(key) = self.etcd.campaign(at, self.now) else { return };
        self.note_revision();
        self.say(|| format!("replica {at} leads, term {}", key.term));
        self.replicas[at].belief = Belief::Leads { term: key.term, proof: self.now + TTL };
        self.replicas[at].answers = true;
        self.input(at, Input::Lead(Term(key.term)));
        for other in (0..self.replicas.len()).filter(|other| *other != at) {
            let (takes, process) = (self.millis(1, 80), self.replicas[other].process);
            self.after(takes, Event::Watch(other, process));
        }
    }

    /// A replica that led learns that it does not any more.
    pub(crate) fn step_down(&mut self, at: usize) {
        self.say(|| format!("replica {at} steps down"));
        self.replicas[at].commits.clear();
        self.replicas[at].belief = Belief::Follows(None);
        // Others may have led for a while, and what they have added has to answer here first.
        self.replicas[at].ready_since = Some(self.now);
        self.input(at, Input::Follow(None));
        self.release(at);
        self.load(at);
    }
}
