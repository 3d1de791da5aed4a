//! Identifiers, the time of an input, and the names of sessions and members in the log.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use registry_client::protocol::{Domain, InstanceName, PathPrefix, ServiceName};

use crate::server::routing::Endpoint;

/// The time at which an input arrives. The registry has no clock of its own.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For deadlines.
    pub mono: Instant,
    /// For times that people read, and for session ids.
    pub wall: SystemTime,
}

impl Now {
    /// The moment that was so long ago, as far as the clocks go back.
    pub(crate) fn back_by(self, ago: Duration) -> Now {
        Now {
            mono: self.mono.checked_sub(ago).unwrap_or(self.mono),
            wall: self.wall.checked_sub(ago).unwrap_or(self.wall),
        }
    }
}

/// One of the listener's connections. A number is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

impl ConnId {
    /// Numbers from here on are connections of operators, which no listener gives.
    const OPERATORS: u64 = 1 << 63;

    /// The connection of an operator with this number, below 2⁶³.
    pub fn of_operator(number: u64) -> Self {
        ConnId(ConnId::OPERATORS | number)
    }

    /// Whether it is the connection of an operator: what comes there is no sign of life of a session's client.
    pub(crate) fn is_operator(self) -> bool {
        self.0 >= ConnId::OPERATORS
    }
}

/// A session's running number. Logs and stores use it, because the session's id is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionNo(pub u64);

/// A change that the store is asked to hold. Numbers grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tx(pub u64);

/// Under which leader replicas are: the revision at which the leader's key was made in the shared store. Later terms are
/// greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term(pub u64);

/// A revision of the store that replicas share. A session's own revision counts its applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct StoreRevision(pub u64);

/// A BACKEND_TEST that has been started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TestId(pub u64);

/// How the log names a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLabel {
    /// Its running number.
    pub no: SessionNo,
    /// Its service.
    pub service: ServiceName,
    /// The instance that registered it.
    pub instance: InstanceName,
}

/// How the log names a member.
#[derive(Debug, Clone)]
pub struct MemberLabel {
    /// Its session.
    pub session: SessionNo,
    /// The instance that registered it.
    pub instance: InstanceName,
    /// Its backend.
    pub endpoint: Arc<Endpoint>,
    /// The domain of its claim.
    pub domain: Domain,
    /// The path of its claim.
    pub path: PathPrefix,
}

impl fmt::Display for SessionNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for SessionLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.service, self.instance, self.no)
    }
}
