//! After an upgrade: bytes both ways until both sides are done.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::time::timeout;

use crate::server::routing::Upgraded;

/// How long it may take until both sides have become tunnels after both said that they do.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read at once, in each direction.
const BUFFER: usize = 16 * 1024;

/// Copies until both sides have closed. TCP keepalive ends it when a side is silently gone.
pub(super) fn spawn(client: OnUpgrade, backend: OnUpgrade, counted: Upgraded) {
    tokio::task::spawn_local(async move {
        let both = async { tokio::try_join!(client, backend) };
        let (client, backend) = match timeout(UPGRADE_TIMEOUT, both).await {
            Ok(Ok(both)) => both,
            Ok(Err(error)) => return tracing::debug!(%error, "an upgrade came to nothing"),
            Err(_) => return tracing::debug!("an upgrade came to nothing in time"),
        };
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        let copied = copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER, BUFFER).await;
        match copied {
            Ok((up, down)) => tracing::debug!(up, down, "an upgraded connection ended"),
            Err(error) => tracing::debug!(%error, "an upgraded connection broke"),
        }
        drop(counted);
    });
}
