//! Point 10: It closes without SHUTDOWN, and a peer that is gone without a FIN is noticed only by a PING without an
//! answer: within KEEPALIVE_INTERVAL and REQUEST_TIMEOUT.

use std::time::Duration;

use registry_client::{Cause, Event};
use tokio::time::Instant;

use super::{live, until};

#[tokio::test(start_paused = true)]
async fn an_end_without_shutdown_is_an_end() {
    let (_client, mut events, mut registry, link) = live().await;
    drop(link);
    let Event::Disconnected { cause, .. } = until(&mut events, "DISCONNECTED").await else { panic!() };
    assert_eq!(cause, Cause::Closed);
    registry.accept().await.expect("RECONNECT|S1").await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_gone_without_a_fin_is_noticed_by_the_ping() {
    let (_client, mut events, _registry, mut link) = live().await;
    let start = Instant::now();
    link.expect("PING|S1").await;
    let Event::Disconnected { cause, .. } = until(&mut events, "DISCONNECTED").await else { panic!() };
    assert!(matches!(cause, Cause::Silent { command: "PING", .. }), "{cause:?}");
    assert!(start.elapsed() <= Duration::from_secs(41), "{:?}", start.elapsed());
}
