//! The state that a client connection shares with the requests on it, and when it has to close.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::server::proxy::buffered::ConnectionBuffer;
use crate::server::proxy::context::{Stopping, WorkerContext};
use crate::server::proxy::http::forwarded::Forwarding;

use super::disconnect::Disconnect;
use super::response_state::ResponseState;
use super::socket_state::SocketState;
use super::timer::Timer;

/// How many write time-outs an HTTP/2 client may take to read a part of a response: a part is larger than what a socket
/// takes at once.
const HTTP2_READ_FACTOR: u32 = 4;

/// One open client connection.
pub(crate) struct ClientConnection {
    pub(crate) context: Rc<WorkerContext>,
    pub(crate) forwarding: Forwarding,
    /// The client uses TLS.
    pub(crate) is_tls: bool,
    pub(crate) socket: Arc<SocketState>,
    pub(crate) responses: Arc<ResponseState>,
    /// Requests that are not over.
    open_requests: Cell<u32>,
    had_request: Cell<bool>,
    /// Since when there has been no request, by the worker's clock.
    idle_since: Cell<u64>,
    closing: Cell<Closing>,
    /// Wakes the task that drives the connection.
    waker: RefCell<Option<Waker>>,
    /// The timer of the last request, for the next one.
    timer: Cell<Timer>,
    /// It uses HTTP/2, where a client may leave some responses unread and go on with others.
    http2: OnceCell<Arc<ConnectionBuffer>>,
    /// Responses of which hyper has a part and has not asked for more.
    unread_responses: Cell<u32>,
    /// When hyper last asked for a part of a response, by the worker's clock.
    last_read: Cell<u64>,
}

/// Whether a time-out closes the connection. The first check that finds it overdue closes it gracefully, which tells an
/// HTTP/2 client which of its requests were accepted; the next check cuts it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    Gracefully,
    Now,
}

impl ClientConnection {
    pub(crate) fn new(context: Rc<WorkerContext>, peer: IpAddr, is_tls: bool) -> Self {
        let forwarding = Forwarding::new(peer, &context.proxy.config.trusted_proxies, is_tls);
        if let Some(address) = forwarding.direct_peer() {
            context.shared_addresses.connection_opened(address);
        }
        ClientConnection {
            forwarding,
            is_tls,
            socket: Arc::new(SocketState::new()),
            responses: Arc::default(),
            open_requests: Cell::new(0),
            had_request: Cell::new(false),
            idle_since: Cell::new(context.clock.now()),
            closing: Cell::new(Closing::No),
            waker: RefCell::new(None),
            timer: Cell::default(),
            http2: OnceCell::new(),
            unread_responses: Cell::new(0),
            last_read: Cell::new(context.clock.now()),
            context,
        }
    }

    pub(crate) fn request_begins(&self) {
        self.open_requests.set(self.open_requests.get() + 1);
        self.had_request.set(true);
        self.responses.request_begins();
    }

    /// Takes the timer that the last request left. Concurrent requests of an HTTP/2 client get new ones.
    pub(crate) fn take_timer(&self) -> Timer {
        self.timer.take()
    }

    /// `is_tunnel`: the connection carries no more HTTP.
    pub(crate) fn request_ends(&self, now: Instant, timer: Timer, is_tunnel: bool) {
        if !is_tunnel {
            self.responses.request_ends();
        }
        self.open_requests.set(self.open_requests.get() - 1);
        self.idle_since.set(self.context.clock.at(now));
        self.timer.set(timer);
    }

    /// hyper has a part of a response. `is_unread` is the response's own flag.
    pub(crate) fn part_sent(&self, is_unread: &mut bool) {
        if !std::mem::replace(is_unread, true) {
            self.unread_responses.set(self.unread_responses.get() + 1);
        }
    }

    /// hyper asks for more of a response, or the request is over.
    pub(crate) fn part_read(&self, is_unread: &mut bool) {
        if std::mem::take(is_unread) {
            self.unread_responses.set(self.unread_responses.get() - 1);
            self.last_read.set(self.context.clock.last_tick());
        }
    }

    /// Makes the connection close with a reset, for an HTTP/1.0 client that would take an orderly close for the end of
    /// a response that is incomplete.
    pub(crate) fn reset(&self) {
        self.socket.reset_on_close();
    }

    /// Ready when the client has disconnected. Over HTTP/2 always pending, because hyper reads at any time and notices
    /// it by itself.
    pub(crate) fn poll_disconnect(&self, disconnect: &mut Disconnect, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_http2() { Poll::Pending } else { disconnect.poll(&self.socket.duplicate, cx) }
    }

    /// Closes the connection at once, with all its requests.
    pub(crate) fn abort(&self) {
        self.closing.set(Closing::Now);
        self.wake();
    }

    /// Starts to close the connection if the client has taken too long to send a request's head or to read a response.
    /// `now` is the worker's clock.
    pub(crate) fn check_timeouts(&self, now: u64) {
        let config = &self.context.proxy.config;
        let is_overdue = match self.socket.blocked_for() {
            Some(blocked) => blocked > config.write_timeout.as_millis() as u64,
            None if self.reads_nothing(now) => true,
            None => {
                let idle = now.saturating_sub(self.idle_since.get());
                self.open_requests.get() == 0 && idle > config.header_timeout.as_millis() as u64
            }
        };
        if is_overdue {
            let first = self.closing.get() == Closing::No;
            self.closing.set(if first { Closing::Gracefully } else { Closing::Now });
            self.wake();
        }
    }

    /// Whether an HTTP/2 client has stopped reading all of its responses. Its socket may still be busy, because the
    /// client closes the windows of its streams.
    fn reads_nothing(&self, now: u64) -> bool {
        let requests = self.open_requests.get();
        let all_unread = requests > 0 && self.unread_responses.get() >= requests;
        let limit = HTTP2_READ_FACTOR * self.context.proxy.config.write_timeout;
        let since = now.saturating_sub(self.last_read.get());
        self.is_http2() && all_unread && since > limit.as_millis() as u64
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.http2.get().is_some()
    }

    pub(crate) fn set_http2(&self) {
        self.http2.get_or_init(|| self.context.proxy.buffered.connection());
    }

    /// Counts what the client leaves unread, if it uses HTTP/2.
    pub(crate) fn buffer(&self) -> Option<Arc<ConnectionBuffer>> {
        self.http2.get().cloned()
    }

    /// Whether the connection is to be cut off.
    pub(crate) fn must_close_now(&self) -> bool {
        self.closing.get() == Closing::Now || self.http2.get().is_some_and(|buffer| buffer.is_cut_off())
    }

    /// Whether the connection is to end after its current requests.
    pub(crate) fn should_close(&self) -> bool {
        if self.closing.get() != Closing::No {
            return true;
        }
        match self.context.stopping() {
            Stopping::No => false,
            Stopping::Used => self.had_request.get(),
            Stopping::All => true,
        }
    }

    /// Wakes the task that drives the connection, so that it looks at this state again.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Makes [`ClientConnection::wake`] wake the current task.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        if let Some(buffer) = self.http2.get() {
            buffer.register(cx);
        }
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        if let Some(address) = self.forwarding.direct_peer() {
            self.context.shared_addresses.connection_closed(address);
        }
    }
}
