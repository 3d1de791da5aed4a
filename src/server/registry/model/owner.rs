//! What members need to know of their session.

use std::net::IpAddr;

use registry_client::protocol::{InstanceName, ServiceName};

use crate::server::routing::Drain;

use super::ids::SessionNo;

/// The session of a member, as far as its members need to know it.
pub(crate) struct Owner<'a> {
    pub(crate) no: SessionNo,
    pub(crate) service: &'a ServiceName,
    pub(crate) instance: &'a InstanceName,
    pub(crate) peer: IpAddr,
    /// Whether it has no connection.
    pub(crate) lost: bool,
    /// Whether it is being drained.
    pub(crate) drain: Option<Drain>,
}
