//! Peers with addresses of their own: what depends on where a session comes from (PROTOCOL section 2, SEMANTICS
//! sections 4 and 9), over real sockets and in real HTTP. Each test makes a network namespace for itself.
#![cfg(all(feature = "server", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "registry_peers/addresses.rs"]
mod addresses;
#[path = "registry_peers/allowed.rs"]
mod allowed;
#[path = "registry_peers/network.rs"]
mod network;
#[path = "operations/support.rs"]
#[allow(dead_code, reason = "shared with tests/operations.rs")]
mod support;
