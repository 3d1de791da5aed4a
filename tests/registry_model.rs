//! A registry written a second time, from PROTOCOL.md and SEMANTICS.md alone and as naively as it goes, and random
//! stories that are told to it and to the real one: every line, the whole routing table and every probe must be the
//! same after every step.
//!
//! | file | what it is |
//! |---|---|
//! | `model/` | the naive registry; it imports nothing of the crate |
//! | `steps` | what can happen, at random |
//! | `world` | the real core in virtual time |
//! | `tcp` | the real listener, through sockets |
//! | `duel`, `compare` | both side by side; whether a line is the one that was foreseen |
//! | `coverage` | which commands and errors were reached |
//!
//! The same stories each time; others, and more, with PROPTEST_CASES; those of a failure again with PROPTEST_RNG_SEED,
//! which it prints.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "registry_model/compare.rs"]
mod compare;
#[path = "registry_model/coverage.rs"]
mod coverage;
#[path = "registry_model/duel.rs"]
mod duel;
#[path = "registry_model/model/mod.rs"]
mod model;
#[path = "registry_model/steps.rs"]
mod steps;
#[path = "registry_model/stories.rs"]
mod stories;
#[path = "registry_model/tcp.rs"]
mod tcp;
#[path = "registry_model/world.rs"]
mod world;
