//! Point 4: BACKEND_TEST with a malformed URL crashes the whole server: what it would not understand is not sent.

use registry_client::BackendTestError;

use super::live;

#[tokio::test(start_paused = true)]
async fn a_scheme_that_it_does_not_know_is_refused_on_our_side() {
    let (client, _events, _registry, mut link) = live().await;
    let refused = client.backend_test("h2c://10.2.2.7:8080".parse().unwrap()).await;
    assert_eq!(refused, Err(BackendTestError::Unsupported));
    // Nothing was sent: the next line is the keepalive.
    link.expect("PING|S1").await;
}
