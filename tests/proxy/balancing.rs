//! Which member gets a request, and what happens when it does not answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::support::{Backend, Peer, Stage, member, ok, refusing, soon, until};

#[tokio::test]
async fn members_share_the_requests() {
    let (one, two) = (Backend::saying("one").await, Backend::saying("two").await);
    let stage = Stage::new();
    stage.route("example.com", "/", vec![member(1, &one.url()), member(2, &two.url())]);
    let mut counts: HashMap<String, usize> = HashMap::new();
    for _ in 0..60 {
        *counts.entry(stage.get("example.com", "/").await.body).or_default() += 1;
    }
    assert!(counts["one"] > 10 && counts["two"] > 10, "{counts:?}");
}

#[tokio::test]
async fn a_busy_member_gets_nothing_while_another_is_idle() {
    let busy = Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        peer.gone().await;
    })
    .await;
    let idle = Backend::saying("idle").await;
    let stage = Stage::new();
    stage.route("example.com", "/", vec![member(1, &busy.url()), member(2, &idle.url())]);
    // Until one request hangs at the busy member, either may be drawn.
    let mut hanging = Vec::new();
    while busy.accepts() == 0 {
        let mut client = stage.client().await;
        client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
        let heard = tokio::time::timeout(std::time::Duration::from_millis(50), client.head()).await;
        if heard.is_err() {
            hanging.push(client);
        }
    }
    for _ in 0..30 {
        assert_eq!(stage.get("example.com", "/").await.body, "idle");
    }
    assert_eq!(busy.accepts(), 1);
}

#[tokio::test]
async fn a_dead_member_is_stepped_over_and_then_left_out() {
    let (_socket, dead) = refusing();
    let alive = Backend::saying("alive").await;
    let stage = Stage::new();
    let dead = member(1, &dead);
    let load = Arc::clone(&dead.load);
    stage.route("example.com", "/", vec![dead, member(2, &alive.url())]);
    for _ in 0..40 {
        assert_eq!(stage.get("example.com", "/").await.body, "alive");
    }
    assert!(load.is_ejected(Instant::now()));
}

#[tokio::test]
async fn an_unusable_member_is_never_asked() {
    let (out, usable) = (Backend::saying("out").await, Backend::saying("usable").await);
    let stage = Stage::new();
    let mut taken_out = member(1, &out.url());
    taken_out.usable = false;
    stage.route("example.com", "/", vec![taken_out, member(2, &usable.url())]);
    for _ in 0..20 {
        assert_eq!(stage.get("example.com", "/").await.body, "usable");
    }
    assert_eq!(out.accepts(), 0);
}

/// Breaks every connection after it got a request.
async fn breaking() -> Backend {
    Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        peer.reset();
    })
    .await
}

#[tokio::test]
async fn a_broken_request_is_repeated_elsewhere_if_that_does_no_harm() {
    let (broken, good) = (breaking().await, Backend::saying("good").await);
    let stage = Stage::new();
    stage.route("example.com", "/", vec![member(1, &broken.url()), member(2, &good.url())]);
    for _ in 0..20 {
        assert_eq!(stage.get("example.com", "/").await.body, "good");
    }
    assert!(broken.accepts() > 0);
}

#[tokio::test]
async fn a_broken_request_that_may_have_done_something_is_not_repeated() {
    let (one, two) = (breaking().await, breaking().await);
    let stage = Stage::new();
    stage.route("example.com", "/", vec![member(1, &one.url()), member(2, &two.url())]);
    let post = "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(stage.raw(post).await.status(), 502);
    let put = "PUT / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(stage.raw(put).await.status(), 502);
    assert_eq!(one.accepts() + two.accepts(), 2);
}

#[tokio::test]
async fn a_kept_connection_that_the_backend_closed_costs_no_request() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let backend = Backend::new(move |mut peer: Peer| {
        let tell = tell.clone();
        async move {
            peer.head().await;
            peer.send(ok("once")).await;
            drop(peer);
            tell.send("closed").unwrap();
        }
    })
    .await;
    let stage = Stage::with(|config| config.workers = 1);
    stage.route("example.com", "/", vec![member(1, &backend.url())]);
    for _ in 0..20 {
        let post = "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(stage.raw(post).await.body, "once");
        // While the close travels nobody can know of it.
        assert_eq!(soon(told.recv()).await, Some("closed"));
    }
    assert_eq!(backend.accepts(), 20);
}

#[tokio::test]
async fn a_kept_connection_that_breaks_under_a_request_is_replaced_if_that_does_no_harm() {
    let backend = Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        peer.send(ok("first")).await;
        // The second request arrives, and only then the connection breaks.
        peer.head().await;
        peer.reset();
    })
    .await;
    let stage = Stage::with(|config| config.workers = 1);
    let member = member(1, &backend.url());
    let load = Arc::clone(&member.load);
    stage.route("example.com", "/", vec![member]);
    for _ in 0..10 {
        assert_eq!(stage.get("example.com", "/").await.body, "first");
    }
    assert!(backend.accepts() > 5);
    assert!(!load.is_ejected(Instant::now()), "a connection that was kept too long is no failure");
}

#[tokio::test]
async fn few_clients_are_spread_over_all_workers() {
    let backend = Backend::saying("web").await;
    let stage = Stage::with(|config| config.workers = 4);
    stage.route("example.com", "/", vec![member(1, &backend.url())]);
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = stage.client().await;
        client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
        client.response().await;
        clients.push(client);
    }
    // Each worker has upstream connections of its own.
    until(|| backend.accepts() == 4).await;
}
