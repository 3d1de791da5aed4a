//! Gets a connection for one request: an open one from the pool, or a new one.
//!
//! HTTP/1.1 has one request at a time on a connection. HTTP/2 has many, so a worker has one connection to a member and
//! makes another only when that one is full.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::Request;
use http::header::HOST;
use http::uri::Scheme as UriScheme;
use hyper_util::rt::TokioIo;

use crate::server::routing::Member;
use registry_client::protocol::Scheme;

use super::connection::UpstreamConnection;
use super::dial::{DialError, Dialer};
use super::http1::Http1Connection;
use super::http2::{self, Http2Connections, Http2Stream, NewHttp2Connection};
use super::pool::{Pool, Taken};
use super::request_body::RequestBody;
use super::tls::{Offer, PooledName, TlsError, dns_name};

/// What a request needs of its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requirements {
    /// The request asks for an upgrade, which HTTP/2 cannot carry.
    pub(crate) is_upgrade: bool,
    /// An open connection turned out to be closed: make a new one.
    pub(crate) must_be_new: bool,
    /// The request can be sent again if the backend closes the connection at that moment.
    pub(crate) is_repeatable: bool,
    /// How long one address of the backend may take to accept a connection.
    pub(crate) patience: Duration,
}

/// A connection for one request.
pub(crate) struct Checkout {
    pub(crate) connection: UpstreamConnection,
    /// It had a request before, and was idle for so long. The backend may have closed it without the proxy knowing yet.
    pub(crate) reused_after: Option<Duration>,
}

/// Why there is no connection to a member.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("HTTP/2 without TLS has no upgrades")]
    NoUpgrade,
    #[error("the connection that others were waiting for failed")]
    SharedFailed,
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Handshake(#[from] hyper::Error),
}

impl ConnectError {
    /// Whether nobody accepts connections at the backend's address.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, ConnectError::Dial(error) if error.is_unreachable())
    }
}

/// Gets a connection to `member` for `request`. Takes at most the time-outs of dialling and of the TLS handshake.
pub(crate) async fn checkout(
    (pool, dialer): (&Pool, &Dialer),
    member: &Member,
    request: &Request<RequestBody>,
    requirements: Requirements,
    now: Instant,
) -> Result<Checkout, ConnectError> {
    let Requirements { is_upgrade, must_be_new, is_repeatable, patience } = requirements;
    if member.backend.scheme() == Scheme::Http {
        let take = || pool.take(member, &None, is_repeatable, now);
        if let Some(taken) = (!must_be_new).then(take).flatten() {
            return Ok(reused(taken));
        }
        // Boxed, because the future is large and seldom needed.
        return Box::pin(connect_plain((pool, dialer), member, patience)).await;
    }
    let name = pooled_name(member, request);
    let connector = Connector { pool, dialer, member, name, must_be_new, is_repeatable, patience, now };
    Box::pin(connector.checkout(is_upgrade)).await
}

fn reused(taken: Taken) -> Checkout {
    Checkout { connection: UpstreamConnection::Http1(taken.connection), reused_after: Some(taken.idle) }
}

fn new(connection: UpstreamConnection) -> Checkout {
    Checkout { connection, reused_after: None }
}

async fn connect_plain(
    (pool, dialer): (&Pool, &Dialer),
    member: &Member,
    patience: Duration,
) -> Result<Checkout, ConnectError> {
    let stream = pool.watch(dialer.connect_within(patience, &member.backend, member.terms.peer).await?);
    Ok(new(UpstreamConnection::Http1(
        Http1Connection::handshake(stream, None, member.load.has_long_heads()).await?,
    )))
}

/// The server name for TLS is the request's host as the backend gets it (SEMANTICS section 3).
fn pooled_name(member: &Member, request: &Request<RequestBody>) -> PooledName {
    if member.backend.scheme() != Scheme::Https {
        return None;
    }
    let host = request.headers().get(HOST)?.to_str().ok()?;
    dns_name(host).map(|name| Rc::from(name.as_ref()))
}

/// Gets a connection that needs TLS, HTTP/2 or both.
struct Connector<'a> {
    pool: &'a Pool,
    dialer: &'a Dialer,
    member: &'a Member,
    name: PooledName,
    must_be_new: bool,
    is_repeatable: bool,
    patience: Duration,
    now: Instant,
}

/// A new connection, by the version that the backend speaks on it.
enum Connected {
    Http1(Http1Connection),
    Http2(NewHttp2Connection),
}

impl Connector<'_> {
    async fn checkout(self, is_upgrade: bool) -> Result<Checkout, ConnectError> {
        let is_h2c = self.member.backend.scheme() == Scheme::H2c;
        if is_h2c && is_upgrade {
            return Err(ConnectError::NoUpgrade);
        }
        let may_be_http2 = is_h2c || self.member.terms.settings.http2 && !is_upgrade;
        let connections = self.pool.http2(self.member.id);
        if may_be_http2 && (is_h2c || !connections.is_http1(self.now)) {
            return self.checkout_http2(&connections).await;
        }
        self.checkout_http1(&connections).await
    }

    async fn checkout_http1(&self, connections: &Http2Connections) -> Result<Checkout, ConnectError> {
        let take = || self.pool.take(self.member, &self.name, self.is_repeatable, self.now);
        if let Some(taken) = (!self.must_be_new).then(take).flatten() {
            return Ok(reused(taken));
        }
        match self.connect(Offer::Http1).await? {
            Connected::Http1(connection) => Ok(new(UpstreamConnection::Http1(connection))),
            Connected::Http2(connection) => Ok(self.add_http2(connections, connection)),
        }
    }

    /// Opens a stream on a connection. Requests that arrive while a connection is being made wait for it, instead of
    /// making one each, and fail if it fails.
    async fn checkout_http2(&self, connections: &Http2Connections) -> Result<Checkout, ConnectError> {
        let begun = Instant::now();
        let stream = |stream: Http2Stream| Checkout {
            connection: UpstreamConnection::Http2(stream),
            reused_after: Some(Duration::ZERO),
        };
        if let Some(open) = (!self.must_be_new).then(|| connections.stream(&self.name)).flatten() {
            return Ok(stream(open));
        }
        let connecting = connections.lock_connecting().await;
        if connections.failed_since(begun) {
            return Err(ConnectError::SharedFailed);
        }
        let is_https = self.member.backend.scheme() == Scheme::Https;
        if is_https && connections.is_http1(begun) {
            drop(connecting);
            return self.checkout_http1(connections).await;
        }
        if !connections.settled(&self.name).await {
            connections.connect_failed(Instant::now());
            return Err(ConnectError::SharedFailed);
        }
        let since = if self.must_be_new { Some(begun) } else { None };
        if let Some(open) = connections.stream_since(&self.name, since) {
            return Ok(stream(open));
        }
        match self.connect(Offer::Http2).await {
            Ok(Connected::Http2(connection)) => Ok(self.add_http2(connections, connection)),
            Ok(Connected::Http1(connection)) => {
                connections.backend_chose_http1(Instant::now());
                Ok(new(UpstreamConnection::Http1(connection)))
            }
            Err(error) => {
                connections.connect_failed(Instant::now());
                Err(error)
            }
        }
    }

    fn add_http2(&self, connections: &Http2Connections, new_connection: NewHttp2Connection) -> Checkout {
        let scheme = match self.member.backend.scheme() {
            Scheme::Https => UriScheme::HTTPS,
            Scheme::Http | Scheme::H2c => UriScheme::HTTP,
        };
        new(UpstreamConnection::Http2(connections.add(new_connection, self.name.clone(), scheme)))
    }

    async fn connect(&self, offer: Offer) -> Result<Connected, ConnectError> {
        let Connector { pool, dialer, member, patience, .. } = self;
        let stream = pool.watch(dialer.connect_within(*patience, &member.backend, member.terms.peer).await?);
        if self.member.backend.scheme() == Scheme::H2c {
            let io = TokioIo::new(stream);
            return Ok(Connected::Http2(http2::handshake(io).await?));
        }
        let name = self.name.as_deref().and_then(dns_name);
        let tls = self.dialer.tls.handshake(stream, &self.member.backend, name, offer).await?;
        if tls.is_http2 {
            let io = TokioIo::new(tls.stream);
            return Ok(Connected::Http2(http2::handshake(io).await?));
        }
        let long_heads = self.member.load.has_long_heads();
        Ok(Connected::Http1(Http1Connection::handshake(tls.stream, self.name.clone(), long_heads).await?))
    }
}
