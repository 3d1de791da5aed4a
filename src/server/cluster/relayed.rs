//! The connections of a replica, as the registry of the leader sees them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;
use tokio::sync::mpsc;

use super::frame::{FromLeader, ToLeader};
use crate::server::listener::{Message, RelayQueue, ToReplica};
use crate::server::registry::{ConnId, Input};

/// Numbers for the connections of all replicas, none of which is used twice.
#[derive(Debug, Clone, Default)]
pub(super) struct ConnNumbers(Arc<AtomicU64>);

impl ConnNumbers {
    fn next(&self) -> ConnId {
        ConnId(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// The registry has ended, and this server with it.
#[derive(Debug, thiserror::Error)]
#[error("the registry has ended")]
pub(super) struct RegistryEnded;

/// The connections of one replica.
pub(super) struct RelayedConnections {
    replica: Arc<str>,
    registry: mpsc::Sender<Message>,
    numbers: ConnNumbers,
    queue: RelayQueue,
    allow: Arc<[IpNet]>,
    /// The registry's number of a connection, by the replica's.
    known: HashMap<ConnId, ConnId>,
}

impl RelayedConnections {
    /// Passes on what the replica says of connections from the networks `allow`. What is for them goes into `queue`.
    pub(super) fn new(
        replica: &str,
        registry: mpsc::Sender<Message>,
        numbers: ConnNumbers,
        queue: RelayQueue,
        allow: Arc<[IpNet]>,
    ) -> Self {
        RelayedConnections { replica: replica.into(), registry, numbers, queue, allow, known: HashMap::new() }
    }

    /// Passes one message of the replica on to the registry.
    pub(super) async fn pass(&mut self, said: ToLeader) -> Result<(), RegistryEnded> {
        let message = match said {
            ToLeader::Opened(conn, peer) => {
                let outlet = self.queue.outlet(conn);
                let Some(number) = self.admit(conn, peer) else { return Ok(()) };
                Message::Opened(number, peer, outlet)
            }
            ToLeader::Announced(conn, peer, session) => {
                let outlet = self.queue.outlet(conn);
                let Some(number) = self.admit(conn, peer) else { return Ok(()) };
                Message::Announced(number, peer, session, outlet)
            }
            ToLeader::Line(conn, line) => {
                let Some(number) = self.known.get(&conn) else { return Ok(()) };
                Message::Line(*number, line)
            }
            ToLeader::Closed(conn) => {
                let Some(number) = self.known.remove(&conn) else { return Ok(()) };
                Message::Closed(number)
            }
            ToLeader::Drains(shares) => {
                Message::Input(Box::new(Input::Drains(Arc::clone(&self.replica), shares)))
            }
            ToLeader::Alive => return Ok(()),
        };
        self.registry.send(message).await.map_err(|_| RegistryEnded)
    }

    /// The registry's number for a new connection. `None`: its address may not connect, and the replica is told to close it
    /// by the outlet that is dropped.
    fn admit(&mut self, conn: ConnId, peer: IpAddr) -> Option<ConnId> {
        if !self.allow.iter().any(|net| net.contains(&peer)) {
            tracing::warn!(%peer, "refused: another server takes it, and it is not in our REGISTRY_ALLOW");
            return None;
        }
        let number = self.numbers.next();
        self.known.insert(conn, number);
        Some(number)
    }

    /// The replica is gone, and its connections with it.
    pub(super) async fn close_all(&mut self) {
        for (_, number) in self.known.drain() {
            // An error means that the registry has ended.
            let _ = self.registry.send(Message::Closed(number)).await;
        }
    }
}

/// What the registry says to one of these connections, as a message to the replica.
pub(super) fn from_leader((conn, said): (ConnId, ToReplica)) -> FromLeader {
    match said {
        ToReplica::Line(line) => FromLeader::Line(conn, line),
        ToReplica::Event(event) => FromLeader::Event(conn, event),
        ToReplica::Bound(session) => FromLeader::Bound(conn, session),
        ToReplica::Unbound => FromLeader::Unbound(conn),
        ToReplica::Close => FromLeader::Close(conn),
    }
}
