//! The other end: the Registry V2 registry, and the HTTP proxy whose routing it controls.
//!
//! | module | what it is | what it must not know |
//! |---|---|---|
//! | `run` | puts the others together | what each of them decides |
//! | [`admin`] | metrics, status, health: what is asked about a running server | how any of it comes about |
//! | [`config`] | what the environment says | the others |
//! | [`registry`] | sessions, staging, apply: one pure state machine | sockets, clocks, tasks, the proxy |
//! | [`store`] | where applied state lives | what the registry does with it |
//! | [`listener`] | TCP 81: connections to calls of the registry | what a command does |
//! | [`live_table`] | the routing table in force, and who waits for its next version | both of its users |
//! | [`policy_file`] | REGISTRY_POLICY's file, followed as it changes | what becomes of a policy |
//! | [`routing`] | the immutable table: match a request, choose a member, replace a part | both of its users |
//! | [`proxy`] | the data plane: listeners, forwarding, upstream connections, probes | the registry |

pub mod admin;
pub mod config;
pub mod listener;
pub mod live_table;
pub mod policy_file;
pub mod proxy;
pub mod registry;
pub mod routing;
mod run;
pub mod store;

pub use run::{Server, StartError};
