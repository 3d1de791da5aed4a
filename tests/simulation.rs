//! Many clients and the real registry core in virtual time, with everything that may go wrong between them,
//! chosen by a seed. CONTRIBUTING.md says how to run it, docs/ARCHITECTURE.md what it is made of.
//!
//! | file | what it has |
//! |---|---|
//! | `world` | virtual time, the queue of events, one seeded source of chance; connections, the registry |
//! | `processes` | the sidecars' machines, and what is done for them |
//! | `cast` | who takes part: replicas of services with their addresses, sidecars with the real machine |
//! | `wire` | connections, byte by byte, through the real codecs |
//! | `server` | the real registry core with a listener, a disk and a prober of the world's |
//! | `faults`, `mending` | what goes wrong and how often it did; how it ends |
//! | `oracle` | what must hold all the time (SEMANTICS section 8) |
//! | `grammar` | which sequences of events are legal |
//! | `verdict` | what must hold once everything is healed |
//! | `run` | seeds, shards, and how a failure is shown |
//! | `bounds` | single stories: the bounds of SEMANTICS section 8, and no storm |
//! | `herd` | a thousand sidecars lose one registry |
#![cfg(feature = "server")]

#[cfg(test)]
mod simulation {
    mod bounds;
    mod cast;
    mod faults;
    mod grammar;
    mod herd;
    mod mending;
    mod oracle;
    mod processes;
    mod run;
    mod server;
    mod verdict;
    mod wire;
    mod world;
}
