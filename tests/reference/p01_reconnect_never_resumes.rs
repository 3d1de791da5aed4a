//! Point 1: RECONNECT never resumes: it answers `ERROR|no session`, and everything is registered again.

use super::{clear_and_add, greet, live, until};

#[tokio::test(start_paused = true)]
async fn everything_is_registered_again_on_the_new_connection() {
    let (client, mut events, mut registry, link) = live().await;
    drop(link);
    until(&mut events, "DISCONNECTED").await;
    let mut link = registry.accept().await;
    link.play("> RECONNECT|S1\n< ERROR|no session").await;
    greet(&mut link, "S2").await;
    clear_and_add(&mut link, "S2").await;
    until(&mut events, "RECONNECTED").await;
    client.wait_settled(crate::PATIENCE).await.unwrap();
}
