//! The server: the Registry V2 registry, and the HTTP proxy whose routing it controls.
//!
//! | module | what it is | what it must not know |
//! |---|---|---|
//! | `run` | puts the others together | what each of them decides |
//! | [`admin`] | the operators' page, metrics, status and health of a running server | how the others work |
//! | [`alerts`] | tells webhooks what people should know | how the others work |
//! | [`webhook`] | the address of a webhook, which is a secret | the others |
//! | [`config`] | the server's configuration, read from the environment | the others |
//! | [`registry`] | sessions, staging, apply: one pure state machine | sockets, clocks, tasks, the proxy |
//! | [`store`] | where applied state lives | what the registry does with it |
//! | [`listener`] | TCP 81: connections to calls of the registry | what a command does |
//! | [`cluster`] | several servers that are one registry | what a command does, etcd |
//! | `replica` | makes this server one of several that share an etcd (feature `etcd`) | what a leader does |
//! | [`live_table`] | the current routing table, which readers may wait for | the registry and the proxy |
//! | `followed_file` | a file of the operator's as it changes | what is in it |
//! | [`policy_file`] | the file of REGISTRY_POLICY, reread when it changes | what a policy is used for |
//! | [`routes_file`] | ROUTES_FILE: routes of what has no sidecar | the registry, but by its protocol |
//! | [`routing`] | the immutable routing table: match a request, choose a member | the registry and the proxy |
//! | [`proxy`] | the data plane: accepts clients, forwards requests to members, probes backends | the registry |
//! | [`acme`] | orders certificates for the hosts that are claimed | the registry, how a connection is served |

pub mod acme;
pub mod admin;
pub mod alerts;
pub mod cluster;
pub mod config;
mod followed_file;
pub mod listener;
pub mod live_table;
pub mod policy_file;
pub mod proxy;
pub mod registry;
#[cfg(feature = "etcd")]
mod replica;
pub mod routes_file;
pub mod routing;
mod run;
pub mod store;
pub mod webhook;

pub use run::{Server, StartError};
