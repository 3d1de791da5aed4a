//! Gives hyper's answers to requests that it cannot parse a body like every page of the proxy has. hyper answers them
//! with a bare head, without calling the service.
//!
//! It must not know what a request means: it keeps how the latest request began, so that the page can name the byte that
//! no URL may hold.

use std::borrow::Cow;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::server::proxy::client_state::response_state::ResponseState;
use crate::server::proxy::http::page;

use super::refused_target::{explanation, refused_byte};

/// How much is kept of a request's beginning: enough for most targets, little beside what an idle connection holds.
const KEPT: usize = 256;

/// An HTTP/1.1 client's stream.
#[derive(Debug)]
pub(super) struct ParseErrorPageStream<T> {
    stream: T,
    responses: Arc<ResponseState>,
    /// What the client sent first when it last sent something and no response was open.
    beginning: [u8; KEPT],
    /// How many bytes of `beginning` that is.
    kept: usize,
}

impl<T: AsyncWrite + Unpin> ParseErrorPageStream<T> {
    pub(super) fn new(stream: T, responses: Arc<ResponseState>) -> Self {
        ParseErrorPageStream { stream, responses, beginning: [0; KEPT], kept: 0 }
    }

    /// The page for an answer of hyper's own. Bytes are that if no response is open or unwritten.
    fn page(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let beginning = &self.beginning[..self.kept];
        (!self.responses.is_unwritten()).then(|| with_body(bytes, beginning)).flatten()
    }

    /// Writes `page` in place of the `length` bytes of the bare head. It is short and the first thing in the socket's
    /// buffer, so it fits, unless the client has stopped reading.
    fn write_page(&mut self, cx: &mut Context<'_>, page: &[u8], length: usize) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.stream).poll_write(cx, page))?;
        Poll::Ready(Ok(length))
    }
}

/// Adds a body to a head without one, which answers the request that begins with `request`.
fn with_body(head: &[u8], request: &[u8]) -> Option<Vec<u8>> {
    let head = std::str::from_utf8(head).ok()?;
    let status = StatusCode::from_bytes(head.strip_prefix("HTTP/1.1 ")?.get(..3)?.as_bytes()).ok()?;
    let why = match status {
        StatusCode::BAD_REQUEST => refused_byte(request)
            .map_or(Cow::Borrowed("The request could not be understood."), |byte| explanation(byte).into()),
        StatusCode::URI_TOO_LONG => "The request's target is too long.".into(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "The request's head is too large.".into(),
        _ => return None,
    };
    let body = page::text(status, &why);
    let (before, after) = head.split_once("content-length: 0\r\n")?;
    let about = "content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\ncache-control: no-store";
    Some(format!("{before}{about}\r\ncontent-length: {}\r\n{after}{body}", body.len()).into_bytes())
}

impl<T: AsyncRead + Unpin> AsyncRead for ParseErrorPageStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if !self.responses.is_unwritten() {
            let new = &buf.filled()[before..];
            let kept = new.len().min(KEPT);
            self.beginning[..kept].copy_from_slice(&new[..kept]);
            self.kept = kept;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ParseErrorPageStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(page) = self.page(buf) {
            return self.write_page(cx, &page, buf.len());
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.responses.bytes_written(written, buf.len());
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
        if let [only] = bufs
            && let Some(page) = self.page(only)
        {
            return self.write_page(cx, &page, only.len());
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.responses.bytes_written(written, bufs.iter().map(|buf| buf.len()).sum());
        Poll::Ready(Ok(written))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const BARE: &[u8] =
        b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\
        date: Sat, 21 Nov 2026 15:25:51 GMT\r\n\r\n";

    /// What arrives at the client when a connection that has written `before` writes `BARE`.
    async fn sent(prepare: impl FnOnce(&ResponseState), before: &[u8]) -> String {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let responses = Arc::new(ResponseState::default());
        let mut stream = ParseErrorPageStream::new(ours, Arc::clone(&responses));
        prepare(&responses);
        stream.write_all(before).await.unwrap();
        stream.write_all(BARE).await.unwrap();
        drop(stream);
        let mut text = String::new();
        theirs.read_to_string(&mut text).await.unwrap();
        text.split_off(before.len())
    }

    #[tokio::test]
    async fn a_bare_head_gets_a_body_and_its_length() {
        let after_a_response = |responses: &ResponseState| {
            responses.request_begins();
            responses.request_ends();
        };
        for text in [sent(|_| {}, b"").await, sent(after_a_response, b"HTTP/1.1 200 OK\r\n\r\n").await] {
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(
                body.contains("The request's head is too large.") && body.contains("the proxy"),
                "{body}"
            );
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            assert_eq!(length.parse(), Ok(body.len()), "{head}");
            assert!(head.ends_with("GMT") && head.contains("connection: close\r\n"), "{head}");
        }
    }

    #[tokio::test]
    async fn bytes_of_a_response_or_a_tunnel_are_unchanged() {
        let bare = String::from_utf8(BARE.to_vec()).unwrap();
        assert_eq!(sent(ResponseState::request_begins, b"").await, bare, "while a request is open");
        let unwritten = |responses: &ResponseState| {
            responses.request_begins();
            responses.request_ends();
        };
        assert_eq!(sent(unwritten, b"").await, bare, "a response that is handed to hyper and not written");
        assert_eq!(sent(ResponseState::request_begins, b"HTTP/1.1 101 \r\n\r\n").await, bare, "a tunnel");
    }
}
