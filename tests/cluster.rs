//! Several servers that are one registry, with real programs: etcd, servers, sidecars and web servers.

#![cfg(all(feature = "etcd", feature = "server"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failed assumption ends the test")]

#[path = "../nodes/tests/support/etcd.rs"]
mod etcd;
#[path = "support/programs.rs"]
mod programs;

#[path = "cluster/basics.rs"]
mod basics;
#[path = "cluster/copies.rs"]
mod copies;
#[path = "cluster/drain.rs"]
mod drain;
#[path = "cluster/etcd_faults.rs"]
mod etcd_faults;
#[path = "cluster/failover.rs"]
mod failover;
#[path = "support/relay.rs"]
mod relay;
#[path = "cluster/support.rs"]
mod support;
