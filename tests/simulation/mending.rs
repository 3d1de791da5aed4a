//! How faults end.

use registry_sidecar::server::registry::LogEvent;

use super::cast::ReplicaId;
use super::faults::{Kind, Mending};
use super::server::Mood;
use super::world::World;

impl World {
    pub(crate) fn mend(&mut self, mending: Mending) {
        self.say(|| format!("--- {mending:?}"));
        match mending {
            Mending::Registry => self.restart_registry(),
            Mending::Accepts => {
                self.server.refuses = false;
                self.kill_registry(Kind::RegistryAmnesia);
                self.restart_registry();
            }
            Mending::Disk => self.server.mood = Mood::Fine,
            Mending::Sidecar(victim) | Mending::Return(victim) if self.replicas[victim].sidecar.is_some() => {
            }
            Mending::Sidecar(victim) => self.replicas[victim].sidecar = self.spawn(victim),
            Mending::Return(victim) => self.return_of(victim),
            Mending::Listen(victim) => {
                let is_there = !self.replicas[victim].addresses.is_empty();
                self.replicas[victim].is_up = is_there;
                self.unsettle(victim, self.now);
            }
            Mending::Answer(victim) => {
                self.replicas[victim].is_silent = false;
                self.unsettle(victim, self.now);
            }
            Mending::Learn(victim) => self.learn(victim),
            Mending::DropAddress(victim, old) => self.drop_address(victim, old),
            Mending::EndTwin(victim) => self.end_twin(victim),
            Mending::EndContest(victim) => {
                self.replicas[victim].wishes.remove("contest");
                self.want(victim);
            }
        }
    }

    pub(crate) fn restart_registry(&mut self) {
        self.power = true;
        if self.server.core.is_some() {
            return;
        }
        let clock = self.clock();
        let deeds = self.server.start(self.now, clock);
        let on_disk = self.server.disk().map(|saved| saved.session.no).collect();
        self.oracle.registry_up(self.now, &on_disk);
        self.perform(deeds);
        self.dirty = true;
    }

    fn return_of(&mut self, victim: ReplicaId) {
        if self.replicas[victim].addresses.is_empty() {
            let address = self.free_address();
            self.replicas[victim].addresses.push(address);
            self.say(|| format!("replica {victim} is at {address}"));
        }
        self.replicas[victim].is_up = true;
        self.replicas[victim].is_silent = false;
        self.unsettle(victim, self.now);
        self.replicas[victim].sidecar = self.spawn(victim);
    }

    /// The sidecar learns of the application's address.
    fn learn(&mut self, victim: ReplicaId) {
        let Some(address) = self.replicas[victim].address() else { return };
        if let Some(proc) = self.replicas[victim].sidecar
            && let Some(sidecar) = self.procs.get_mut(&proc)
        {
            sidecar.believes = address;
        }
        self.want(victim);
    }

    /// What the registry says of its sessions.
    pub(crate) fn happened(&mut self, event: &LogEvent) {
        if let LogEvent::Expired(who) = event {
            for id in 0..self.replicas.len() {
                if self.replicas[id].instance == who.instance && self.replicas[id].service == who.service {
                    let now = self.now;
                    self.replicas[id].steady_since = self.replicas[id].steady_since.max(now);
                }
            }
        }
        self.oracle.happened(self.now, event);
    }
}
