//! What the task that owns the registry is told.

use std::net::IpAddr;

use registry_client::protocol::{Command, Refusal, SessionId};
use tokio::sync::oneshot;

use crate::server::registry::{ConnId, Input, Overview};

use super::outgoing::Outlet;

/// A message to the task that owns the registry. Those of one sender are taken in their order.
pub(crate) enum Message {
    /// A connection is open. The lines for it go into this outlet.
    Opened(ConnId, IpAddr, Outlet),
    /// A connection is open at another replica, and a former leader had bound this session to it.
    Announced(ConnId, IpAddr, SessionId, Outlet),
    /// It sent a line.
    Line(ConnId, Result<Command, Refusal>),
    /// It sent several lines.
    Lines(ConnId, Vec<Result<Command, Refusal>>),
    /// It is closed, or the peer has sent everything and received all replies.
    Closed(ConnId),
    /// An operator looks at the registry, with at most so many sessions.
    Overview(usize, oneshot::Sender<Overview>),
    /// The rest of the server says something, in its order with what connections say.
    Input(Box<Input>),
}
