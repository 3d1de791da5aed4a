//! What connections tell the registry's task.

use std::net::IpAddr;

use tokio::sync::mpsc;

use crate::server::registry::ConnId;
use registry_client::protocol::{Command, Refusal};

use super::outgoing::ToPeer;

/// From a connection to the registry.
pub(super) enum Message {
    /// It is open; its lines go there.
    Opened(ConnId, IpAddr, mpsc::Sender<ToPeer>),
    /// It sent a line.
    Line(ConnId, Result<Command, Refusal>),
    /// It sent several.
    Lines(ConnId, Vec<Result<Command, Refusal>>),
    /// It is gone, or done.
    Closed(ConnId),
}
