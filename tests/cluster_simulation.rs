//! Replicas of the real registry core over a model of etcd in virtual time, with everything that may go wrong between
//! them, chosen by a seed (docs/internals/cluster.md). `SEEDS=n` says how many seeds, `SEED=n` which one.
//!
//! | file | what it has |
//! |---|---|
//! | `etcd` | the model of etcd: one order of changes, the leader's key, leases, a history that is compacted |
//! | `replica` | the real core, with what the shell around it has to keep |
//! | `client` | a sidecar that registers, applies, comes back, drains and leaves |
//! | `world` | virtual time, the queue of events, one seeded source of chance |
//! | `election` | who leads; commits, the watch, the proof of leadership |
//! | `faults` | what goes wrong |
//! | `oracle` | what must hold all the time, and in the end |
#![cfg(feature = "server")]

#[cfg(test)]
mod cluster_simulation {
    mod client;
    mod election;
    mod etcd;
    mod faults;
    mod oracle;
    mod replica;
    mod run;
    mod world;
}
