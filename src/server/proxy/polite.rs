//! What hyper cannot parse it answers with a bare status line. Here that gets the body that every page of ours has.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::page;

/// What a connection's bytes belong to. Shared with the stream, which hyper owns.
#[derive(Debug, Default)]
pub(super) struct Talk {
    /// There is a request that is not over, or the connection has become a tunnel.
    open: AtomicBool,
    /// There may be bytes of a response that are not written.
    unsent: AtomicBool,
}

impl Talk {
    pub(super) fn request_begins(&self) {
        self.open.store(true, Ordering::Relaxed);
        self.unsent.store(true, Ordering::Relaxed);
    }

    pub(super) fn request_ends(&self) {
        self.open.store(false, Ordering::Relaxed);
    }
}

/// An HTTP/1.1 client's stream.
#[derive(Debug)]
pub(super) struct Polite<T> {
    stream: T,
    talk: Arc<Talk>,
}

impl<T: AsyncWrite + Unpin> Polite<T> {
    pub(super) fn new(stream: T, talk: Arc<Talk>) -> Self {
        Polite { stream, talk }
    }

    /// hyper's own words: nothing else is written while there is no request and nothing left of a response.
    fn refusal(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        (!self.talk.unsent.load(Ordering::Relaxed)).then(|| with_body(bytes)).flatten()
    }

    /// A refusal is short and the first thing in its connection's buffer for a while: it fits, or nobody reads it.
    fn write_refusal(
        &mut self,
        cx: &mut Context<'_>,
        refusal: &[u8],
        asked: usize,
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.stream).poll_write(cx, refusal))?;
        Poll::Ready(Ok(asked))
    }

    /// `count` of `asked` bytes were written.
    fn note(&self, count: usize, asked: usize) {
        if count == asked && !self.talk.open.load(Ordering::Relaxed) {
            self.talk.unsent.store(false, Ordering::Relaxed);
        }
    }
}

/// A head without a body, with one that says what it means.
fn with_body(head: &[u8]) -> Option<Vec<u8>> {
    let head = std::str::from_utf8(head).ok()?;
    let status = StatusCode::from_bytes(head.strip_prefix("HTTP/1.1 ")?.get(..3)?.as_bytes()).ok()?;
    let why = match status {
        StatusCode::BAD_REQUEST => "The request could not be understood.",
        StatusCode::URI_TOO_LONG => "The request's target is too long.",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "The request's head is too large.",
        _ => return None,
    };
    let body = page::text(status, why);
    let (before, after) = head.split_once("content-length: 0\r\n")?;
    let about = "content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\ncache-control: no-store";
    Some(format!("{before}{about}\r\ncontent-length: {}\r\n{after}{body}", body.len()).into_bytes())
}

impl<T: AsyncRead + Unpin> AsyncRead for Polite<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Polite<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(refusal) = self.refusal(buf) {
            return self.write_refusal(cx, &refusal, buf.len());
        }
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.note(count, buf.len());
        Poll::Ready(Ok(count))
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
            && let Some(refusal) = self.refusal(only)
        {
            return self.write_refusal(cx, &refusal, only.len());
        }
        let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.note(count, bufs.iter().map(|buf| buf.len()).sum());
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const BARE: &[u8] =
        b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\
        date: Sat, 21 Nov 2026 15:25:51 GMT\r\n\r\n";

    /// What arrives of `BARE` when a connection that has written `before` writes it.
    async fn sent(prepare: impl FnOnce(&Talk), before: &[u8]) -> String {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let talk = Arc::new(Talk::default());
        let mut polite = Polite::new(ours, Arc::clone(&talk));
        prepare(&talk);
        polite.write_all(before).await.unwrap();
        polite.write_all(BARE).await.unwrap();
        drop(polite);
        let mut text = String::new();
        theirs.read_to_string(&mut text).await.unwrap();
        text.split_off(before.len())
    }

    #[tokio::test]
    async fn a_bare_refusal_gets_a_body_of_the_length_that_it_says() {
        let after_a_response = |talk: &Talk| {
            talk.request_begins();
            talk.request_ends();
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
    async fn a_response_or_a_tunnel_that_looks_like_one_is_left_alone() {
        let bare = String::from_utf8(BARE.to_vec()).unwrap();
        assert_eq!(sent(Talk::request_begins, b"").await, bare, "while there is a request");
        let unwritten = |talk: &Talk| {
            talk.request_begins();
            talk.request_ends();
        };
        assert_eq!(sent(unwritten, b"").await, bare, "a response that is handed over and not written");
        assert_eq!(sent(Talk::request_begins, b"HTTP/1.1 101 \r\n\r\n").await, bare, "a tunnel");
    }
}
