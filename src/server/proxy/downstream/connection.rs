//! Drives one client connection: hyper speaks the protocol, this watches over it.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::proxy::local_executor::LocalExecutor;

use super::parse_error_page::ParseErrorPageStream;
use super::socket::ClientSocket;
use super::tls::{Accepted, ClientTls};

/// Concurrent requests of one HTTP/2 client.
const MAX_STREAMS: u32 = 128;
/// The largest request head that is accepted over HTTP/2, in bytes.
const MAX_HEAD: u32 = 64 * 1024;
/// How many bytes of each response hyper buffers for an HTTP/2 client that reads slowly.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// How long an HTTP/2 client may be silent before it gets a PING.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long the client may take to answer a PING before the connection is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves requests until either side ends the connection, a time-out closes it, or it is upgraded. With `tls` it begins
/// with a handshake.
pub(crate) async fn serve<S, B>(
    stream: TcpStream,
    client: Rc<ClientConnection>,
    tls: Option<&ClientTls>,
    service: S,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: 'static,
    B: Body<Data = Bytes, Error: Error + Send + Sync> + 'static,
{
    let socket = ClientSocket::new(stream, Arc::clone(&client.socket));
    match tls {
        None => serve_plain(socket, &client, service).await,
        // Boxed, so that plain connections do not hold the memory that TLS needs.
        Some(tls) => Box::pin(serve_tls(socket, tls, &client, service)).await,
    }
}

async fn serve_plain<S, B>(mut socket: ClientSocket, client: &Rc<ClientConnection>, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: 'static,
    B: Body<Data = Bytes, Error: Error + Send + Sync> + 'static,
{
    let is_http2 = poll_fn(|cx| {
        client.register(cx);
        match socket.poll_is_http2(cx) {
            Poll::Pending if client.should_close() => Poll::Ready(None),
            polled => polled.map(Some),
        }
    });
    match is_http2.await {
        None => {}
        // Boxed, so that other plain connections do not hold the memory that it needs.
        Some(true) => Box::pin(serve_http2(TokioIo::new(socket), client, service)).await,
        Some(false) => serve_http1(socket, client, service).await,
    }
}

async fn serve_tls<S, B>(socket: ClientSocket, tls: &ClientTls, client: &Rc<ClientConnection>, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: 'static,
    B: Body<Data = Bytes, Error: Error + Send + Sync> + 'static,
{
    let mut handshake = pin!(tls.accept(socket));
    let accepted = poll_fn(|cx| {
        client.register(cx);
        match handshake.as_mut().poll(cx) {
            Poll::Pending if client.should_close() => Poll::Ready(None),
            polled => polled,
        }
    });
    match accepted.await {
        None => {}
        Some(Accepted { stream, is_http2: true }) => {
            serve_http2(TokioIo::new(stream), client, service).await;
        }
        Some(Accepted { stream, is_http2: false }) => serve_http1(stream, client, service).await,
    }
}

async fn serve_http1<T, S, B>(stream: T, client: &Rc<ClientConnection>, service: S)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error: Error + Send + Sync> + 'static,
{
    let io = TokioIo::new(ParseErrorPageStream::new(stream, Arc::clone(&client.responses)));
    let connection = pin!(http1_builder().serve_connection(io, service).with_upgrades());
    drive(connection, client, |connection| connection.graceful_shutdown()).await;
}

async fn serve_http2<T, S, B>(io: T, client: &Rc<ClientConnection>, service: S)
where
    T: Read + Write + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: 'static,
    B: Body<Data = Bytes, Error: Error + Send + Sync> + 'static,
{
    client.set_http2();
    let connection = pin!(http2_builder().serve_connection(io, service));
    drive(connection, client, |connection| connection.graceful_shutdown()).await;
}

/// Polls hyper until the connection is over, and shuts it down when the client's state says so.
async fn drive<C: Future>(
    mut connection: Pin<&mut C>,
    client: &ClientConnection,
    shut_down_gracefully: fn(Pin<&mut C>),
) {
    let mut is_shutting_down = false;
    poll_fn(|cx| {
        client.register(cx);
        if client.must_close_now() {
            return Poll::Ready(());
        }
        let mut polled = connection.as_mut().poll(cx);
        // After the poll, so that a request that has arrived already is answered.
        if polled.is_pending() && !is_shutting_down && client.should_close() {
            is_shutting_down = true;
            shut_down_gracefully(connection.as_mut());
            polled = connection.as_mut().poll(cx);
        }
        // An error concerns this client only, or the request's record has it.
        polled.map(|_| ())
    })
    .await;
}

fn http1_builder() -> http1::Builder {
    let mut http = http1::Builder::new();
    // The worker checks all of its connections with one timer. hyper's would be one for each request.
    http.header_read_timeout(None);
    http
}

fn http2_builder() -> http2::Builder<LocalExecutor> {
    let mut http = http2::Builder::new(LocalExecutor);
    http.timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .max_send_buf_size(MAX_SEND_BUFFER);
    http
}
