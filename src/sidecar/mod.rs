//! The sidecar: registers an application with its registries for as long as the application is ready.
//!
//! It knows the client library, and never the server. Only [`config`] reads the environment. Each module names only
//! those above it in this table:
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | the environment as one typed value |
//! | `http` | a small responder for the maintenance page and the metrics |
//! | `state` | what the tasks of one daemon share |
//! | `address` | which address to advertise, and why |
//! | `readiness` | whether the application is ready |
//! | `maintenance` | what operators put into maintenance, and the page |
//! | `registries` | keeps the application registered |
//! | [`nodes`] | the node in etcd |
//! | [`process`] | the reaper, and the wrapped command |
//! | [`admin`] | control socket and metrics |
//! | `daemon`, `check` | puts the parts together; the dry run |

mod address;
pub mod admin;
mod check;
pub mod config;
mod daemon;
mod http;
mod maintenance;
pub mod nodes;
pub mod process;
mod readiness;
mod registries;
mod state;

pub use check::check;
pub use daemon::{run, run_with, wrap};
