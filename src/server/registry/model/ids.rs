//! Identifiers, the time of an input, and how people know sessions and members.

use crate::server::routing::Endpoint;
use registry_client::protocol::{Domain, InstanceName, PathPrefix, ServiceName};
use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// The time at which an input arrives. The registry has no clock of its own.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For deadlines.
    pub mono: Instant,
    /// For what people read, and for session ids.
    pub wall: SystemTime,
}

/// A connection of the listener's. Never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// A session's short running number: how logs and stores call it, because its id is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionNo(pub u64);

/// A change on its way to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tx(pub u64);

/// A BACKEND_TEST on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TestId(pub u64);

/// A session as people know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Its running number.
    pub no: SessionNo,
    /// Its service.
    pub service: ServiceName,
    /// Which of its instances.
    pub instance: InstanceName,
}

/// A member as people know it.
#[derive(Debug, Clone)]
pub struct Which {
    /// Its session.
    pub session: SessionNo,
    /// Who registered it.
    pub instance: InstanceName,
    /// Which one of that session's.
    pub endpoint: Arc<Endpoint>,
    /// Its claim.
    pub domain: Domain,
    /// Its claim.
    pub path: PathPrefix,
}

impl fmt::Display for SessionNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.service, self.instance, self.no)
    }
}
