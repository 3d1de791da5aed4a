//! The body of a response, wherever it comes from.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::backend_body::{BackendBody, BodyError};
use super::compressed_body::CompressedBody;
use super::record::Record;

pub(crate) enum ResponseBody {
    /// A page of the proxy.
    Page { text: Option<Bytes>, record: Box<Record> },
    /// None: the response starts a tunnel.
    Empty,
    /// A backend's.
    Backend(BackendBody),
    /// A backend's, compressed.
    Compressed(Box<CompressedBody>),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            ResponseBody::Page { text, record } => Poll::Ready(text.take().map(|text| {
                record.sent(text.len());
                record.complete(Instant::now());
                Ok(Frame::data(text))
            })),
            ResponseBody::Empty => Poll::Ready(None),
            ResponseBody::Backend(body) => Pin::new(body).poll_frame(cx),
            ResponseBody::Compressed(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Page { text, .. } => text.is_none(),
            ResponseBody::Empty => true,
            ResponseBody::Backend(body) => body.is_end_stream(),
            ResponseBody::Compressed(body) => body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Page { text, .. } => {
                SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64)
            }
            ResponseBody::Empty => SizeHint::with_exact(0),
            ResponseBody::Backend(body) => body.size_hint(),
            ResponseBody::Compressed(_) => SizeHint::default(),
        }
    }
}
