//! Connections to members: kept ones and new ones, one pool for each worker.
//!
//! HTTP/1.1 has one request at a time on a connection, so idle ones are kept. HTTP/2 has many, so there is one
//! connection to a member, and another only when it is full.

mod hearing;
mod shared;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::future::Either;
use http::header::HOST;
use http::uri::{Authority, Scheme as UriScheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::protocol::Scheme;
use crate::server::routing::{Member, MemberId};

use super::body::Upload;
use super::dial::{DialError, Dialer};
use super::tls::{TlsError, Wanted, dns_name};
use hearing::{Exchange, Hearing};
pub(super) use shared::OnThisThread;
use shared::{Shared, Stream};

/// How long a connection may be idle: Node closes its own after 5 s (SEMANTICS section 9).
const MAX_IDLE: Duration = Duration::from_secs(4);
/// Idle connections that are kept for one member by one worker.
const MAX_IDLE_PER_MEMBER: usize = 256;

/// Kept connections.
#[derive(Default)]
pub(super) struct Pool {
    /// HTTP/1.1: the one used last on top.
    idle: RefCell<HashMap<MemberId, Vec<Idle>, foldhash::fast::RandomState>>,
    /// HTTP/2.
    shared: RefCell<HashMap<MemberId, Rc<Shared>>>,
}

struct Idle {
    sender: Http1,
    since: Instant,
}

/// The name that TLS was made for; `None` for plain text and for addresses. A connection serves no other.
type ServerName = Option<Rc<str>>;

/// A connection that has one request at a time.
pub(super) struct Http1 {
    sender: http1::SendRequest<Upload>,
    name: ServerName,
    work: Work,
    exchange: Arc<Exchange>,
}

/// Who reads and writes on a connection.
enum Work {
    /// Whoever waits for what comes on it. Most requests have no body, so that nothing is to be done for which
    /// nobody waits; and a response costs two changes of task less.
    Here(Pin<Box<dyn Future<Output = ()>>>),
    /// A task of its own, from the first request with a body on: that goes up while nobody takes what comes down.
    Task,
    /// It is closed.
    Over,
}

/// A place for one request.
pub(super) enum Sender {
    Http1(Http1),
    Http2(Stream),
}

/// A connection for one request.
pub(super) struct Upstream {
    pub(super) sender: Sender,
    /// It had a request before, so the backend may have closed it without our knowing yet.
    pub(super) reused: bool,
}

/// Why there is no connection to a member.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("HTTP/2 without TLS has no upgrades")]
    NoUpgrade,
    #[error("the connection that others were waiting for failed")]
    Shared,
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Handshake(#[from] hyper::Error),
}

impl Sender {
    /// Sends `request` and waits for the response's head. Where it was not sent, it is in the error.
    ///
    /// What needs no waiting is done before there is a future, which so does not have to hold the request.
    pub(super) fn send(
        &mut self,
        mut request: Request<Upload>,
        is_upgrade: bool,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>> {
        match self {
            Sender::Http1(http1) => {
                let has_body = !request.body().is_empty();
                if is_upgrade || has_body {
                    http1.give_to_task();
                }
                http1.exchange.begins(has_body);
                let head = http1.sender.try_send_request(request);
                Either::Left(http1.work.until(head))
            }
            Sender::Http2(stream) => {
                make_absolute(&mut request, stream.scheme());
                Either::Right(stream.sender.try_send_request(request))
            }
        }
    }
}

impl Sender {
    /// Does what there is to do on the connection. To be called before its response's body is asked for more.
    pub(super) fn go_on(&mut self, cx: &mut Context<'_>) {
        if let Sender::Http1(http1) = self {
            http1.work.go_on(cx);
        }
    }
}

impl Http1 {
    fn give_to_task(&mut self) {
        if let Work::Here(work) = std::mem::replace(&mut self.work, Work::Task) {
            tokio::task::spawn_local(work);
        }
    }

    /// Finds out whether the backend has closed it, as far as that is known without a system call.
    fn look(&mut self) {
        self.work.go_on(&mut Context::from_waker(Waker::noop()));
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Work {
    /// Works until `done` is.
    async fn until<T>(&mut self, done: impl Future<Output = T>) -> T {
        let mut done = pin!(done);
        poll_fn(|cx| {
            self.go_on(cx);
            done.as_mut().poll(cx)
        })
        .await
    }

    fn go_on(&mut self, cx: &mut Context<'_>) {
        if let Work::Here(work) = self
            && let Poll::Ready(()) = work.as_mut().poll(cx)
        {
            *self = Work::Over;
        }
    }
}

/// HTTP/2 has the host in the target.
fn make_absolute(request: &mut Request<Upload>, scheme: UriScheme) {
    let host = request.headers_mut().remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if authority.is_some() {
        parts.scheme = Some(scheme);
        parts.authority = authority;
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

impl Pool {
    /// An idle connection that is still open, as far as can be known.
    fn take(&self, member: MemberId, name: &ServerName, now: Instant) -> Option<Http1> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&member)?;
        // Nearly always all of a member's connections are for one name.
        while let Some(last) = connections.iter().rposition(|idle| idle.sender.name == *name) {
            let Idle { sender, since } = connections.remove(last);
            let is_ready = sender.sender.is_ready() && !sender.is_closed();
            if now.saturating_duration_since(since) < MAX_IDLE && is_ready {
                return Some(sender);
            }
        }
        None
    }

    /// Keeps a connection whose response is over.
    pub(super) fn put(&self, member: MemberId, sender: Sender, now: Instant) {
        // A stream ends by itself when it is dropped.
        let Sender::Http1(mut sender) = sender else { return };
        if !sender.sender.is_ready() {
            sender.look();
        }
        // One whose task has not noticed yet that the response is over is kept in hope.
        let is_usable = matches!(sender.work, Work::Task) || sender.sender.is_ready();
        if sender.is_closed() || !is_usable {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(member).or_default();
        if connections.len() < MAX_IDLE_PER_MEMBER {
            connections.push(Idle { sender, since: now });
        }
    }

    /// Closes what has been idle for too long, or was closed by the backend.
    pub(super) fn drop_old(&self, now: Instant) {
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain_mut(|idle| {
                idle.sender.look();
                now.saturating_duration_since(idle.since) < MAX_IDLE && !idle.sender.is_closed()
            });
            !connections.is_empty()
        });
        self.shared.borrow_mut().retain(|_, shared| shared.drop_old(now));
    }

    fn shared(&self, member: MemberId) -> Rc<Shared> {
        Rc::clone(self.shared.borrow_mut().entry(member).or_default())
    }
}

/// A place for `request` at `member`: on a kept connection unless it must be `fresh`, else on a new one.
/// Takes at most the times of dialling and of a TLS handshake.
pub(super) async fn obtain(
    (pool, dialer): (&Pool, &Dialer),
    member: &Member,
    request: &Request<Upload>,
    (is_upgrade, fresh): (bool, bool),
    now: Instant,
) -> Result<Upstream, ConnectError> {
    if member.backend.scheme() == Scheme::Http {
        if let Some(kept) = (!fresh).then(|| pool.take(member.id, &None, now)).flatten() {
            return Ok(Upstream { sender: Sender::Http1(kept), reused: true });
        }
        // In a box of its own, because it is seldom needed and large.
        return Box::pin(connect_plain(dialer, member)).await;
    }
    let seeker = Seeker { pool, dialer, member, name: name_for(member, request), fresh, now };
    Box::pin(seeker.obtain(is_upgrade)).await
}

async fn connect_plain(dialer: &Dialer, member: &Member) -> Result<Upstream, ConnectError> {
    let stream = dialer.connect(&member.backend, member.terms.peer).await?;
    let sender = Sender::Http1(http1_over(stream, None).await?);
    Ok(Upstream { sender, reused: false })
}

async fn http1_over<T>(stream: T, name: ServerName) -> Result<Http1, ConnectError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let exchange: Arc<Exchange> = Arc::default();
    let io = TokioIo::new(Hearing::new(stream, Arc::clone(&exchange)));
    // Heads and what little a body has at a time are cheaper to send in one piece.
    let (sender, connection) = http1::Builder::new().writev(false).handshake(io).await?;
    let work = Box::pin(async move {
        // Whoever waits for the response learns of the error.
        let _ = connection.with_upgrades().await;
    });
    Ok(Http1 { sender, name, work: Work::Here(work), exchange })
}

/// SNI is the request's host (SEMANTICS section 3), as the backend is told it.
fn name_for(member: &Member, request: &Request<Upload>) -> ServerName {
    if member.backend.scheme() != Scheme::Https {
        return None;
    }
    let host = request.headers().get(HOST)?.to_str().ok()?;
    dns_name(host).map(|name| Rc::from(name.as_ref()))
}

/// One request that needs TLS, HTTP/2 or both.
struct Seeker<'a> {
    pool: &'a Pool,
    dialer: &'a Dialer,
    member: &'a Member,
    name: ServerName,
    fresh: bool,
    now: Instant,
}

/// A new connection, by what the backend speaks on it.
enum Connected {
    Http1(Http1),
    Http2(http2::SendRequest<Upload>),
}

impl Seeker<'_> {
    async fn obtain(self, is_upgrade: bool) -> Result<Upstream, ConnectError> {
        let is_h2c = self.member.backend.scheme() == Scheme::H2c;
        if is_h2c && is_upgrade {
            return Err(ConnectError::NoUpgrade);
        }
        let may_http2 = is_h2c || self.member.terms.settings.http2 && !is_upgrade;
        let shared = self.pool.shared(self.member.id);
        if may_http2 && (is_h2c || !shared.is_http1(self.now)) {
            return self.multiplexed(&shared).await;
        }
        self.alone(&shared).await
    }

    /// A connection of its own.
    async fn alone(&self, shared: &Shared) -> Result<Upstream, ConnectError> {
        let kept = || self.pool.take(self.member.id, &self.name, self.now);
        if let Some(kept) = (!self.fresh).then(kept).flatten() {
            return Ok(Upstream { sender: Sender::Http1(kept), reused: true });
        }
        match self.connect(Wanted::Http1).await? {
            Connected::Http1(sender) => Ok(Upstream { sender: Sender::Http1(sender), reused: false }),
            Connected::Http2(sender) => Ok(shared.add(sender, self.name.clone(), self.uri_scheme())),
        }
    }

    /// A stream. Requests that come while the connection is being made wait for it instead of making one
    /// each, and fail with it.
    async fn multiplexed(&self, shared: &Shared) -> Result<Upstream, ConnectError> {
        let begun = Instant::now();
        if let Some(stream) = (!self.fresh).then(|| shared.stream(&self.name)).flatten() {
            return Ok(stream);
        }
        let turn = shared.turn().await;
        if shared.failed_since(begun) {
            return Err(ConnectError::Shared);
        }
        let is_https = self.member.backend.scheme() == Scheme::Https;
        if is_https && shared.is_http1(begun) {
            drop(turn);
            return self.alone(shared).await;
        }
        if let Some(stream) = shared.stream_since(&self.name, if self.fresh { Some(begun) } else { None }) {
            return Ok(stream);
        }
        match self.connect(Wanted::Http2).await {
            Ok(Connected::Http2(sender)) => Ok(shared.add(sender, self.name.clone(), self.uri_scheme())),
            Ok(Connected::Http1(sender)) => {
                shared.note_http1(Instant::now());
                Ok(Upstream { sender: Sender::Http1(sender), reused: false })
            }
            Err(error) => {
                shared.note_failure(Instant::now());
                Err(error)
            }
        }
    }

    fn uri_scheme(&self) -> UriScheme {
        match self.member.backend.scheme() {
            Scheme::Https => UriScheme::HTTPS,
            Scheme::Http | Scheme::H2c => UriScheme::HTTP,
        }
    }

    async fn connect(&self, wanted: Wanted) -> Result<Connected, ConnectError> {
        let stream = self.dialer.connect(&self.member.backend, self.member.terms.peer).await?;
        if self.member.backend.scheme() == Scheme::H2c {
            return shared::http2_over::<TokioIo<TcpStream>>(TokioIo::new(stream))
                .await
                .map(Connected::Http2);
        }
        let name = self.name.as_deref().and_then(dns_name);
        let secured = self.dialer.tls.secure(stream, &self.member.backend, name, wanted).await?;
        if secured.is_http2 {
            return shared::http2_over(TokioIo::new(secured.stream)).await.map(Connected::Http2);
        }
        http1_over(secured.stream, self.name.clone()).await.map(Connected::Http1)
    }
}
