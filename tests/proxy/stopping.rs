//! How a proxy ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use registry_sidecar::server::proxy::{Proxy, ProxyError};
use tokio::sync::Notify;

use crate::support::{Backend, Peer, Stage, field, member, ok, soon, until};

/// Answers when it is told to.
async fn waiting(go: Arc<Notify>) -> Backend {
    Backend::new(move |mut peer: Peer| {
        let go = Arc::clone(&go);
        async move {
            while peer.head().await.is_some() {
                go.notified().await;
                peer.send(ok("done")).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_stop_lets_requests_in_flight_finish_and_ends_early() {
    let go = Arc::new(Notify::new());
    let backend = waiting(Arc::clone(&go)).await;
    let stage = Stage::before(&backend);
    let addr = stage.addr();
    let mut idle = stage.client().await;
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    until(|| backend.accepts() == 1).await;
    let begun = Instant::now();
    let stop = tokio::spawn(stage.proxy.stop(Duration::from_secs(60)));
    idle.gone().await;
    until_refused(addr).await;
    assert!(!stop.is_finished());
    go.notify_one();
    let response = client.response().await;
    assert_eq!(response.body, "done");
    assert_eq!(response.field("connection"), Some("close"));
    assert_eq!(soon(stop).await.unwrap().cut_off, 0);
    assert!(begun.elapsed() < Duration::from_secs(30));
}

async fn until_refused(addr: std::net::SocketAddr) {
    soon(async {
        while tokio::net::TcpStream::connect(addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_stop_is_over_when_its_budget_is() {
    let backend = waiting(Arc::new(Notify::new())).await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    until(|| backend.accepts() == 1).await;
    assert_eq!(soon(stage.proxy.stop(Duration::from_millis(200))).await.cut_off, 1);
    assert_eq!(client.head().await, None);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_upgraded_connections() {
    let backend = Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await;
        peer.gone().await;
    })
    .await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
    client.head().await.unwrap();
    assert_eq!(soon(stage.proxy.stop(Duration::from_secs(60))).await.cut_off, 0);
    client.gone().await;
}

#[tokio::test]
async fn clients_that_wait_in_the_queue_are_served_before_the_end() {
    let backend = Backend::saying("web").await;
    let stage = Stage::before(&backend);
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = stage.client().await;
        client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
        clients.push(client);
    }
    let stop = tokio::spawn(stage.proxy.stop(Duration::from_secs(60)));
    for mut client in clients {
        assert_eq!(client.response().await.body, "web");
    }
    assert_eq!(soon(stop).await.unwrap().cut_off, 0);
}

#[tokio::test]
async fn a_dropped_proxy_is_gone() {
    let stage = Stage::new();
    let addr = stage.addr();
    let mut client = stage.client().await;
    drop(stage);
    client.gone().await;
    until_refused(addr).await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_even_if_the_other_would_share_it() {
    let stage = Stage::new();
    let config = registry_sidecar::server::proxy::ProxyConfig {
        listen: stage.addr(),
        workers: 1,
        ..Default::default()
    };
    let error = Proxy::start(config, Arc::default()).unwrap_err();
    let ProxyError::Http(error) = error else { panic!("{error}") };
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn beyond_the_limit_clients_wait_for_their_turn() {
    let backend = Backend::saying("web").await;
    let stage = Stage::with(|config| config.max_connections = 2);
    stage.route("example.com", "/", vec![member(1, &backend.url())]);
    let ask = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
    let (mut one, mut two) = (stage.client().await, stage.client().await);
    for client in [&mut one, &mut two] {
        client.send(ask).await;
        assert_eq!(client.response().await.body, "web");
    }
    let mut three = stage.client().await;
    three.send(ask).await;
    let early = tokio::time::timeout(Duration::from_millis(50), three.head()).await;
    assert!(early.is_err(), "the third must wait");
    drop(one);
    assert!(field(&three.head().await.unwrap(), "content-length").is_some());
    let _ = two;
}
