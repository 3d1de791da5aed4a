//! HTTP/1.1 connections to backends: one request at a time.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::server::proxy::http::hop_by_hop::name_te;

use super::early_response::{EarlyResponseStream, UploadState};
use super::request_body::RequestBody;
use super::tls::PooledName;

/// How many lines a response's head may have. hyper makes room for all of them for each response, so a connection takes only
/// hyper's 100 until its backend has exceeded them.
const MAX_LINES: usize = 1_000;

/// How responses of HTTP/1.1 are read: as RFC 9112 section 5 has a proxy mend them. hyper removes blanks behind a
/// field's name, and makes one line of a folded one.
pub(crate) fn builder(takes_long_heads: bool) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true);
    if takes_long_heads {
        builder.max_headers(MAX_LINES);
    }
    builder
}

/// A connection that has one request at a time.
pub(crate) struct Http1Connection {
    sender: http1::SendRequest<RequestBody>,
    name: PooledName,
    takes_long_heads: bool,
    driver: Driver,
    upload: Arc<UploadState>,
}

/// Who polls hyper's connection future, which reads and writes the socket.
enum Driver {
    /// The task that waits for the response. Most requests have no body, so nothing happens on the connection that this
    /// task does not wait for, and a response costs two task switches less.
    Inline(Pin<Box<dyn Future<Output = ()>>>),
    /// A task of its own, from the first request with a body on: a body is sent even while nobody reads the response.
    Task,
    /// Nobody: the connection is closed.
    Closed,
}

impl Http1Connection {
    /// `takes_long_heads`: see [`MAX_LINES`].
    pub(super) async fn handshake<T>(
        stream: T,
        name: PooledName,
        takes_long_heads: bool,
    ) -> hyper::Result<Self>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let upload = Arc::new(UploadState::default());
        let io = TokioIo::new(EarlyResponseStream::new(stream, Arc::clone(&upload)));
        // Copying a head and a small body into one buffer is cheaper than a vectored write.
        let (sender, connection) = builder(takes_long_heads).writev(false).handshake(io).await?;
        let driver = Box::pin(async move {
            // The request's own future returns the error.
            let _ = connection.with_upgrades().await;
        });
        Ok(Http1Connection { sender, name, takes_long_heads, driver: Driver::Inline(driver), upload })
    }

    pub(super) fn send(
        &mut self,
        mut request: Request<RequestBody>,
        is_upgrade: bool,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> {
        let has_body = !request.body().is_empty();
        if is_upgrade || has_body {
            self.driver.move_to_task();
        }
        self.upload.request_begins(has_body);
        name_te(request.headers_mut());
        let head = self.sender.try_send_request(request);
        self.driver.drive_until(head)
    }

    pub(super) fn read_in_parts(&self, in_parts: bool) {
        self.upload.read_in_parts(in_parts);
    }

    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        self.driver.drive(cx);
    }

    /// Notices that the backend has closed the connection, as far as the runtime knows it already.
    pub(super) fn check(&mut self) {
        self.driver.drive(&mut Context::from_waker(Waker::noop()));
    }

    /// Whether another request can be sent now.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether a task of its own may still be about to finish the last response.
    pub(super) fn has_task(&self) -> bool {
        matches!(self.driver, Driver::Task)
    }

    pub(super) fn takes_long_heads(&self) -> bool {
        self.takes_long_heads
    }

    pub(super) fn name(&self) -> &PooledName {
        &self.name
    }
}

impl Driver {
    fn move_to_task(&mut self) {
        if let Driver::Inline(connection) = std::mem::replace(self, Driver::Task) {
            tokio::task::spawn_local(connection);
        }
    }

    async fn drive_until<T>(&mut self, done: impl Future<Output = T>) -> T {
        let mut done = pin!(done);
        poll_fn(|cx| {
            self.drive(cx);
            done.as_mut().poll(cx)
        })
        .await
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Driver::Inline(connection) = self
            && let Poll::Ready(()) = connection.as_mut().poll(cx)
        {
            *self = Driver::Closed;
        }
    }
}
