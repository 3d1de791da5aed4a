//! Puts any container behind a Registry V2 reverse proxy without touching the application.
//!
//! | module | what it is | what it must not know |
//! |---|---|---|
//! | [`registry_client::protocol`] | the language of the wire: values, commands, replies, lines | I/O, clocks, async |
//! | [`registry_client`] | a package of its own: keeps one session alive and converges it to an intent | the environment, processes |
//! | [`sidecar`] | the daemon: configuration, address, readiness, the one `run` | how the server works |
//! | [`server`] | the registry and the HTTP proxy whose routing it controls | the sidecar, the client |
//! | [`environment`] | names, prefixes and files of variables; every mistake at once | what a variable means |
//! | `etcd` | how both programs read where etcd is (feature `etcd`) | what they keep in it |
//! | [`shutdown`], [`telemetry`] | used by all | all of the above |
//! | [`prometheus`] | the text format of metrics | all of the above |
//! | `tls` | what TLS clients have in common | all of the above |
//! | `tcp_diag` | what the kernel knows of TCP connections | all of the above |
//! | [`terminal`] | what a person gets from either program | all of the above |
//!
//! Dependencies point one way; `tests/architecture.rs` fails when one does not. `docs/ARCHITECTURE.md` walks
//! through the code six times: start, an option, a command, a request, a broken link, SIGTERM.

pub mod environment;
#[cfg(feature = "etcd")]
mod etcd;
pub mod prometheus;
#[cfg(feature = "server")]
pub mod server;
pub mod shutdown;
pub mod sidecar;
mod tcp_diag;
pub mod telemetry;
pub mod terminal;
#[cfg(feature = "server")]
mod tls;
