//! A request's body on its way to a backend. It streams: nothing is buffered here.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// A request's body, as upstream connections send it.
pub(crate) enum RequestBody {
    Empty,
    Stream { incoming: Incoming, progress: Rc<UploadProgress> },
}

/// How much of a request's body has arrived. Shared with whoever waits for the response.
pub(crate) struct UploadProgress {
    last_received: Cell<Instant>,
    received: Cell<u64>,
    waits_for_client: Cell<bool>,
}

impl UploadProgress {
    /// When the client last sent a part.
    pub(crate) fn last_received(&self) -> Instant {
        self.last_received.get()
    }

    /// How many bytes the client has sent.
    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Whether the backend could take more than the client has sent.
    pub(crate) fn waits_for_client(&self) -> bool {
        self.waits_for_client.get()
    }
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, now: Instant) -> Self {
        if incoming.is_end_stream() {
            return RequestBody::Empty;
        }
        let progress = UploadProgress {
            last_received: Cell::new(now),
            received: Cell::new(0),
            waits_for_client: Cell::new(false),
        };
        RequestBody::Stream { incoming, progress: Rc::new(progress) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, RequestBody::Empty)
    }

    pub(crate) fn progress(&self) -> Option<Rc<UploadProgress>> {
        match self {
            RequestBody::Empty => None,
            RequestBody::Stream { progress, .. } => Some(Rc::clone(progress)),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Stream { incoming, progress } => {
                let polled = Pin::new(incoming).poll_frame(cx);
                progress.waits_for_client.set(polled.is_pending());
                if polled.is_ready() {
                    progress.last_received.set(Instant::now());
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
            RequestBody::Empty => true,
            RequestBody::Stream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Stream { incoming, .. } => incoming.size_hint(),
        }
    }
}
