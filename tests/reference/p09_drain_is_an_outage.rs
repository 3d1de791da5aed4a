//! Point 9: With one instance a drain is an outage: it is never sent, and whoever asks for it is told.

use std::time::Duration;

use registry_sidecar::client::{CallError, Wanted};

use super::live;

#[tokio::test(start_paused = true)]
async fn a_drain_is_never_sent() {
    let (client, _events, _registry, mut link) = live().await;
    client.set_visibility(Wanted::Draining).unwrap();
    let refused = client.drain_start(Duration::from_secs(30)).await;
    assert!(matches!(refused, Err(CallError::Unsupported(_))), "{refused:?}");
    link.expect("PING|S1").await;
}
