//! Requests that nobody claims, after a start without state.

use std::time::Duration;

use registry_sidecar::server::live_table::MAX_WAITING_OF_CLIENT;

use crate::support::{Backend, Stage, member, until};

const HOUR: Duration = Duration::from_secs(3600);
const GET: &str = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
const POST: &str = "POST /api HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test]
async fn they_wait_for_whoever_claims_them_with_or_without_a_body() {
    let (backend, stage) = (Backend::saying("web").await, Stage::new());
    stage.hold_unclaimed(HOUR);
    let (mut one, mut other) = (stage.client().await, stage.client().await);
    one.send(GET).await;
    other.send(POST).await;
    until(|| stage.unclaimed() == 2).await;
    stage.route("other.example.com", "/", vec![member(1, &backend.url())]);
    assert_eq!(stage.get("other.example.com", "/").await.body, "web", "whose claim is there does not wait");
    assert_eq!(stage.unclaimed(), 2, "another claim is none of theirs");
    stage.route("example.com", "/api", vec![member(2, &backend.url())]);
    assert_eq!(other.response().await.status(), 200);
    until(|| stage.unclaimed() == 1).await;
    stage.route("example.com", "/", vec![member(3, &backend.url())]);
    assert_eq!(one.response().await.body, "web");
    assert_eq!(stage.unclaimed(), 0);
}

#[tokio::test]
async fn after_the_time_nobody_waits_any_more() {
    let stage = Stage::new();
    stage.hold_unclaimed(Duration::from_millis(200));
    let mut client = stage.client().await;
    client.send(GET).await;
    until(|| stage.unclaimed() == 1).await;
    assert_eq!(client.response().await.status(), 404);
    assert_eq!(stage.get("example.com", "/").await.status(), 404);
}

#[tokio::test]
async fn requests_for_addresses_are_answered_at_once() {
    let stage = Stage::new();
    stage.hold_unclaimed(HOUR);
    for host in ["127.0.0.1", "10.2.2.7:8080", "[::1]", "[2001:db8::1]:80"] {
        assert_eq!(stage.get(host, "/").await.status(), 404, "{host}");
    }
}

#[tokio::test]
async fn a_client_has_few_places_and_leaves_them_when_it_goes() {
    let stage = Stage::new();
    stage.hold_unclaimed(HOUR);
    let mut waiting = Vec::new();
    for _ in 0..MAX_WAITING_OF_CLIENT {
        let mut client = stage.client().await;
        client.send(GET).await;
        waiting.push(client);
    }
    until(|| stage.unclaimed() == MAX_WAITING_OF_CLIENT).await;
    assert_eq!(stage.get("example.com", "/").await.status(), 404, "one too many");
    waiting.clear();
    until(|| stage.unclaimed() == 0 && stage.proxy.load().connections() == 0).await;
}
