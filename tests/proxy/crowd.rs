//! More clients than there is room for.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use crate::support::{Backend, Peer, Stage, member, ok, soon, until};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";

/// A proxy with one worker and room for so many, in front of a backend that answers, except where asked to wait.
async fn stage(room: usize) -> (Stage, Backend) {
    let backend = Backend::new(|mut peer: Peer| async move {
        while let Some(head) = peer.head().await {
            if head.contains("/slow") {
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
            peer.send(ok("hello")).await;
        }
    })
    .await;
    let stage = Stage::with(|config| (config.workers, config.max_connections) = (1, room));
    stage.route("example.com", "/", vec![member(1, &backend.url())]);
    (stage, backend)
}

/// A client that has had a response.
async fn used(stage: &Stage) -> Peer {
    let mut client = stage.client().await;
    client.send(REQUEST).await;
    assert_eq!(client.response().await.body, "hello");
    client
}

#[tokio::test]
async fn a_house_full_of_silent_clients_is_open_for_newcomers() {
    let (stage, _backend) = stage(4).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(stage.client().await);
    }
    until(|| stage.proxy.load().connections() == 4).await;
    let begun = Instant::now();
    for _ in 0..3 {
        let mut newcomer = used(&stage).await;
        newcomer.send(REQUEST).await;
        assert_eq!(newcomer.response().await.body, "hello");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!((1..=4).contains(&stage.proxy.load().closed_idle()));
    let gone = silent.iter_mut().map(|client| Box::pin(client.gone()));
    soon(futures_util::future::select_all(gone)).await;
}

#[tokio::test]
async fn those_without_a_request_leave_first_then_the_longest_idle_and_nobody_with_a_request() {
    let (stage, _backend) = stage(4).await;
    let mut busy = stage.client().await;
    busy.send("GET /slow HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    let mut early = used(&stage).await;
    let mut late = used(&stage).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    late.send(REQUEST).await;
    late.response().await;
    // Half a head is no request either.
    let mut half = stage.client().await;
    half.send("GET / HTTP/1.1\r\nHo").await;
    // Until all but one have been idle for as long as anybody may be.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let mut first = used(&stage).await;
    half.gone().await;
    assert_eq!(stage.proxy.load().closed_idle(), 1);
    let _second = used(&stage).await;
    early.gone().await;
    assert_eq!(stage.proxy.load().closed_idle(), 2);
    for client in [&mut late, &mut first] {
        client.send(REQUEST).await;
        assert_eq!(client.response().await.status(), 200);
    }
    assert_eq!(busy.response().await.status(), 200);
}

#[tokio::test]
async fn who_has_just_come_is_not_closed() {
    let (stage, _backend) = stage(2).await;
    let mut fresh = [stage.client().await, stage.client().await];
    until(|| stage.proxy.load().connections() == 2).await;
    let waiting = tokio::spawn({
        let addr = stage.addr();
        async move {
            let mut newcomer = Peer::connect(addr).await;
            newcomer.send(REQUEST).await;
            newcomer.response().await.status()
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    for client in &mut fresh {
        client.send(REQUEST).await;
        assert_eq!(client.response().await.status(), 200);
    }
    assert_eq!(stage.proxy.load().closed_idle(), 0);
    assert_eq!(soon(waiting).await.unwrap(), 200);
}

#[tokio::test]
async fn an_address_has_no_more_connections_than_it_may_have() {
    let backend = Backend::saying("hello").await;
    let before = |trusted: &'static str| {
        let stage = Stage::with(|config| {
            config.max_connections_per_address = NonZeroUsize::new(2);
            config.trusted_proxies = vec![trusted.parse().unwrap()];
        });
        stage.route("example.com", "/", vec![member(1, &backend.url())]);
        stage
    };
    let stage = before("192.0.2.0/24");
    let (first, mut second) = (used(&stage).await, used(&stage).await);
    stage.client().await.gone().await;
    assert_eq!(stage.proxy.load().refused(), 1);
    second.send(REQUEST).await;
    assert_eq!(second.response().await.status(), 200, "those that are there stay");
    drop(first);
    until(|| stage.proxy.load().connections() == 1).await;
    let _third = used(&stage).await;
    let trusting = before("127.0.0.0/8");
    let _many = [used(&trusting).await, used(&trusting).await, used(&trusting).await];
}
