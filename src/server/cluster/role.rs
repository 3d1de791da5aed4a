//! What a replica is at the moment: the leader, a follower of one, or without one.

use crate::server::registry::Term;

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Nobody, as far as this replica knows.
    Leaderless,
    /// This replica.
    Leading(Term),
    /// Another one.
    Following(Leader),
}

/// Another replica that leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its name.
    pub name: String,
    /// Where replicas connect to it: `host:port`.
    pub address: String,
    /// Since when it leads.
    pub term: Term,
}
