//! What connections tell the registry's task.

use std::net::IpAddr;

use registry_client::protocol::{Command, Refusal};
use tokio::sync::mpsc;

use crate::server::registry::ConnId;

use super::outgoing::ToConnection;

/// A message from a connection to the task that owns the registry.
pub(super) enum Message {
    /// It is open. The lines for it go into this channel.
    Opened(ConnId, IpAddr, mpsc::Sender<ToConnection>),
    /// It sent a line.
    Line(ConnId, Result<Command, Refusal>),
    /// It sent several lines.
    Lines(ConnId, Vec<Result<Command, Refusal>>),
    /// It is closed, or the peer has sent everything and received all replies.
    Closed(ConnId),
}
