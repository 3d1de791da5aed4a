//! Kept-alive connections to members, one pool for each worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use crate::protocol::Scheme;
use crate::server::routing::{Member, MemberId};

use super::body::Upload;
use super::dial::{DialError, Dialer};

/// How long a connection may be idle: Node closes its own after 5 s (SEMANTICS section 9).
const MAX_IDLE: Duration = Duration::from_secs(4);
/// Idle connections that are kept for one member by one worker.
const MAX_IDLE_PER_MEMBER: usize = 256;

/// Idle connections, the one used last on top.
#[derive(Default)]
pub(super) struct Pool {
    idle: RefCell<HashMap<MemberId, Vec<Idle>>>,
}

struct Idle {
    sender: SendRequest<Upload>,
    since: Instant,
}

/// A connection for one request.
pub(super) struct Upstream {
    pub(super) sender: SendRequest<Upload>,
    /// It had a request before, so the backend may have closed it without our knowing yet.
    pub(super) reused: bool,
}

/// Why there is no connection to a member.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{0} backends are not supported yet")]
    Scheme(&'static str),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Handshake(#[from] hyper::Error),
}

impl Pool {
    /// An idle connection that is still open, as far as can be known.
    pub(super) fn take(&self, member: MemberId, now: Instant) -> Option<Upstream> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&member)?;
        while let Some(Idle { sender, since }) = connections.pop() {
            if now.saturating_duration_since(since) < MAX_IDLE && sender.is_ready() && !sender.is_closed() {
                return Some(Upstream { sender, reused: true });
            }
        }
        None
    }

    /// Keeps a connection whose response is over.
    pub(super) fn put(&self, member: MemberId, sender: SendRequest<Upload>, now: Instant) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(member).or_default();
        if connections.len() < MAX_IDLE_PER_MEMBER {
            connections.push(Idle { sender, since: now });
        }
    }

    /// Closes what has been idle for too long, or was closed by the backend.
    pub(super) fn drop_old(&self, now: Instant) {
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain(|idle| {
                now.saturating_duration_since(idle.since) < MAX_IDLE && !idle.sender.is_closed()
            });
            !connections.is_empty()
        });
    }
}

/// A new connection. Takes at most [`super::dial::CONNECT_TIMEOUT`].
pub(super) async fn connect(dialer: &Dialer, member: &Member) -> Result<Upstream, ConnectError> {
    // TLS and HTTP/2 to backends will be added here.
    let stream = match member.backend.scheme() {
        Scheme::Http => dialer.connect(&member.backend, member.peer).await?,
        scheme @ (Scheme::Https | Scheme::H2c) => return Err(ConnectError::Scheme(scheme.as_str())),
    };
    let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move {
        // Whoever waits for the response learns of the error.
        let _ = connection.with_upgrades().await;
    });
    Ok(Upstream { sender, reused: false })
}
