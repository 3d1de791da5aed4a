//! A response's body as a client's connection gets it: to HTTP/2 in parts that are counted until the client has taken
//! them, and no faster than it may hold them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::server::proxy::buffered::{ConnectionBuffer, MAX_PART, StreamBuffer};

use super::backend_body::BodyError;
use super::body::ResponseBody;

pub(crate) struct PacedBody {
    body: ResponseBody,
    /// `None`: HTTP/1, which has one response at a time.
    pace: Option<Box<Pace>>,
}

struct Pace {
    buffer: Arc<StreamBuffer>,
    /// The rest of what was read and not given on.
    rest: Bytes,
}

impl PacedBody {
    pub(super) fn new(body: ResponseBody, connection: Option<&Arc<ConnectionBuffer>>) -> Self {
        let pace = |connection: &Arc<ConnectionBuffer>| {
            Box::new(Pace { buffer: connection.stream(), rest: Bytes::new() })
        };
        PacedBody { body, pace: connection.map(pace) }
    }
}

type PolledFrame = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl Pace {
    fn poll_frame(&mut self, body: Pin<&mut ResponseBody>, cx: &mut Context<'_>) -> PolledFrame {
        if !self.rest.is_empty() {
            return self.next_part();
        }
        ready!(self.buffer.poll_room(cx));
        match ready!(body.poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if data.is_empty() => Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(data) => {
                    self.rest = self.buffer.count(data);
                    self.next_part()
                }
                Err(trailers) => Poll::Ready(Some(Ok(trailers))),
            },
            end => Poll::Ready(end),
        }
    }

    fn next_part(&mut self) -> PolledFrame {
        let length = self.rest.len().min(MAX_PART);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }
}

impl Body for PacedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let PacedBody { body, pace } = self.get_mut();
        match pace {
            None => Pin::new(body).poll_frame(cx),
            Some(pace) => pace.poll_frame(Pin::new(body), cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pace.as_ref().is_none_or(|pace| pace.rest.is_empty()) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // The body's own hint no longer has what waits here. hyper asks before it reads, so nothing waits then.
        self.body.size_hint()
    }
}
