//! What streams through: request bodies up, response bodies down. Nothing is buffered here.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::server::routing::Outcome;

use super::compress::Compressed;
use super::record::Record;
use super::upstream::Sender;

/// A request's body on its way to a backend.
pub(super) enum Upload {
    Empty,
    Stream { incoming: Incoming, progress: Rc<Progress> },
}

/// How far a request's body is.
pub(super) struct Progress {
    /// When the client last sent something.
    last: Cell<Instant>,
    /// How many bytes it sent.
    pub(super) received: Cell<u64>,
    /// Whether we are waiting for the client.
    pub(super) waiting: Cell<bool>,
}

impl Progress {
    pub(super) fn last(&self) -> Instant {
        self.last.get()
    }
}

impl Upload {
    pub(super) fn new(incoming: Incoming, now: Instant) -> Self {
        if incoming.is_end_stream() {
            return Upload::Empty;
        }
        let progress =
            Rc::new(Progress { last: Cell::new(now), received: Cell::new(0), waiting: Cell::new(false) });
        Upload::Stream { incoming, progress }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Upload::Empty)
    }

    pub(super) fn progress(&self) -> Option<Rc<Progress>> {
        match self {
            Upload::Empty => None,
            Upload::Stream { progress, .. } => Some(Rc::clone(progress)),
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Upload::Empty => Poll::Ready(None),
            Upload::Stream { incoming, progress } => {
                let polled = Pin::new(incoming).poll_frame(cx);
                progress.waiting.set(polled.is_pending());
                if polled.is_ready() {
                    progress.last.set(Instant::now());
                }
                if let Poll::Ready(Some(Ok(frame))) = &polled {
                    let more = frame.data_ref().map_or(0, Bytes::len) as u64;
                    progress.received.set(progress.received.get() + more);
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upload::Empty => true,
            Upload::Stream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upload::Empty => SizeHint::with_exact(0),
            Upload::Stream { incoming, .. } => incoming.size_hint(),
        }
    }
}

/// A response's body on its way to the client.
pub(super) enum Reply {
    /// Something of ours.
    Page { text: Option<Bytes>, record: Box<Record> },
    /// Nothing: the head of an upgrade.
    Empty,
    /// A backend's.
    Stream(Download),
    /// A backend's, compressed.
    Compressed(Box<Compressed>),
}

/// A backend's response body. When it is over, its connection goes back to the pool.
pub(super) struct Download {
    incoming: Incoming,
    sender: Option<Sender>,
    idle_limit: Duration,
    /// Something came since the backend was last waited for.
    moved: bool,
    /// The client has not asked for more since it was given a part.
    untaken: bool,
    /// It broke off; what came before is passed on first.
    broken: Option<hyper::Error>,
    record: Box<Record>,
}

/// Why a response broke off. The client's transfer is then broken too, never ended as if it were complete.
#[derive(Debug)]
pub(super) enum Broken {
    Upstream(hyper::Error),
    Silent(Duration),
    Coding(std::io::Error),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Upstream(error) => write!(f, "the backend broke off: {error}"),
            Broken::Coding(error) => write!(f, "the response could not be compressed: {error}"),
            Broken::Silent(limit) => write!(f, "the backend was silent for {limit:?}"),
        }
    }
}

impl std::error::Error for Broken {}

impl Download {
    pub(super) fn new(incoming: Incoming, sender: Sender, idle_limit: Duration, record: Box<Record>) -> Self {
        Download {
            incoming,
            sender: Some(sender),
            idle_limit,
            moved: true,
            untaken: false,
            broken: None,
            record,
        }
    }

    fn complete(&mut self) {
        let now = Instant::now();
        if let Some(sender) = self.sender.take() {
            self.record.give_back(sender, now);
        }
        self.record.complete(now);
    }

    /// Ready when the backend has been silent for too long. A response that comes in one piece needs no timer.
    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let alarm = self.record.alarm();
        if std::mem::take(&mut self.moved) {
            alarm.set(Instant::now() + self.idle_limit);
        }
        alarm.poll(cx)
    }

    fn breaks_off(&mut self, why: Broken) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.sender = None;
        self.record.note(Outcome::Failed);
        self.record.broken();
        Poll::Ready(Some(Err(why)))
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // hyper does not ask again once the announced length is through; and some have no body at all.
        if self.incoming.is_end_stream() {
            self.complete();
        }
        self.record.client().takes(&mut self.untaken);
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        this.record.client().takes(&mut this.untaken);
        if let Some(error) = this.broken.take() {
            return this.breaks_off(Broken::Upstream(error));
        }
        if let Some(sender) = &mut this.sender {
            sender.go_on(cx);
        }
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.moved = true;
                this.record.client().hands_over(&mut this.untaken);
                this.record.sent(frame.data_ref().map_or(0, Bytes::len));
                if this.incoming.is_end_stream() {
                    this.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) if this.moved => {
                // What hyper has not sent when it hears of this, it never sends: it is asked back first.
                this.moved = false;
                this.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Some(Err(error))) => this.breaks_off(Broken::Upstream(error)),
            Poll::Ready(None) => {
                this.complete();
                Poll::Ready(None)
            }
            Poll::Pending => match this.poll_silent(cx) {
                Poll::Ready(()) => this.breaks_off(Broken::Silent(this.idle_limit)),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Reply::Page { text, record } => Poll::Ready(text.take().map(|text| {
                record.sent(text.len());
                record.complete(Instant::now());
                Ok(Frame::data(text))
            })),
            Reply::Empty => Poll::Ready(None),
            Reply::Stream(download) => Pin::new(download).poll_frame(cx),
            Reply::Compressed(compressed) => compressed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Page { text, .. } => text.is_none(),
            Reply::Empty => true,
            Reply::Stream(download) => download.is_end_stream(),
            Reply::Compressed(compressed) => compressed.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Page { text, .. } => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Reply::Empty => SizeHint::with_exact(0),
            Reply::Stream(download) => download.size_hint(),
            Reply::Compressed(_) => SizeHint::default(),
        }
    }
}
