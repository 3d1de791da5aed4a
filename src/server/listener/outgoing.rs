//! What is sent to a peer: replies, of which it loses none, and events, which it loses when it does not keep up.
//!
//! A peer is sent no more replies than it has sent commands, and is not read from while it leaves them unread. Events are
//! not answers, so they have a short queue of their own, which is made with the first event. A peer that does not keep up
//! loses the newest events, and is told how many.

use std::sync::Arc;

use registry_client::protocol::{EventKind, Push, ServerLine, SessionId};
use tokio::sync::{mpsc, watch};

use crate::server::registry::{ConnId, Keepalive};

/// How many events wait for a peer.
const EVENTS: usize = 32;

/// Where what is sent to a peer goes.
pub(crate) enum Outlet {
    /// To the task of a connection of this server.
    Own(mpsc::Sender<ToConnection>),
    /// To the replica that has the connection.
    Relayed(RelayedOutlet),
}

/// The way to a connection of a replica: a queue that it shares with all others of the replica. When it is dropped, the
/// replica is told to close the connection.
pub(crate) struct RelayedOutlet {
    conn: ConnId,
    queue: RelayQueue,
}

/// The queue of everything for the connections of one replica. It is full when the replica does not read for long.
#[derive(Clone)]
pub(crate) struct RelayQueue {
    sender: mpsc::Sender<(ConnId, ToReplica)>,
    is_full: Arc<watch::Sender<bool>>,
}

/// What a replica is told of one of its connections.
#[derive(Debug)]
pub(crate) enum ToReplica {
    /// A line for the peer, which must not be lost.
    Line(Box<ServerLine>),
    /// An event for the peer.
    Event(Arc<str>),
    /// This session is bound to the connection, which may answer its PINGs.
    Bound(SessionId),
    /// It may not any more.
    Unbound,
    /// Close it when its lines are written.
    Close,
}

/// A message to a connection's task. It is small, because each channel allocates room for dozens, and most never have
/// more than one.
pub(crate) enum ToConnection {
    /// A line, which must not be lost.
    Line(Box<ServerLine>),
    /// The queue of the connection's events, before the first one.
    Events(Box<Events>),
    /// The session that is bound to the connection from now on.
    Bound(Arc<Keepalive>),
}

/// The sending end of a connection's lines and events.
pub(crate) enum PeerSender {
    /// The connection is one of this server.
    Own(OwnSender),
    /// It is one of a replica.
    Relayed(RelayedOutlet),
}

/// The sending end of a connection of this server.
pub(crate) struct OwnSender {
    lines: mpsc::Sender<ToConnection>,
    feed: Option<Feed>,
}

struct Feed {
    events: mpsc::Sender<Arc<str>>,
    /// How many events were lost since the beginning.
    missed: watch::Sender<u64>,
}

/// The receiving end of a connection's events.
pub(crate) struct Events {
    events: mpsc::Receiver<Arc<str>>,
    missed: watch::Receiver<u64>,
    reported: u64,
}

impl PeerSender {
    pub(crate) fn new(outlet: Outlet) -> Self {
        match outlet {
            Outlet::Own(lines) => PeerSender::Own(OwnSender { lines, feed: None }),
            Outlet::Relayed(relayed) => PeerSender::Relayed(relayed),
        }
    }

    /// Sends a line. Returns false if the connection is closed, or far behind with reading.
    pub(crate) fn send(&self, line: ServerLine) -> bool {
        let line = Box::new(line);
        match self {
            PeerSender::Own(own) => own.lines.try_send(ToConnection::Line(line)).is_ok(),
            PeerSender::Relayed(relayed) => relayed.send(ToReplica::Line(line)),
        }
    }

    /// Tells the connection which session is bound to it. Returns false as [`PeerSender::send`] does.
    pub(crate) fn bind(&self, keepalive: Arc<Keepalive>) -> bool {
        match self {
            PeerSender::Own(own) => own.lines.try_send(ToConnection::Bound(keepalive)).is_ok(),
            PeerSender::Relayed(relayed) => relayed.send(ToReplica::Bound(keepalive.session().clone())),
        }
    }

    /// Tells the connection that no session is bound to it. One of this server sees it in its
    /// [`Keepalive`]. Returns false as [`PeerSender::send`] does.
    pub(crate) fn unbind(&self) -> bool {
        match self {
            PeerSender::Own(_) => true,
            PeerSender::Relayed(relayed) => relayed.send(ToReplica::Unbound),
        }
    }

    /// Sends an event, or counts it as missed. Returns false as [`PeerSender::send`] does.
    pub(crate) fn offer(&mut self, line: &Arc<str>) -> bool {
        match self {
            PeerSender::Own(own) => own.offer(line),
            PeerSender::Relayed(relayed) => relayed.send(ToReplica::Event(Arc::clone(line))),
        }
    }
}

impl OwnSender {
    fn offer(&mut self, line: &Arc<str>) -> bool {
        if self.feed.is_none() {
            let (feed, events) = feed();
            if self.lines.try_send(ToConnection::Events(Box::new(events))).is_err() {
                return false;
            }
            self.feed = Some(feed);
        }
        if let Some(feed) = &self.feed {
            feed.offer(line);
        }
        true
    }
}

impl RelayQueue {
    /// A queue for so many messages; its other end, and what changes when it is full. The messages after that are lost, so
    /// whoever sees it ends the connection to the replica.
    pub(crate) fn new(capacity: usize) -> (Self, mpsc::Receiver<(ConnId, ToReplica)>, watch::Receiver<bool>) {
        let (sender, receiver) = mpsc::channel(capacity);
        let (is_full, watched) = watch::channel(false);
        (RelayQueue { sender, is_full: Arc::new(is_full) }, receiver, watched)
    }

    /// The outlet of the connection to which the replica gave this number.
    pub(crate) fn outlet(&self, conn: ConnId) -> Outlet {
        Outlet::Relayed(RelayedOutlet { conn, queue: self.clone() })
    }
}

impl RelayedOutlet {
    /// Returns false if the replica is gone.
    fn send(&self, message: ToReplica) -> bool {
        match self.queue.sender.try_send((self.conn, message)) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.queue.is_full.send_replace(true);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

impl Drop for RelayedOutlet {
    fn drop(&mut self) {
        self.send(ToReplica::Close);
    }
}

impl Feed {
    fn offer(&self, line: &Arc<str>) {
        if self.events.try_send(Arc::clone(line)).is_err() {
            self.missed.send_modify(|missed| *missed += 1);
        }
    }
}

impl Events {
    /// The next event; how many were missed is an event too. It is pending for ever when the sender is gone, because the
    /// connection's lines end then too. Cancel safe.
    pub(crate) async fn next(&mut self) -> Arc<str> {
        tokio::select! {
            biased;
            Some(event) = self.events.recv() => event,
            Ok(()) = self.missed.changed() => {
                let all = *self.missed.borrow_and_update();
                let missed = all - std::mem::replace(&mut self.reported, all);
                Push::Event(EventKind::All, serde_json::json!({ "missed": missed })).encode().into()
            }
            else => std::future::pending().await,
        }
    }
}

fn feed() -> (Feed, Events) {
    let (sender, events) = mpsc::channel(EVENTS);
    let (missed, reported) = watch::channel(0);
    (Feed { events: sender, missed }, Events { events, missed: reported, reported: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_too_much_is_counted_and_told_behind_what_was_kept() {
        let (feed, mut events) = feed();
        let line = |number: usize| Arc::from(format!("EVENT|all|{number}"));
        for round in 0..2 {
            for number in 0..EVENTS + 5 {
                feed.offer(&line(number));
            }
            for number in 0..EVENTS {
                assert_eq!(events.next().await, line(number), "round {round}");
            }
            assert_eq!(&*events.next().await, r#"EVENT|all|{"missed":5}"#);
        }
        feed.offer(&line(7));
        assert_eq!(events.next().await, line(7));
        assert!(futures_util::FutureExt::now_or_never(events.next()).is_none());
    }

    #[tokio::test]
    async fn a_replica_that_does_not_read_is_noticed_and_a_dropped_outlet_closes() {
        let (queue, mut messages, is_full) = RelayQueue::new(2);
        let peer = PeerSender::new(queue.outlet(ConnId(7)));
        assert!(peer.unbind() && peer.unbind() && !*is_full.borrow());
        assert!(peer.unbind(), "the connection is not to blame");
        assert!(*is_full.borrow());
        assert!(matches!(messages.recv().await, Some((ConnId(7), ToReplica::Unbound))));
        drop(peer);
        messages.recv().await;
        assert!(matches!(messages.recv().await, Some((ConnId(7), ToReplica::Close))));
        let peer = PeerSender::new(queue.outlet(ConnId(8)));
        drop(messages);
        assert!(!peer.unbind(), "the replica is gone");
    }
}
