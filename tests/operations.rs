//! The operational commands over real TCP, and what they do to real HTTP traffic.
#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "operations/drain.rs"]
mod drain;
#[path = "operations/events.rs"]
mod events;
#[path = "operations/hold.rs"]
mod hold;
#[path = "operations/limits.rs"]
mod limits;
#[path = "operations/maintenance.rs"]
mod maintenance;
#[path = "operations/scripts.rs"]
mod scripts;
#[path = "operations/staging.rs"]
mod staging;
#[path = "operations/support.rs"]
#[allow(dead_code, reason = "shared with tests/redeploy.rs")]
mod support;
