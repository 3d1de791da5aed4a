//! Point 9: With one instance a drain is an outage: it is never sent, and whoever asks for it is told.

use std::time::Duration;

use registry_client::{CallError, Visibility};

use super::live;

#[tokio::test(start_paused = true)]
async fn a_drain_is_never_sent() {
    let (client, _events, _registry, mut link) = live().await;
    client.set_visibility(Visibility::Draining).unwrap();
    let refused = client.drain_start(Duration::from_secs(30)).await;
    assert!(matches!(refused, Err(CallError::Unsupported(_))), "{refused:?}");
    link.expect("PING|S1").await;
}

#[tokio::test(start_paused = true)]
async fn where_there_is_a_page_whoever_would_be_drained_shows_that() {
    let mut intent = super::intent();
    intent.maintenance_page = Some("http://10.2.2.7:3001".parse().unwrap());
    let (client, _events, mut registry) = super::start(intent);
    let mut link = registry.accept().await;
    super::greet(&mut link, "S1").await;
    super::clear_and_add(&mut link, "S1").await;
    client.set_visibility(Visibility::Draining).unwrap();
    link.play("> MAINT_ENTER|S1|r2|http://10.2.2.7:3001/\n< ACK\n< MAINT_OK|r2").await;
    client.set_visibility(Visibility::Live).unwrap();
    link.play("> MAINT_EXIT|S1|r2\n< ACK\n< MAINT_OK|r2").await;
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_says_so_and_nothing_else() {
    let (client, _events, _registry, mut link) = live().await;
    let leaving = tokio::spawn(async move { client.shutdown().await });
    link.play("> CLIENT_SHUTDOWN|S1\n< SHUTDOWN_OK").await;
    leaving.await.unwrap();
    link.expect_end().await;
}
