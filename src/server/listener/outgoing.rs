//! What goes to a peer: replies, which it gets all, and events, which it loses when it does not keep up.
//!
//! A peer gets no more replies than it has sent commands, and is not read from while it leaves them unread. Events
//! come without being asked for, so they have a short queue of their own, made with the first of them. Whoever does
//! not take them out in time loses the newest, and hears how many.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::server::registry::Pulse;
use registry_client::protocol::{EventKind, Push, ServerLine};

/// Events that wait for a peer.
const EVENTS: usize = 32;

/// From the registry to a connection. Small, because a queue has room for dozens in advance, and most connections
/// never have more than one.
pub(super) enum ToPeer {
    /// A line. Not to be lost.
    Line(Box<ServerLine>),
    /// Events come from there from now on.
    Events(Box<Events>),
    /// The session that it has from now on.
    Bound(Arc<Pulse>),
}

/// The registry's end.
pub(super) struct Outlet {
    lines: mpsc::Sender<ToPeer>,
    feed: Option<Feed>,
}

struct Feed {
    events: mpsc::Sender<Arc<str>>,
    /// How many were lost since the beginning.
    missed: watch::Sender<u64>,
}

/// The connection's end of its events.
pub(super) struct Events {
    events: mpsc::Receiver<Arc<str>>,
    missed: watch::Receiver<u64>,
    told: u64,
}

impl Outlet {
    pub(super) fn new(lines: mpsc::Sender<ToPeer>) -> Self {
        Outlet { lines, feed: None }
    }

    /// False: it takes nothing any more, or is far behind with reading what it asked for.
    pub(super) fn send(&self, line: ServerLine) -> bool {
        self.lines.try_send(ToPeer::Line(Box::new(line))).is_ok()
    }

    /// Tells the peer's connection which session it has. False as for [`Outlet::send`].
    pub(super) fn bind(&self, pulse: Arc<Pulse>) -> bool {
        self.lines.try_send(ToPeer::Bound(pulse)).is_ok()
    }

    /// Sends an event, or counts it as missed. False as for [`Outlet::send`].
    pub(super) fn offer(&mut self, line: &Arc<str>) -> bool {
        if self.feed.is_none() {
            let (feed, events) = feed();
            if self.lines.try_send(ToPeer::Events(Box::new(events))).is_err() {
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
    /// The next event, in which how many were missed is one too. Never ends: whether the connection does, its
    /// lines say. Cancel safe.
    pub(super) async fn next(&mut self) -> Arc<str> {
        tokio::select! {
            biased;
            Some(event) = self.events.recv() => event,
            Ok(()) = self.missed.changed() => {
                let all = *self.missed.borrow_and_update();
                let missed = all - std::mem::replace(&mut self.told, all);
                Push::Event(EventKind::All, serde_json::json!({ "missed": missed })).encode().into()
            }
            else => std::future::pending().await,
        }
    }
}

fn feed() -> (Feed, Events) {
    let (sender, events) = mpsc::channel(EVENTS);
    let (missed, told) = watch::channel(0);
    (Feed { events: sender, missed }, Events { events, missed: told, told: 0 })
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
