//! After an upgrade: bytes both ways until both sides are done, or the member leaves.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded as Stream};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::server::routing::Upgraded;

use super::websocket::{Frames, GOING_AWAY, GOING_AWAY_MASKED};

/// How long it may take until both sides have become tunnels after both said that they do.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read at once, in each direction.
const BUFFER: usize = 16 * 1024;
/// How long each step of a farewell may take: the end of a frame, the last words, the other end's answer.
const FAREWELL: Duration = Duration::from_secs(1);

/// An upgraded connection that is about to become one.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) backend: OnUpgrade,
    /// What the two speak can be ended with a close frame.
    pub(super) is_websocket: bool,
    pub(super) counted: Upgraded,
    /// Tells when members have left.
    pub(super) departures: watch::Receiver<()>,
}

impl Tunnel {
    /// Copies until both sides have closed or the member has left. TCP keepalive ends it when a side is
    /// silently gone.
    pub(super) fn spawn(self) {
        tokio::task::spawn_local(self.run());
    }

    async fn run(mut self) {
        let both = async { tokio::try_join!(self.client, self.backend) };
        let (client, backend) = match timeout(UPGRADE_TIMEOUT, both).await {
            Ok(Ok(both)) => both,
            Ok(Err(error)) => return tracing::debug!(%error, "an upgrade came to nothing"),
            Err(_) => return tracing::debug!("an upgrade came to nothing in time"),
        };
        let (down, up) = (Direction::default(), Direction::default());
        let (mut client, mut backend) = (Side::new(client, &down), Side::new(backend, &up));
        {
            let copying = copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER, BUFFER);
            let mut copying = pin!(copying);
            tokio::select! {
                biased;
                copied = &mut copying => return log(&copied),
                () = departure(&self.counted, &mut self.departures) => {}
            }
            // In the middle of a frame there is nothing to be said.
            let between = poll_fn(|cx| {
                let over = copying.as_mut().poll(cx).is_ready();
                let waits = self.is_websocket && !(down.is_between() && up.is_between());
                if over || !waits { Poll::Ready(()) } else { Poll::Pending }
            });
            let _ = timeout(FAREWELL, between).await;
        }
        let (to_client, to_backend) = match self.is_websocket {
            true => (GOING_AWAY.as_slice(), GOING_AWAY_MASKED.as_slice()),
            false => ([].as_slice(), [].as_slice()),
        };
        tokio::join!(client.farewell(to_client), backend.farewell(to_backend));
        tracing::debug!("an upgraded connection was closed: its backend left");
    }
}

fn log(copied: &io::Result<(u64, u64)>) {
    match copied {
        Ok((up, down)) => tracing::debug!(up, down, "an upgraded connection ended"),
        Err(error) => tracing::debug!(%error, "an upgraded connection broke"),
    }
}

/// Waits until the member has left.
async fn departure(counted: &Upgraded, departures: &mut watch::Receiver<()>) {
    while !counted.has_left() {
        if departures.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Where the frames in one direction are.
#[derive(Default)]
struct Direction(RefCell<Frames>);

impl Direction {
    fn is_between(&self) -> bool {
        self.0.borrow().between()
    }
}

/// One side of a tunnel. It follows what is written to it.
struct Side<'a> {
    stream: TokioIo<Stream>,
    direction: &'a Direction,
}

impl<'a> Side<'a> {
    fn new(stream: Stream, direction: &'a Direction) -> Self {
        Side { stream: TokioIo::new(stream), direction }
    }

    /// Says the last words, if they can be understood here, and closes. What the other end has to say still is
    /// read, because closing with something unread would be a reset, which can overtake them.
    async fn farewell(mut self, words: &[u8]) {
        let between = self.direction.is_between();
        let say = async {
            if between {
                self.stream.write_all(words).await?;
            }
            self.stream.shutdown().await
        };
        if !matches!(timeout(FAREWELL, say).await, Ok(Ok(()))) {
            return;
        }
        let mut unread = [0; 1024];
        let listen = async { while matches!(self.stream.read(&mut unread).await, Ok(1..)) {} };
        let _ = timeout(FAREWELL, listen).await;
    }
}

impl AsyncRead for Side<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Side<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = written {
            self.direction.0.borrow_mut().pass(&buf[..count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
