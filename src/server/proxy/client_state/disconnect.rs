//! Notices that a client is gone while nothing of what it sent is read.
//!
//! hyper notices a disconnect when it reads. It does not read while nobody takes the request's body, nor once it has
//! the next request. The kernel knows at once, whatever is unread, so a duplicate of the socket's descriptor is
//! polled for that alone. (The kernel does not see an orderly close behind more than a receive buffer of unread
//! body.)

use std::future::Future;
use std::io;
use std::net::TcpStream as StdStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Passes a duplicate of the descriptor from the socket, which hyper owns, to whoever waits for a disconnect.
#[derive(Debug, Default)]
pub(crate) struct SocketDuplicate {
    is_requested: AtomicBool,
    duplicate: Mutex<Option<StdStream>>,
}

impl SocketDuplicate {
    /// Duplicates the descriptor if that was requested. The socket calls this in each flush, because hyper flushes
    /// whenever it has polled the request.
    pub(crate) fn provide(&self, socket: &TcpStream, cx: &Context<'_>) {
        if !self.is_requested.load(Ordering::Relaxed) {
            return;
        }
        self.is_requested.store(false, Ordering::Relaxed);
        // Without a duplicate the disconnect is noticed at the next read or write.
        if let Ok(duplicate) = SockRef::from(socket).try_clone() {
            *self.duplicate.lock().unwrap_or_else(PoisonError::into_inner) = Some(duplicate.into());
            cx.waker().wake_by_ref();
        }
    }

    fn take(&self) -> Option<StdStream> {
        self.duplicate.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Waits once for the client to disconnect.
#[derive(Default)]
pub(crate) struct Disconnect {
    is_requested: bool,
    closed: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Disconnect {
    /// Ready, and that only once, when the client has closed its side of the connection or broken it.
    pub(crate) fn poll(&mut self, socket: &SocketDuplicate, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_requested {
            self.is_requested = true;
            socket.is_requested.store(true, Ordering::Relaxed);
        }
        if let Some(duplicate) = socket.take() {
            self.closed = Some(Box::pin(wait_for_close(duplicate)));
        }
        let Some(closed) = &mut self.closed else { return Poll::Pending };
        ready!(closed.as_mut().poll(cx));
        self.closed = None;
        Poll::Ready(())
    }
}

/// Reads nothing: what has arrived is for hyper, which has the other descriptor.
async fn wait_for_close(duplicate: StdStream) {
    let Ok(socket) = TcpStream::from_std(duplicate) else { return std::future::pending().await };
    while let Ok(event) = socket.ready(Interest::READABLE).await {
        if event.is_read_closed() {
            return;
        }
        // Clears the readiness, so that `ready` waits for the next event.
        let _ = socket.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
}
