//! What the members of a session need to know of it.

use std::net::IpAddr;

use crate::protocol::{InstanceName, ServiceName};
use crate::server::routing::Drain;

use super::ids::SessionNo;

/// The session that a member belongs to, as far as its members need it.
pub(crate) struct Owner<'a> {
    pub(crate) no: SessionNo,
    pub(crate) service: &'a ServiceName,
    pub(crate) instance: &'a InstanceName,
    pub(crate) peer: IpAddr,
    /// Whether it is without a connection.
    pub(crate) lost: bool,
    /// Whether it is being drained.
    pub(crate) drain: Option<Drain>,
}
