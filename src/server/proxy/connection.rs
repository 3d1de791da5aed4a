//! One client connection: hyper does the protocol, and this is what is watched besides.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::alarm::Alarm;
use super::exchange;
use super::forwarded::Forwarding;
use super::hangup::{Hangup, Lookout};
use super::polite::{Polite, Talk};
use super::tls::ClientTls;
use super::upstream::OnThisThread;
use super::worker::{Stopping, Worker};

/// Requests of one HTTP/2 client at once.
const MAX_STREAMS: u32 = 128;
/// The largest request head that is taken over HTTP/2.
const MAX_HEAD: u32 = 64 * 1024;
/// Of each response so much is taken before an HTTP/2 client has taken what came before.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// An HTTP/2 client may take a part of a response as slowly as that: so many times as long as a socket may be
/// blocked, because a part is larger than what a socket takes at a time.
const STALLED: u32 = 4;
/// An HTTP/2 client that is silent for this long is asked for a sign of life …
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// … and is gone if there is none for this long.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// What is known of a client connection while it is open.
pub(super) struct ClientConnection {
    pub(super) worker: Rc<Worker>,
    pub(super) forwarding: Forwarding,
    /// It speaks TLS to us.
    pub(super) is_tls: bool,
    socket: Arc<SocketState>,
    talk: Arc<Talk>,
    /// Requests that are not over.
    requests: Cell<u32>,
    had_request: Cell<bool>,
    /// Since when there is no request, by the worker's clock.
    quiet_since: Cell<u64>,
    expired: Cell<Expired>,
    waker: RefCell<Option<Waker>>,
    /// The timer of the last request.
    alarm: Cell<Alarm>,
    /// It speaks HTTP/2, where a client may leave some responses unread and go on with others.
    multiplexed: Cell<bool>,
    /// Responses of which a part was handed over and no more was asked for.
    untaken: Cell<u32>,
    /// When a part was asked for last, by the worker's clock.
    asked_at: Cell<u64>,
}

/// Whether the client owes us something for too long. It is told so first, which lets an HTTP/2 client know
/// which of its requests were taken; when we look again, the connection is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expired {
    No,
    Now,
    Long,
}

impl ClientConnection {
    pub(super) fn new(worker: Rc<Worker>, peer: IpAddr, is_tls: bool) -> Self {
        ClientConnection {
            forwarding: Forwarding::new(peer, &worker.shared.config.trusted_proxies, is_tls),
            is_tls,
            socket: Arc::new(SocketState::new()),
            talk: Arc::default(),
            requests: Cell::new(0),
            had_request: Cell::new(false),
            quiet_since: Cell::new(worker.millis()),
            expired: Cell::new(Expired::No),
            waker: RefCell::new(None),
            alarm: Cell::default(),
            multiplexed: Cell::new(false),
            untaken: Cell::new(0),
            asked_at: Cell::new(worker.millis()),
            worker,
        }
    }

    pub(super) fn request_begins(&self) {
        self.requests.set(self.requests.get() + 1);
        self.had_request.set(true);
        self.talk.request_begins();
    }

    /// The timer that the last request left. An HTTP/2 client's requests are many at once, and some get a new one.
    pub(super) fn take_alarm(&self) -> Alarm {
        self.alarm.take()
    }

    /// `is_tunnel`: its connection is none of HTTP any more.
    pub(super) fn request_ends(&self, now: Instant, alarm: Alarm, is_tunnel: bool) {
        if !is_tunnel {
            self.talk.request_ends();
        }
        self.requests.set(self.requests.get() - 1);
        self.quiet_since.set(self.worker.millis_at(now));
        self.alarm.set(alarm);
    }

    /// A part of a response was handed over; `untaken` remembers that it is the client's turn.
    pub(super) fn hands_over(&self, untaken: &mut bool) {
        if !std::mem::replace(untaken, true) {
            self.untaken.set(self.untaken.get() + 1);
        }
    }

    /// The client has taken that part, or its request is over.
    pub(super) fn takes(&self, untaken: &mut bool) {
        if std::mem::take(untaken) {
            self.untaken.set(self.untaken.get() - 1);
            self.asked_at.set(self.worker.last_tick());
        }
    }

    /// Whether an HTTP/2 client has taken nothing of any response for so long that it has stopped. Its socket may be
    /// as busy as ever: what it closes are windows.
    fn has_stopped(&self, now: u64) -> bool {
        let all = self.requests.get() > 0 && self.untaken.get() >= self.requests.get();
        let limit = STALLED * self.worker.shared.config.write_timeout;
        self.multiplexed.get() && all && now.saturating_sub(self.asked_at.get()) > limit.as_millis() as u64
    }

    /// Ends the connection if the client owes us something for too long: the head of a request, or the
    /// reading of what we sent.
    pub(super) fn expire(&self, now: u64) {
        let config = &self.worker.shared.config;
        let overdue = match self.socket.blocked_for() {
            Some(blocked) => blocked > config.write_timeout.as_millis() as u64,
            None if self.has_stopped(now) => true,
            None => {
                let quiet = now.saturating_sub(self.quiet_since.get());
                self.requests.get() == 0 && quiet > config.header_timeout.as_millis() as u64
            }
        };
        if overdue {
            let before = self.expired.get();
            self.expired.set(if before == Expired::No { Expired::Now } else { Expired::Long });
            self.wake();
        }
    }

    /// Ends the connection with a reset, for a client that would take an orderly close for the end of a
    /// response that is only a part.
    pub(super) fn reset(&self) {
        self.socket.reset.store(true, Ordering::Relaxed);
    }

    /// Ready once the client is gone, even if hyper cannot know because nothing is read. With HTTP/2 it reads always.
    pub(super) fn poll_hangup(&self, hangup: &mut Hangup, cx: &mut Context<'_>) -> Poll<()> {
        if self.multiplexed.get() { Poll::Pending } else { hangup.poll(&self.socket.lookout, cx) }
    }

    /// Ends the connection and what it waits for: there is nobody at the other end.
    pub(super) fn drop_all(&self) {
        self.expired.set(Expired::Long);
        self.wake();
    }

    /// Lets the connection look at what it is told.
    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn listen(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    fn should_leave(&self) -> bool {
        if self.expired.get() != Expired::No {
            return true;
        }
        match self.worker.stopping() {
            Stopping::No => false,
            Stopping::Used => self.had_request.get(),
            Stopping::All => true,
        }
    }
}

/// Serves requests until either side ends the connection, it expires, or it is upgraded.
pub(super) async fn run(stream: TcpStream, client: Rc<ClientConnection>) {
    let io = ClientIo { stream, socket: Arc::clone(&client.socket) };
    match client.worker.shared.secure.as_ref().filter(|_| client.is_tls) {
        None => serve_http1(io, &client).await,
        // In a box, so that plain connections do not carry what TLS needs.
        Some(secure) => Box::pin(serve_tls(io, &secure.tls, &client)).await,
    }
}

async fn serve_tls(io: ClientIo, tls: &ClientTls, client: &Rc<ClientConnection>) {
    let mut handshake = pin!(tls.accept(io));
    let accepted = poll_fn(|cx| {
        client.listen(cx);
        match handshake.as_mut().poll(cx) {
            Poll::Pending if client.should_leave() => Poll::Ready(None),
            polled => polled,
        }
    });
    match accepted.await {
        None => {}
        Some((stream, true)) => serve_http2(TokioIo::new(stream), client).await,
        Some((stream, false)) => serve_http1(stream, client).await,
    }
}

async fn serve_http1<T>(stream: T, client: &Rc<ClientConnection>)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let io = TokioIo::new(Polite::new(stream, Arc::clone(&client.talk)));
    let serving = Rc::clone(client);
    let service = service_fn(move |request| exchange::serve(Rc::clone(&serving), request));
    let connection = pin!(http().serve_connection(io, service).with_upgrades());
    drive(connection, client, |connection| connection.graceful_shutdown()).await;
}

async fn serve_http2<T>(io: T, client: &Rc<ClientConnection>)
where
    T: Read + Write + Unpin + 'static,
{
    client.multiplexed.set(true);
    let serving = Rc::clone(client);
    let service = service_fn(move |request| exchange::serve(Rc::clone(&serving), request));
    let connection = pin!(http2().serve_connection(io, service));
    drive(connection, client, |connection| connection.graceful_shutdown()).await;
}

/// Lets hyper work until the connection is over, and tells it when to end.
async fn drive<C: Future>(mut connection: Pin<&mut C>, client: &ClientConnection, leave: fn(Pin<&mut C>)) {
    let mut told_to_leave = false;
    poll_fn(|cx| {
        client.listen(cx);
        if client.expired.get() == Expired::Long {
            return Poll::Ready(());
        }
        let mut polled = connection.as_mut().poll(cx);
        // After the poll: a request that has arrived already is to be answered.
        if polled.is_pending() && !told_to_leave && client.should_leave() {
            told_to_leave = true;
            leave(connection.as_mut());
            polled = connection.as_mut().poll(cx);
        }
        // What went wrong on a client's connection is the client's affair, or was said in the record.
        polled.map(|_| ())
    })
    .await;
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    // One timer for all connections of a worker takes the place of hyper's, which is one for each request.
    http.header_read_timeout(None);
    http
}

fn http2() -> http2::Builder<OnThisThread> {
    let mut http = http2::Builder::new(OnThisThread);
    http.timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .max_send_buf_size(MAX_SEND_BUFFER);
    http
}

/// What is shared with the socket, which hyper owns and wants to be able to send elsewhere.
struct SocketState {
    epoch: Instant,
    /// Since when the client has not read what it was sent: milliseconds since `epoch`, plus one; 0: it
    /// reads.
    blocked_since: AtomicU64,
    /// End with a reset.
    reset: AtomicBool,
    lookout: Lookout,
}

impl SocketState {
    fn new() -> Self {
        SocketState {
            epoch: Instant::now(),
            blocked_since: AtomicU64::new(0),
            reset: AtomicBool::new(false),
            lookout: Lookout::default(),
        }
    }

    fn note(&self, blocked: bool) {
        let before = self.blocked_since.load(Ordering::Relaxed);
        match (before, blocked) {
            (0, true) => self.blocked_since.store(self.millis() + 1, Ordering::Relaxed),
            (0, false) | (_, true) => {}
            (_, false) => self.blocked_since.store(0, Ordering::Relaxed),
        }
    }

    fn blocked_for(&self) -> Option<u64> {
        let since = self.blocked_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.millis().saturating_sub(since))
    }

    fn millis(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}

/// The client's socket. It notes whether the client reads.
struct ClientIo {
    stream: TcpStream,
    socket: Arc<SocketState>,
}

impl Drop for ClientIo {
    fn drop(&mut self) {
        if self.socket.reset.load(Ordering::Relaxed) {
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.socket.note(polled.is_pending());
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.lookout.pass_by(&self.stream, cx);
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
        self.socket.note(polled.is_pending());
        polled
    }
}
