//! Reads the response of a backend that closes before it has read the whole request.
//!
//! A backend may answer early, for instance to refuse a large upload, and close. hyper would meet the closed connection
//! when it writes the rest of the body, and would not look for the response.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::server::proxy::buffered::MAX_PART;

/// The request on a connection. Shared with the stream, which hyper owns.
#[derive(Debug, Default)]
pub(super) struct UploadState {
    /// How far the request is sent.
    sent: AtomicU8,
    /// The response is read in small parts.
    in_parts: AtomicBool,
}

/// The request has no body: it is sent whole or not at all.
const NO_BODY: u8 = 0;
/// The request has a body, and nothing of the request has been sent.
const NOT_BEGUN: u8 = 1;
/// The request has a body, and some of the request has been sent.
const BEGUN: u8 = 2;
/// The backend has closed its side; the rest of the body is dropped.
const REFUSED: u8 = 3;

impl UploadState {
    /// The next request begins.
    pub(super) fn request_begins(&self, has_body: bool) {
        self.sent.store(if has_body { NOT_BEGUN } else { NO_BODY }, Ordering::Relaxed);
    }

    fn is(&self, state: u8) -> bool {
        self.sent.load(Ordering::Relaxed) == state
    }

    /// hyper reads as much at once as it has lately got, up to 400 KiB, and gives it on as one part.
    pub(super) fn read_in_parts(&self, in_parts: bool) {
        self.in_parts.store(in_parts, Ordering::Relaxed);
    }
}

/// A backend's stream that drops the rest of a body once the backend has closed, so that hyper goes on to read the
/// response, or finds that there is none.
#[derive(Debug)]
pub(super) struct EarlyResponseStream<T> {
    stream: T,
    upload: Arc<UploadState>,
}

impl<T> EarlyResponseStream<T> {
    pub(super) fn new(stream: T, upload: Arc<UploadState>) -> Self {
        EarlyResponseStream { stream, upload }
    }

    /// Replaces the error of a write of `length` bytes by success if the backend has closed after a part of the body.
    fn ignore_close(&self, result: io::Result<usize>, length: usize) -> io::Result<usize> {
        match &result {
            Ok(_) if self.upload.is(NOT_BEGUN) => self.upload.sent.store(BEGUN, Ordering::Relaxed),
            Err(error) if self.upload.is(BEGUN) && is_closed(error) => {
                self.upload.sent.store(REFUSED, Ordering::Relaxed);
                return Ok(length);
            }
            _ => {}
        }
        result
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl<T: AsyncRead + Unpin> AsyncRead for EarlyResponseStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.upload.in_parts.load(Ordering::Relaxed) {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = buf.remaining().min(MAX_PART);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(length));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for EarlyResponseStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.upload.is(REFUSED) {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(self.ignore_close(result, buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if self.upload.is(REFUSED) {
            return Poll::Ready(Ok(length));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        Poll::Ready(self.ignore_close(result, length))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
            Err(error) if is_closed(&error) => Poll::Ready(self.ignore_close(Err(error), 0).map(|_| ())),
            _ if self.upload.is(REFUSED) => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
