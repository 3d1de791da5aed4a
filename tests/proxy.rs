//! The real proxy with a routing table made by hand, between raw sockets of the tests' own.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "proxy/support.rs"]
mod support;

#[path = "proxy/access_log.rs"]
mod access_log;
#[path = "proxy/balancing.rs"]
mod balancing;
#[path = "proxy/crowd.rs"]
mod crowd;
#[path = "proxy/failure.rs"]
mod failure;
#[path = "proxy/forwarding.rs"]
mod forwarding;
#[path = "support/frames.rs"]
#[allow(dead_code, reason = "shared with tests/conformance.rs, which uses the rest")]
mod frames;
#[path = "proxy/framing.rs"]
mod framing;
#[path = "proxy/h2c.rs"]
mod h2c;
#[path = "proxy/hold.rs"]
mod hold;
#[path = "proxy/outage.rs"]
mod outage;
#[path = "proxy/probes.rs"]
mod probes;
#[path = "proxy/response_heads.rs"]
mod response_heads;
#[path = "proxy/start_hold.rs"]
mod start_hold;
#[path = "proxy/stopping.rs"]
mod stopping;
#[path = "proxy/stray.rs"]
mod stray;
#[path = "proxy/upgrade.rs"]
mod upgrade;
