//! The client library against our own server, whole and in this process: what a user of both may rely on.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "client_live/calls.rs"]
mod calls;
#[path = "client_live/convergence.rs"]
mod convergence;
#[path = "client_live/maintenance.rs"]
mod maintenance;
#[path = "client_live/routes.rs"]
mod routes;
#[path = "operations/support.rs"]
#[allow(dead_code, reason = "shared with tests/operations.rs")]
mod support;
#[path = "client_live/world.rs"]
mod world;
