//! Why there is no session.

use std::net::IpAddr;
use std::time::Duration;

use crate::connect::ConnectError;
use crate::protocol::Refusal;

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// There was no connection to be had.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The peer closed the connection.
    #[error("the registry closed the connection")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The address that the connection was made from is no longer one of this host's, so no answer can arrive.
    #[error("{0}, from which the connection was made, is no longer an address of this host")]
    OwnAddressGone(IpAddr),
    /// The registry said that it is going down.
    #[error("the registry is shutting down")]
    ServerShutdown,
    /// A command was not answered in time.
    #[error("no answer to {command} within {after:?}")]
    Silent {
        /// The command's name.
        command: &'static str,
        /// REQUEST_TIMEOUT.
        after: Duration,
    },
    /// An HTTP server answered.
    #[error("an HTTP server answers there, not a registry: check host and port (the registry's is 81)")]
    SpeaksHttp,
    /// Something else answered.
    #[error("whatever answers there is no registry: it sent {0:?}")]
    NotARegistry(String),
    /// A line longer than any reply.
    #[error("the registry sent a line longer than {} bytes", crate::protocol::MAX_CLIENT_LINE)]
    LineTooLong,
    /// A reply that does not belong to its command.
    #[error("unexpected answer to {command}: {reply}")]
    Unexpected {
        /// The command's name; empty where none was waiting.
        command: &'static str,
        /// The reply, without secrets.
        reply: String,
    },
    /// The registry refused a command without which there is no session.
    #[error("the registry refused {command}: {refusal}")]
    Refused {
        /// The command's name.
        command: &'static str,
        /// The registry's words.
        refusal: Refusal,
    },
}

impl Cause {
    /// Whether the peer answered and is at fault, as opposed to the network or its absence.
    pub(crate) fn blames_the_peer(&self) -> bool {
        match self {
            Cause::SpeaksHttp
            | Cause::NotARegistry(_)
            | Cause::LineTooLong
            | Cause::Unexpected { .. }
            | Cause::Refused { .. } => true,
            Cause::Connect(_)
            | Cause::Closed
            | Cause::Broken(_)
            | Cause::OwnAddressGone(_)
            | Cause::ServerShutdown
            | Cause::Silent { .. } => false,
        }
    }
}
