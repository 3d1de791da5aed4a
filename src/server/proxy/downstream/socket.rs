//! A client's socket. It tells HTTP/2 from HTTP/1 by the first bytes, notes whether the client reads, and closes with a reset
//! if the connection asks for that.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::server::proxy::client_state::socket_state::SocketState;

/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How many bytes are read at first: the whole head of most requests.
const FIRST_READ: usize = 2048;

pub(super) struct ClientSocket {
    stream: TcpStream,
    state: Arc<SocketState>,
    /// What was read to find out the protocol, and is still to be given to whoever speaks it.
    first: Bytes,
}

impl ClientSocket {
    pub(super) fn new(stream: TcpStream, state: Arc<SocketState>) -> Self {
        ClientSocket { stream, state, first: Bytes::new() }
    }

    /// Ready when the first bytes tell whether the client speaks HTTP/2 without TLS, because it knows that this server
    /// does (RFC 9113, section 3.3). The bytes can still be read. An end or an error in the middle of them is for whoever
    /// reads next.
    pub(super) fn poll_is_http2(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while self.first.len() < PREFACE.len() && PREFACE.starts_with(&self.first) {
            let mut bytes = [0; FIRST_READ];
            let mut buf = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(false);
            }
            self.first = [&self.first, buf.filled()].concat().into();
        }
        Poll::Ready(self.first.starts_with(PREFACE))
    }
}

impl Drop for ClientSocket {
    fn drop(&mut self) {
        if self.state.closes_with_reset() {
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let length = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.state.write_ended(polled.is_pending());
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state.duplicate.provide(&self.stream, cx);
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.state.write_ended(polled.is_pending());
        polled
    }
}
