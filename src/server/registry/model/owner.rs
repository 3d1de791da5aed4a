//! What the members of a session need to know of it.

use super::ids::SessionNo;
use crate::server::routing::Drain;
use registry_client::protocol::{InstanceName, ServiceName};
use std::net::IpAddr;

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
