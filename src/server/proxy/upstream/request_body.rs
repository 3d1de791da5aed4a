//! A request's body on its way to a backend. It streams: nothing is buffered here.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::server::proxy::buffered::Reserved;
use crate::server::proxy::http::trailers::TrailerFilter;

use super::kept_body::{KeptBody, SentAgain, SpareBody};

type PolledFrame = Poll<Option<Result<Frame<Bytes>, UploadError>>>;

/// Why a request's body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error(transparent)]
    Client(#[from] hyper::Error),
    #[error(transparent)]
    SentAgain(#[from] SentAgain),
    #[error("the body has more bytes than the route allows")]
    TooLong,
}

/// A request's body, as upstream connections send it.
pub(crate) enum RequestBody {
    Empty,
    /// `limit`: how many bytes it may have.
    Stream {
        incoming: Incoming,
        trailers: TrailerFilter,
        progress: Rc<UploadProgress>,
        limit: u64,
    },
    Kept(KeptBody<RequestBody>),
}

/// How much of a request's body has arrived. Shared with whoever waits for the response.
pub(crate) struct UploadProgress {
    last_received: Cell<Instant>,
    received: Cell<u64>,
    waits_for_client: Cell<bool>,
    has_trailers: Cell<bool>,
    has_plain_end: Cell<bool>,
    is_too_long: Cell<bool>,
    has_failed: Cell<bool>,
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

    /// Whether the body has ended, without trailers.
    pub(crate) fn has_plain_end(&self) -> bool {
        self.has_plain_end.get()
    }

    /// Whether more bytes came than the route allows.
    pub(crate) fn is_too_long(&self) -> bool {
        self.is_too_long.get()
    }

    /// Whether the client broke it off, or sent what cannot be read.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.get()
    }

    fn polled(&self, polled: &PolledFrame) {
        self.waits_for_client.set(polled.is_pending());
        let Poll::Ready(frame) = polled else { return };
        self.last_received.set(Instant::now());
        match frame {
            Some(Ok(frame)) if frame.is_trailers() => self.has_trailers.set(true),
            Some(Ok(frame)) => {
                let more = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.received.set(self.received.get() + more);
            }
            Some(Err(_)) => self.has_failed.set(true),
            None => self.has_plain_end.set(!self.has_trailers.get()),
        }
    }
}

impl RequestBody {
    /// `trailers`: those that are not sent on.
    pub(crate) fn new(incoming: Incoming, trailers: TrailerFilter, now: Instant) -> Self {
        if incoming.is_end_stream() {
            return RequestBody::Empty;
        }
        let progress = UploadProgress {
            last_received: Cell::new(now),
            received: Cell::new(0),
            waits_for_client: Cell::new(false),
            has_trailers: Cell::new(false),
            has_plain_end: Cell::new(false),
            is_too_long: Cell::new(false),
            has_failed: Cell::new(false),
        };
        RequestBody::Stream { incoming, trailers, progress: Rc::new(progress), limit: u64::MAX }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, RequestBody::Empty)
    }

    pub(crate) fn progress(&self) -> Option<Rc<UploadProgress>> {
        match self {
            RequestBody::Empty => None,
            RequestBody::Stream { progress, .. } => Some(Rc::clone(progress)),
            RequestBody::Kept(kept) => kept.of_source(RequestBody::progress),
        }
    }

    /// Keeps what is sent of it, so that it can be sent again. `memory`: the room for that.
    pub(crate) fn keep(
        &mut self,
        memory: impl FnOnce() -> Option<Reserved>,
    ) -> Option<SpareBody<RequestBody>> {
        if let RequestBody::Kept(kept) = self {
            return Some(kept.spare());
        }
        let memory = memory()?;
        let kept = KeptBody::new(std::mem::replace(self, RequestBody::Empty), memory);
        let spare = kept.spare();
        *self = RequestBody::Kept(kept);
        Some(spare)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Kept(kept) => Pin::new(kept).poll_frame(cx),
            RequestBody::Stream { incoming, trailers: filter, progress, limit } => {
                let polled = Pin::new(incoming).poll_frame(cx);
                let mut polled = polled.map_err(UploadError::Client);
                progress.polled(&polled);
                if progress.received() > *limit {
                    progress.is_too_long.set(true);
                    return Poll::Ready(Some(Err(UploadError::TooLong)));
                }
                if let Poll::Ready(Some(Ok(frame))) = &mut polled
                    && let Some(trailers) = frame.trailers_mut()
                {
                    filter.apply(trailers, |_| false);
                    if trailers.is_empty() {
                        return Poll::Ready(None);
                    }
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Stream { incoming, .. } => incoming.is_end_stream(),
            RequestBody::Kept(kept) => kept.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Stream { incoming, .. } => incoming.size_hint(),
            RequestBody::Kept(kept) => kept.size_hint(),
        }
    }
}
