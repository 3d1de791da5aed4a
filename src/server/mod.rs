//! The other end: the Registry V2 registry, and the HTTP proxy whose routing it controls.
//!
//! | module | what it is | what it must not know |
//! |---|---|---|
//! | [`registry`] | sessions, staging, apply: one pure state machine | sockets, clocks, tasks, the proxy |
//! | [`routing`] | the immutable table: match a request, choose a member, replace a part | both of its users |
//! | [`proxy`] | the data plane: listeners, forwarding, upstream connections, probes | the registry |

pub mod config;
pub mod proxy;
pub mod registry;
pub mod routing;
