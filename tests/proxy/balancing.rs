//! Which member gets a request, and what happens when it does not answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry_sidecar::server::routing::Drain;

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
        let heard = tokio::time::timeout(Duration::from_millis(50), client.head()).await;
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
    let endpoint = Arc::clone(&dead.endpoint);
    stage.route("example.com", "/", vec![dead, member(2, &alive.url())]);
    for _ in 0..40 {
        assert_eq!(stage.get("example.com", "/").await.body, "alive");
    }
    assert!(endpoint.load.is_ejected(Instant::now()));
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
    let stage = Stage::of_one_worker(&backend.url());
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
    let endpoint = Arc::clone(&member.endpoint);
    stage.route("example.com", "/", vec![member]);
    for _ in 0..10 {
        assert_eq!(stage.get("example.com", "/").await.body, "first");
    }
    assert!(backend.accepts() > 5);
    assert!(!endpoint.load.is_ejected(Instant::now()), "a connection that was kept too long is no failure");
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

#[tokio::test]
async fn a_body_of_which_nothing_was_sent_goes_to_the_next_member() {
    let (_socket, dead) = refusing();
    let alive = Backend::new(|mut peer: Peer| async move {
        while peer.head().await.is_some() {
            let body = peer.exactly(5).await;
            peer.send(ok(&body)).await;
        }
    })
    .await;
    for _ in 0..10 {
        let stage = Stage::new();
        stage.route("example.com", "/", vec![member(1, &dead), member(2, &alive.url())]);
        let post = "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(stage.raw(post).await.body, "hello");
    }
}

#[tokio::test]
async fn only_one_other_member_is_tried() {
    let dead: Vec<_> = (0..3).map(|_| refusing()).collect();
    let alive = Backend::saying("alive").await;
    let stage = Stage::new();
    let mut members: Vec<_> = dead.iter().zip(1..).map(|((_, url), id)| member(id, url)).collect();
    let endpoints: Vec<_> = members.iter().map(|member| Arc::clone(&member.endpoint)).collect();
    members.push(member(9, &alive.url()));
    // Nobody is ejected before the fifth failure: until then three of four are dead, and some requests meet two.
    stage.route("example.com", "/", members);
    let mut failed = 0;
    for _ in 0..200 {
        failed += usize::from(stage.get("example.com", "/").await.status() == 502);
        if endpoints.iter().all(|endpoint| endpoint.load.is_ejected(Instant::now())) {
            break;
        }
    }
    assert!(failed > 0, "a request that meets two of them is not tried a third time");
}

#[tokio::test]
async fn half_way_through_its_drain_a_member_gets_half_of_its_share() {
    let (one, two) = (Backend::saying("one").await, Backend::saying("two").await);
    let stage = Stage::new();
    let mut leaving = member(1, &one.url());
    let hour = Duration::from_secs(3600);
    let since = Instant::now().checked_sub(hour / 2).unwrap();
    Arc::make_mut(&mut leaving.terms).drain = Some(Box::new(Drain { since, time: hour }));
    stage.route("example.com", "/", vec![leaving, member(2, &two.url())]);
    let mut client = stage.client().await;
    let mut count = 0;
    for _ in 0..1000 {
        client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
        count += usize::from(client.response().await.body == "one");
    }
    // 250 of a thousand; five standard deviations are 68.
    assert!((180..320).contains(&count), "{count}");
}

#[tokio::test]
async fn an_idle_connection_to_a_backend_is_closed_before_the_backend_does_it() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let backend = Backend::new(move |mut peer: Peer| {
        let tell = tell.clone();
        async move {
            peer.head().await;
            peer.send(ok("web")).await;
            let begun = Instant::now();
            peer.gone().await;
            tell.send(begun.elapsed()).unwrap();
        }
    })
    .await;
    let stage = Stage::before(&backend);
    assert_eq!(stage.get("example.com", "/").await.body, "web");
    let kept = soon(told.recv()).await.unwrap();
    // Node closes after five seconds, and a request that is sent at that moment would be lost: after four it is not
    // used any more, and closed at the next look at it.
    assert!((3.5..6.5).contains(&kept.as_secs_f64()), "{kept:?}");
}
