//! One replica: the real core, and what the shell around it keeps.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use registry_sidecar::server::registry::{
    ConnId, Effect, Input, LogEvent, Now, Registry, RegistryConfig, StoreChange, Tx,
};
use registry_sidecar::server::routing::{Probe, Table};

/// How long a session outlives its connection here.
pub(crate) const GRACE: Duration = Duration::from_secs(30);
/// How long an empty claim is held here.
pub(crate) const HOLD: Duration = Duration::from_secs(2);
pub(crate) const BOOT: &str = "the only boot";

/// What a replica believes of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Belief {
    /// It has not loaded anything.
    Empty,
    /// Whom it follows.
    Follows(Option<u64>),
    /// It leads, and has proof of that until then.
    Leads { term: u64, proof: Duration },
}

/// What is to be done to the outside.
pub(crate) enum Deed {
    Send(ConnId, String),
    Close(ConnId),
    Ask(u64),
    Published,
    Log(LogEvent),
    Commit,
}

pub(crate) struct Replica {
    /// `None`: the process is dead.
    pub(crate) core: Option<Registry>,
    /// How many processes there have been.
    pub(crate) process: u64,
    pub(crate) belief: Belief,
    /// Whether its core takes it that there is a proof.
    pub(crate) answers: bool,
    pub(crate) table: Table,
    /// What the watch has shown.
    pub(crate) seen: u64,
    /// Commits in their order. The first one is on its way.
    pub(crate) commits: VecDeque<(u64, Tx, StoreChange)>,
    next_commit: u64,
    pub(crate) probes: BTreeMap<u64, Probe>,
    next_probe: u64,
    pub(crate) alarm: Option<Duration>,
    /// It was stopped (SIGSTOP) until then.
    pub(crate) paused_until: Duration,
    /// It does not reach etcd until then.
    pub(crate) cut_off_until: Duration,
    /// Since when it has had a table.
    pub(crate) ready_since: Option<Duration>,
    seeds: fastrand::Rng,
}

impl Replica {
    pub(crate) fn new(seed: u64) -> Self {
        Replica {
            core: None,
            process: 0,
            belief: Belief::Empty,
            answers: true,
            table: Table::default(),
            seen: 0,
            commits: VecDeque::new(),
            next_commit: 0,
            probes: BTreeMap::new(),
            next_probe: 0,
            alarm: None,
            paused_until: Duration::ZERO,
            cut_off_until: Duration::ZERO,
            ready_since: None,
            seeds: fastrand::Rng::with_seed(seed),
        }
    }

    /// The process starts, without a table.
    pub(crate) fn start(&mut self) {
        let config = RegistryConfig {
            grace: GRACE,
            hold: HOLD,
            cluster_id: "c".to_owned(),
            boot_id: BOOT.to_owned(),
            ..RegistryConfig::default()
        };
        let mut random = self.seeds.fork();
        self.core = Some(Registry::new(config, Box::new(move || Some(random.u128(..)))));
        self.process += 1;
    }

    /// The process is gone, from one moment to the next.
    pub(crate) fn kill(&mut self) {
        self.core = None;
        self.belief = Belief::Empty;
        self.table = Table::default();
        self.seen = 0;
        self.ready_since = None;
        (self.commits, self.probes, self.alarm) = (VecDeque::new(), BTreeMap::new(), None);
        (self.paused_until, self.cut_off_until) = (Duration::ZERO, Duration::ZERO);
    }

    pub(crate) fn leads(&self) -> bool {
        matches!(self.belief, Belief::Leads { .. })
    }

    /// Tells the core what happened. A follower says nothing to anybody and asks the store for nothing.
    pub(crate) fn turn(&mut self, now: Now, input: Input) -> Vec<Deed> {
        let leads = self.leads();
        let Some(core) = &mut self.core else { return Vec::new() };
        core.handle(now, input);
        let effects: Vec<Effect> = core.effects().collect();
        let mut deeds = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send(conn, line) => {
                    assert!(leads, "a follower says {line:?}");
                    deeds.push(Deed::Send(conn, line.encode()));
                }
                Effect::Close(conn) => deeds.push(Deed::Close(conn)),
                Effect::Commit(tx, change) => {
                    assert!(leads, "a follower asks for {change:?}");
                    self.next_commit += 1;
                    self.commits.push_back((self.next_commit, tx, change));
                    deeds.push(Deed::Commit);
                }
                Effect::Publish(table) => {
                    self.table = table;
                    deeds.push(Deed::Published);
                }
                Effect::Watch(probe) => {
                    self.next_probe += 1;
                    self.probes.insert(self.next_probe, probe);
                    deeds.push(Deed::Ask(self.next_probe));
                }
                Effect::Log(event) => deeds.push(Deed::Log(event)),
                Effect::Forget(probe) => self.probes.retain(|_, other| *other != probe),
                _ => {}
            }
        }
        deeds
    }
}
