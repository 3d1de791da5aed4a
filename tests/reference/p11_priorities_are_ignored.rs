//! Point 11: It ignores the client's priority: another one is no reason to touch a route that works.

use super::{live, route};

#[tokio::test(start_paused = true)]
async fn another_priority_alone_changes_nothing() {
    let (client, _events, _registry, mut link) = live().await;
    client.update_route("main", route("example.com", "http://10.2.2.7:8080").with_priority(99)).unwrap();
    client.wait_settled(crate::PATIENCE).await.unwrap();
    link.expect("PING|S1").await;
}
