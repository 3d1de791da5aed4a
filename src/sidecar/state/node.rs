//! What the tasks of one daemon know of the node in etcd, and what that task needs to know of the others.

use std::net::IpAddr;

use tokio::sync::watch;

use super::DaemonState;

/// The node in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeStatus {
    /// Its key.
    pub(crate) key: String,
    /// `absent` (the application is not ready), `registering`, `waiting`, `registered`, `lost` or `refused`.
    pub(crate) state: &'static str,
    /// What went wrong last, unless it is over.
    pub(crate) trouble: Option<String>,
}

impl DaemonState {
    /// The node in etcd; `None` where none should be there.
    pub(crate) fn node(&self) -> Option<NodeStatus> {
        self.shared.node.borrow().clone()
    }

    /// How often a node that was in etcd was lost.
    pub(crate) fn node_losses(&self) -> u64 {
        self.shared.counters.node_losses()
    }
}

#[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "only the node's task asks"))]
impl DaemonState {
    pub(crate) fn set_node(&self, status: Option<NodeStatus>) {
        self.shared.node.send_replace(status);
    }

    /// Counts that a node that was in etcd is gone.
    pub(crate) fn count_node_loss(&self) {
        self.shared.counters.count_node_loss();
    }

    pub(crate) fn watch_advertised(&self) -> watch::Receiver<Option<IpAddr>> {
        self.shared.advertised.subscribe()
    }
}
