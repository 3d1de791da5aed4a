//! Websockets and whatever else a connection may become.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::support::{Backend, Peer, Stage, field, member, member_with, ok, until};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";

/// Switches, says `hi` at once, and then sends back what it gets.
async fn echoing() -> Backend {
    Backend::new(|mut peer: Peer| async move {
        let head = peer.head().await.unwrap();
        assert_eq!(field(&head, "upgrade"), Some("websocket"));
        assert_eq!(field(&head, "connection"), Some("upgrade"));
        assert_eq!(field(&head, "sec-websocket-key"), Some("x"));
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi")
            .await;
        loop {
            let byte = peer.exactly(1).await;
            peer.send(byte).await;
        }
    })
    .await
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let backend = echoing().await;
    let stage = Stage::new();
    let member = member(1, &backend.url());
    let endpoint = Arc::clone(&member.endpoint);
    stage.route("example.com", "/", vec![member]);
    let mut client = stage.client().await;
    // The first bytes of the new protocol may come with the request.
    client.send(format!("{ASK}early")).await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(field(&head, "upgrade"), Some("websocket"));
    assert_eq!(field(&head, "connection"), Some("upgrade"));
    assert_eq!(client.exactly(7).await, "hiearly");
    client.send("hello").await;
    assert_eq!(client.exactly(5).await, "hello");
    assert_eq!(endpoint.load.upgraded.load(Ordering::SeqCst), 1);
    assert_eq!(endpoint.load.in_flight.load(Ordering::SeqCst), 0, "it is counted apart");
    drop(client);
    until(|| endpoint.load.upgraded.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_backend_may_decline() {
    let backend = Backend::saying("no").await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    for _ in 0..2 {
        client.send(ASK).await;
        assert_eq!(client.response().await.body, "no");
    }
}

#[tokio::test]
async fn a_route_may_refuse_upgrades() {
    let backend = echoing().await;
    let stage = Stage::new();
    stage.route("example.com", "/", vec![member_with(1, &backend.url(), |s| s.websocket = false)]);
    let response = stage.raw(ASK).await;
    assert_eq!(response.status(), 403);
    assert!(response.body.contains("upgrades"), "{}", response.body);
    assert_eq!(backend.accepts(), 0);
}

#[tokio::test]
async fn a_backend_must_not_switch_unasked() {
    let backend =
        Backend::answering("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
            .await;
    let stage = Stage::before(&backend);
    assert_eq!(stage.get("example.com", "/").await.status(), 502);
}

#[tokio::test]
async fn http_2_in_plain_text_is_not_an_upgrade_to_pass_on() {
    let backend = Backend::answering(ok("http/1.1")).await;
    let stage = Stage::before(&backend);
    let response = stage
        .raw("GET / HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n")
        .await;
    assert_eq!(response.body, "http/1.1");
    assert_eq!(field(&backend.last_head(), "upgrade"), None);
    assert_eq!(field(&backend.last_head(), "http2-settings"), None);
}
