//! A connection to a backend for one request, in either version of HTTP.

use std::future::Future;
use std::task::Context;

use futures_util::future::Either;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::http1::Http1Connection;
use super::http2::Http2Stream;
use super::request_body::RequestBody;

/// A connection, or one stream of a connection, that a request has to itself until its response is over.
pub(crate) enum UpstreamConnection {
    Http1(Http1Connection),
    Http2(Http2Stream),
}

impl UpstreamConnection {
    /// Sends `request` and waits for the head of the response. An error holds the request if none of it was sent.
    ///
    /// The request is handed to hyper before the future exists, so that the future need not hold it.
    pub(crate) fn send(
        &mut self,
        request: Request<RequestBody>,
        is_upgrade: bool,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> {
        match self {
            UpstreamConnection::Http1(connection) => Either::Left(connection.send(request, is_upgrade)),
            UpstreamConnection::Http2(stream) => Either::Right(stream.send(request)),
        }
    }

    /// Whether a response's head may have many lines.
    pub(crate) fn takes_long_heads(&self) -> bool {
        match self {
            UpstreamConnection::Http1(connection) => connection.takes_long_heads(),
            UpstreamConnection::Http2(_) => true,
        }
    }

    /// Whether the backend can say that it has not looked at a request.
    pub(crate) fn can_refuse(&self) -> bool {
        matches!(self, UpstreamConnection::Http2(_))
    }

    /// Whether the next response's body is read in small parts, for a client of HTTP/2. HTTP/2 has small frames anyway.
    pub(crate) fn read_in_parts(&mut self, in_parts: bool) {
        if let UpstreamConnection::Http1(connection) = self {
            connection.read_in_parts(in_parts);
        }
    }

    /// Reads and writes what the connection has pending. Must be called before its response's body is polled.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if let UpstreamConnection::Http1(connection) = self {
            connection.drive(cx);
        }
    }
}
