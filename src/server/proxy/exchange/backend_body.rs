//! The body of a backend's response, streamed to the client. When it is complete, its connection returns to the pool.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::server::proxy::http::trailers::TrailerFilter;
use crate::server::proxy::upstream::connection::UpstreamConnection;

use super::record::Record;

pub(crate) struct BackendBody {
    incoming: Incoming,
    /// `None`: the body is over.
    connection: Option<UpstreamConnection>,
    /// How long the backend may be silent.
    idle_timeout: Duration,
    /// A part has arrived since the timer was set.
    has_progressed: bool,
    /// hyper has a part and has not asked for more, see [`ClientConnection`].
    ///
    /// [`ClientConnection`]: crate::server::proxy::client_state::connection_state::ClientConnection
    is_unread: bool,
    /// The error to return once hyper has flushed what came before it.
    error: Option<hyper::Error>,
    /// Which trailers are not sent on.
    trailers: TrailerFilter,
    record: Box<Record>,
}

/// Why a response breaks off. The client's transfer then breaks off too, so that it cannot be taken for complete.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// The backend broke the connection or sent invalid HTTP.
    Backend(hyper::Error),
    /// The backend was silent for so long.
    IdleTimeout(Duration),
    Compression(std::io::Error),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyError::Backend(error) => write!(f, "the backend broke off: {error}"),
            BodyError::Compression(error) => write!(f, "the response could not be compressed: {error}"),
            BodyError::IdleTimeout(limit) => write!(f, "the backend was silent for {limit:?}"),
        }
    }
}

impl std::error::Error for BodyError {}

type PolledFrame = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl BackendBody {
    pub(super) fn new(
        incoming: Incoming,
        connection: UpstreamConnection,
        idle_timeout: Duration,
        trailers: TrailerFilter,
        record: Box<Record>,
    ) -> Self {
        BackendBody {
            incoming,
            connection: Some(connection),
            idle_timeout,
            has_progressed: true,
            is_unread: false,
            error: None,
            trailers,
            record,
        }
    }

    fn complete(&mut self) {
        let now = Instant::now();
        if let Some(connection) = self.connection.take()
            && let Some(member) = self.record.member()
        {
            self.record.client().context.pool.put(member.id, connection, now);
        }
        self.record.complete(now);
    }

    /// Removes trailers that must not be forwarded. Returns whether anything of the frame is left.
    fn filter_trailers(&self, frame: &mut Frame<Bytes>) -> bool {
        let Some(trailers) = frame.trailers_mut() else { return true };
        let written = self.record.member().and_then(|member| member.terms.extras.headers());
        self.trailers.apply(trailers, |name| written.is_some_and(|headers| headers.contains(name)));
        !trailers.is_empty()
    }

    /// Ready when the backend has been silent for too long. A body that arrives in one piece needs no timer.
    fn poll_idle_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.record.timer();
        if std::mem::take(&mut self.has_progressed) {
            timer.set(Instant::now() + self.idle_timeout);
        }
        timer.poll(cx)
    }

    fn break_off(&mut self, error: BodyError) -> PolledFrame {
        self.connection = None;
        if let Some(assignment) = self.record.assignment() {
            assignment.connection_failed(&self.record.client().context.proxy.table);
        }
        self.record.broken();
        Poll::Ready(Some(Err(error)))
    }
}

impl Drop for BackendBody {
    fn drop(&mut self) {
        // hyper does not poll again after the announced length, and never polls an empty body.
        if self.incoming.is_end_stream() {
            self.complete();
        }
        self.record.client().part_read(&mut self.is_unread);
    }
}

impl Body for BackendBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let this = self.get_mut();
        this.record.client().part_read(&mut this.is_unread);
        if let Some(error) = this.error.take() {
            return this.break_off(BodyError::Backend(error));
        }
        if let Some(connection) = &mut this.connection {
            connection.drive(cx);
        }
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                this.has_progressed = true;
                if !this.filter_trailers(&mut frame) {
                    this.complete();
                    return Poll::Ready(None);
                }
                this.record.client().part_sent(&mut this.is_unread);
                this.record.sent(frame.data_ref().map_or(0, Bytes::len));
                if this.incoming.is_end_stream() {
                    this.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) if this.has_progressed => {
                // hyper drops what it has not flushed when a body fails, so return Pending once and let it flush.
                this.has_progressed = false;
                this.error = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Some(Err(error))) => this.break_off(BodyError::Backend(error)),
            Poll::Ready(None) => {
                this.complete();
                Poll::Ready(None)
            }
            Poll::Pending => match this.poll_idle_timeout(cx) {
                Poll::Ready(()) => this.break_off(BodyError::IdleTimeout(this.idle_timeout)),
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
