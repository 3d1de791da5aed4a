//! The operators' way to the registry: they look at it, follow what happens, and have sessions do things.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use registry_client::protocol::{Refusal, Reply, Request, ServerLine};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;

use crate::server::registry::{ConnId, Input, LogEvent, Overview, SessionNo};

use super::message::Message;
use super::outgoing::{Outlet, ToConnection};

/// How long the registry has for an answer. It answers every command within 10 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);
/// How many lines for an operator may wait: a reply, a verdict and a farewell.
const LINES: usize = 8;

/// Why an operator has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeskError {
    /// Another replica leads, and only it answers commands.
    #[error("this server does not lead its cluster")]
    NotLeading,
    /// The registry refused.
    #[error("{0}")]
    Refused(Refusal),
    /// The registry has stopped, or takes too long.
    #[error("the registry does not answer")]
    Unavailable,
}

/// The operators' way to the registry. It does not keep the registry running.
#[derive(Debug, Clone)]
pub struct Desk {
    inbox: mpsc::WeakSender<Message>,
    events: broadcast::Sender<LogEvent>,
    last: Arc<AtomicU64>,
}

impl Desk {
    pub(super) fn new(inbox: &mpsc::Sender<Message>, events: broadcast::Sender<LogEvent>) -> Self {
        Desk { inbox: inbox.downgrade(), events, last: Arc::default() }
    }

    /// What happens from now on. Whoever does not keep up loses the oldest events.
    pub fn events(&self) -> broadcast::Receiver<LogEvent> {
        self.events.subscribe()
    }

    /// The registry as it is now, with at most `most` sessions. `None`: it has stopped, or takes too long.
    pub async fn overview(&self, most: usize) -> Option<Overview> {
        let (answer, answered) = oneshot::channel();
        self.inbox.upgrade()?.send(Message::Overview(most, answer)).await.ok()?;
        timeout(ANSWER_TIMEOUT, answered).await.ok()?.ok()
    }

    /// Has a session do something, as if its client had asked for it.
    ///
    /// # Errors
    /// If the registry refuses, another replica leads, or there is no answer.
    pub async fn operate(&self, no: SessionNo, request: Request) -> Result<Reply, DeskError> {
        let inbox = self.inbox.upgrade().ok_or(DeskError::Unavailable)?;
        let conn = ConnId::of_operator(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        let (outlet, lines) = mpsc::channel(LINES);
        // Loopback: an operator is nobody's neighbour.
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let ask = async {
            inbox.send(Message::Opened(conn, peer, Outlet::Own(outlet))).await.ok()?;
            let input = Input::Operator(conn, no, request);
            inbox.send(Message::Input(Box::new(input))).await.ok()?;
            Some(first_reply(lines).await)
        };
        let answer = timeout(ANSWER_TIMEOUT, ask).await;
        let _ = inbox.send(Message::Closed(conn)).await;
        answer.ok().flatten().unwrap_or(Err(DeskError::Unavailable))
    }
}

/// The first reply. A connection that is closed without one is that of a registry that follows.
async fn first_reply(mut lines: mpsc::Receiver<ToConnection>) -> Result<Reply, DeskError> {
    while let Some(message) = lines.recv().await {
        let ToConnection::Line(line) = message else { continue };
        match *line {
            ServerLine::Reply(Reply::Error(refusal)) => return Err(DeskError::Refused(refusal)),
            ServerLine::Reply(reply) => return Ok(reply),
            ServerLine::Push(_) => {}
        }
    }
    Err(DeskError::NotLeading)
}
