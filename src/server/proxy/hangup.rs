//! Whether a client is gone, while nothing of what it sent is read.
//!
//! hyper notices it when it reads, and it does not read on before somebody takes the request's body, nor past a further
//! request. The kernel knows at once, whatever is unread: a second descriptor of the socket is watched for that alone. (It
//! does not know of an orderly end that stands behind more than a receive buffer's worth of unread body: that is still
//! with the client.)

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

/// Between whoever waits and the socket, which hyper owns.
#[derive(Debug, Default)]
pub(super) struct Lookout {
    wanted: AtomicBool,
    second: Mutex<Option<StdStream>>,
}

impl Lookout {
    /// Hands out a second descriptor if somebody wants one. To be called by the socket whenever it is flushed, which
    /// hyper does after each look at the request.
    pub(super) fn pass_by(&self, socket: &TcpStream, cx: &Context<'_>) {
        if !self.wanted.load(Ordering::Relaxed) {
            return;
        }
        self.wanted.store(false, Ordering::Relaxed);
        // Where there is none to be had, the client's going is noticed when its socket is read or written.
        if let Ok(second) = SockRef::from(socket).try_clone() {
            *self.second.lock().unwrap_or_else(PoisonError::into_inner) = Some(second.into());
            cx.waker().wake_by_ref();
        }
    }

    fn take(&self) -> Option<StdStream> {
        self.second.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// One wait for a client's going.
#[derive(Default)]
pub(super) struct Hangup {
    asked: bool,
    watch: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Hangup {
    /// Ready, and that only once, when the client has closed its side of the connection, or broken it.
    pub(super) fn poll(&mut self, lookout: &Lookout, cx: &mut Context<'_>) -> Poll<()> {
        if !self.asked {
            self.asked = true;
            lookout.wanted.store(true, Ordering::Relaxed);
        }
        if let Some(second) = lookout.take() {
            self.watch = Some(Box::pin(watch(second)));
        }
        let Some(watch) = &mut self.watch else { return Poll::Pending };
        ready!(watch.as_mut().poll(cx));
        self.watch = None;
        Poll::Ready(())
    }
}

/// Reads nothing: what has come is for the descriptor that hyper has.
async fn watch(second: StdStream) {
    let Ok(socket) = TcpStream::from_std(second) else { return std::future::pending().await };
    while let Ok(event) = socket.ready(Interest::READABLE).await {
        if event.is_read_closed() {
            return;
        }
        // The next event is one that has not been yet.
        let _ = socket.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
}
