//! The node in etcd, for programs that look for services there: registered while the application is ready.
//!
//! | module | what it does |
//! |---|---|
//! | `info` | pure: what the node says about the application |
//! | `presence` | keeps the node registered while it should be |
//! | `command` | `registry-sidecar nodes` |
//!
//! The library `registry_nodes` talks to etcd. Without the feature `etcd` nothing of this is built.

#[cfg(feature = "etcd")]
pub mod command;
#[cfg(feature = "etcd")]
mod info;
#[cfg(feature = "etcd")]
mod presence;

#[cfg(feature = "etcd")]
pub(crate) use info::node;
#[cfg(feature = "etcd")]
pub(crate) use presence::NodePresence;
#[cfg(not(feature = "etcd"))]
pub(crate) use without_etcd::NodePresence;

/// What takes its place in a build without etcd.
#[cfg(not(feature = "etcd"))]
mod without_etcd {
    use std::sync::Arc;

    use crate::sidecar::config::Config;
    use crate::sidecar::state::DaemonState;

    /// No node is present.
    pub(crate) struct NodePresence;

    impl NodePresence {
        pub(crate) fn start(_config: &Arc<Config>, _state: &DaemonState) -> NodePresence {
            NodePresence
        }

        pub(crate) async fn leave(self) {}
    }
}
