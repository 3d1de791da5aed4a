//! Copies bytes both ways after an upgrade, until both sides have closed or the member leaves.

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

use crate::server::proxy::http::websocket::{FrameTracker, GOING_AWAY, GOING_AWAY_MASKED};

/// How long hyper may take to hand out both connections after the heads of the upgrade.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// The size of the buffer for each direction, in bytes.
const BUFFER: usize = 16 * 1024;
/// How long each step of a close may take: the end of the current frame, writing the close frame, the peer's close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// An upgrade that client and backend have agreed on.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) backend: OnUpgrade,
    /// The protocol has close frames.
    pub(super) is_websocket: bool,
    /// Counts the connection at its member.
    pub(super) upgraded: Upgraded,
    /// Changes when any member leaves.
    pub(super) departures: watch::Receiver<()>,
}

impl Tunnel {
    /// Copies in a task of its own. TCP keepalive ends it if a side is gone without a close.
    pub(super) fn spawn(self) {
        tokio::task::spawn_local(self.run());
    }

    async fn run(mut self) {
        let both = async { tokio::try_join!(self.client, self.backend) };
        let (client, backend) = match timeout(UPGRADE_TIMEOUT, both).await {
            Ok(Ok(both)) => both,
            Ok(Err(error)) => return tracing::debug!(%error, "an upgrade failed"),
            Err(_) => return tracing::debug!("an upgrade timed out"),
        };
        let (down, up) = (Direction::default(), Direction::default());
        let (mut client, mut backend) = (Side::new(client, &down), Side::new(backend, &up));
        {
            let copying = copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER, BUFFER);
            let mut copying = pin!(copying);
            tokio::select! {
                biased;
                copied = &mut copying => return log_end(&copied),
                () = member_left(&self.upgraded, &mut self.departures) => {}
            }
            // A close frame can be sent only between two frames.
            let between_frames = poll_fn(|cx| {
                let is_over = copying.as_mut().poll(cx).is_ready();
                let is_within = self.is_websocket && !(down.is_between_frames() && up.is_between_frames());
                if is_over || !is_within { Poll::Ready(()) } else { Poll::Pending }
            });
            let _ = timeout(CLOSE_TIMEOUT, between_frames).await;
        }
        let (to_client, to_backend) = match self.is_websocket {
            true => (GOING_AWAY.as_slice(), GOING_AWAY_MASKED.as_slice()),
            false => ([].as_slice(), [].as_slice()),
        };
        tokio::join!(client.close(to_client), backend.close(to_backend));
        tracing::debug!("an upgraded connection was closed: its backend left");
    }
}

fn log_end(copied: &io::Result<(u64, u64)>) {
    match copied {
        Ok((up, down)) => tracing::debug!(up, down, "an upgraded connection ended"),
        Err(error) => tracing::debug!(%error, "an upgraded connection broke"),
    }
}

/// Waits until the tunnel's member has left.
async fn member_left(upgraded: &Upgraded, departures: &mut watch::Receiver<()>) {
    while !upgraded.has_left() {
        if departures.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The websocket frames in one direction.
#[derive(Default)]
struct Direction(RefCell<FrameTracker>);

impl Direction {
    fn is_between_frames(&self) -> bool {
        self.0.borrow().is_between_frames()
    }
}

/// One side of a tunnel. It tracks the frames that are written to it.
struct Side<'a> {
    stream: TokioIo<Stream>,
    direction: &'a Direction,
}

impl<'a> Side<'a> {
    fn new(stream: Stream, direction: &'a Direction) -> Self {
        Side { stream: TokioIo::new(stream), direction }
    }

    /// Sends `close_frame` if no other frame is unfinished, and closes. Reads until the peer closes too, because
    /// closing with unread bytes would be a reset, which can overtake the close frame.
    async fn close(mut self, close_frame: &[u8]) {
        let is_between_frames = self.direction.is_between_frames();
        let shutdown = async {
            if is_between_frames {
                self.stream.write_all(close_frame).await?;
            }
            self.stream.shutdown().await
        };
        if !matches!(timeout(CLOSE_TIMEOUT, shutdown).await, Ok(Ok(()))) {
            return;
        }
        let mut unread = [0; 1024];
        let drain = async { while matches!(self.stream.read(&mut unread).await, Ok(1..)) {} };
        let _ = timeout(CLOSE_TIMEOUT, drain).await;
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
            self.direction.0.borrow_mut().advance(&buf[..count]);
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
