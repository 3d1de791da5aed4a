//! A backend that takes no more of a request may have said why.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is known of the request on a connection. Shared with the stream, which hyper owns.
#[derive(Debug, Default)]
pub(super) struct Exchange(AtomicU8);

/// It has no body: it is sent whole or not.
const WHOLE: u8 = 0;
/// It has a body, and nothing of it was sent.
const ANNOUNCED: u8 = 1;
/// It has a body, and some of it was sent.
const BEGUN: u8 = 2;
/// The backend takes no more of it.
const REFUSED: u8 = 3;

impl Exchange {
    /// A request comes next.
    pub(super) fn begins(&self, has_body: bool) {
        self.0.store(if has_body { ANNOUNCED } else { WHOLE }, Ordering::Relaxed);
    }

    fn is(&self, state: u8) -> bool {
        self.0.load(Ordering::Relaxed) == state
    }
}

/// A backend's stream. A backend may answer before it has read the whole request, and close. hyper, which meets a closed
/// connection with the rest, would look no further for the answer. Here the rest of a body is dropped, so that the
/// answer is read, or that there is none.
#[derive(Debug)]
pub(super) struct Hearing<T> {
    stream: T,
    exchange: Arc<Exchange>,
}

impl<T> Hearing<T> {
    pub(super) fn new(stream: T, exchange: Arc<Exchange>) -> Self {
        Hearing { stream, exchange }
    }

    /// What came of writing `whole` bytes.
    fn written(&self, result: io::Result<usize>, whole: usize) -> io::Result<usize> {
        match &result {
            Ok(_) if self.exchange.is(ANNOUNCED) => self.exchange.0.store(BEGUN, Ordering::Relaxed),
            Err(error) if self.exchange.is(BEGUN) && is_closed(error) => {
                self.exchange.0.store(REFUSED, Ordering::Relaxed);
                return Ok(whole);
            }
            _ => {}
        }
        result
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl<T: AsyncRead + Unpin> AsyncRead for Hearing<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Hearing<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.exchange.is(REFUSED) {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(self.written(result, buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let whole = bufs.iter().map(|buf| buf.len()).sum();
        if self.exchange.is(REFUSED) {
            return Poll::Ready(Ok(whole));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        Poll::Ready(self.written(result, whole))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
            Err(error) if is_closed(&error) => Poll::Ready(self.written(Err(error), 0).map(|_| ())),
            _ if self.exchange.is(REFUSED) => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
