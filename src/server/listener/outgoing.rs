//! What is sent to a peer: replies, of which it loses none, and events, which it loses when it does not keep up.
//!
//! A peer is sent no more replies than it has sent commands, and is not read from while it leaves them unread. Events are
//! not answers, so they have a short queue of their own, which is made with the first event. A peer that does not keep up
//! loses the newest events, and is told how many.

use std::sync::Arc;

use registry_client::protocol::{EventKind, Push, ServerLine};
use tokio::sync::{mpsc, watch};

use crate::server::registry::Keepalive;

/// How many events wait for a peer.
const EVENTS: usize = 32;

/// A message to a connection's task. It is small, because each channel allocates room for dozens, and most never have
/// more than one.
pub(super) enum ToConnection {
    /// A line, which must not be lost.
    Line(Box<ServerLine>),
    /// The queue of the connection's events, before the first one.
    Events(Box<Events>),
    /// The session that is bound to the connection from now on.
    Bound(Arc<Keepalive>),
}

/// The sending end of a connection's lines and events.
pub(super) struct PeerSender {
    lines: mpsc::Sender<ToConnection>,
    feed: Option<Feed>,
}

struct Feed {
    events: mpsc::Sender<Arc<str>>,
    /// How many events were lost since the beginning.
    missed: watch::Sender<u64>,
}

/// The receiving end of a connection's events.
pub(super) struct Events {
    events: mpsc::Receiver<Arc<str>>,
    missed: watch::Receiver<u64>,
    reported: u64,
}

impl PeerSender {
    pub(super) fn new(lines: mpsc::Sender<ToConnection>) -> Self {
        PeerSender { lines, feed: None }
    }

    /// Sends a line. Returns false if the connection is closed, or far behind with reading.
    pub(super) fn send(&self, line: ServerLine) -> bool {
        self.lines.try_send(ToConnection::Line(Box::new(line))).is_ok()
    }

    /// Tells the connection which session is bound to it. Returns false as [`PeerSender::send`] does.
    pub(super) fn bind(&self, keepalive: Arc<Keepalive>) -> bool {
        self.lines.try_send(ToConnection::Bound(keepalive)).is_ok()
    }

    /// Sends an event, or counts it as missed. Returns false as [`PeerSender::send`] does.
    pub(super) fn offer(&mut self, line: &Arc<str>) -> bool {
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
    pub(super) async fn next(&mut self) -> Arc<str> {
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
}
