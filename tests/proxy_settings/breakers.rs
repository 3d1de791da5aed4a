//! CIRCUIT_BREAKER_*: a backend that fails again and again is left alone, then tried, then served again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::{Backend, Peer, refusing};
use super::*;

/// A backend that answers with the status that is in the switch; with zero it hangs up.
async fn switched(status: usize) -> (Backend, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let (switch, asked) = (Arc::new(AtomicUsize::new(status)), Arc::new(AtomicUsize::new(0)));
    let (status, count) = (Arc::clone(&switch), Arc::clone(&asked));
    let backend = Backend::new(move |mut peer: Peer| {
        let (status, count) = (Arc::clone(&status), Arc::clone(&count));
        async move {
            while peer.head().await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
                match status.load(Ordering::SeqCst) {
                    0 => return,
                    status => peer.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n")).await,
                }
            }
        }
    })
    .await;
    (backend, switch, asked)
}

async fn status(world: &mut World) -> serde_json::Value {
    let reply = world.ask("CIRCUIT_BREAKER_STATUS||r1").await;
    serde_json::from_str(reply.strip_prefix("CIRCUIT_STATUS_OK|").expect(&reply)).unwrap()
}

async fn gets(world: &World, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(world.get("/").await.status());
    }
    statuses
}

#[tokio::test]
async fn a_backend_that_fails_is_left_alone_then_tried_and_then_served_again() {
    let (backend, switch, asked) = switched(500).await;
    let mut world = World::before(&backend).await;
    assert_eq!(status(&mut world).await["state"], "closed", "a route without a breaker");
    assert_eq!(world.ask("CIRCUIT_BREAKER_RESET||r1").await, "ERROR|circuit breaker not found");
    world.all_ok(&["CIRCUIT_BREAKER_SET||r1|3|300ms|2", "CONFIG_APPLY|"]).await;
    assert_eq!(status(&mut world).await["state"], "closed");

    assert_eq!(gets(&world, 4).await, [500, 500, 500, 503]);
    assert_eq!(asked.load(Ordering::SeqCst), 3, "the fourth did not get there");
    let refused = world.get("/").await;
    assert_eq!((refused.status(), refused.field("retry-after")), (503, Some("1")));
    assert!(refused.body.contains("failed too often"), "{}", refused.body);
    let open = status(&mut world).await;
    assert_eq!((&open["state"], &open["failures"]), (&"open".into(), &3.into()));
    assert_ne!((&open["last_failure"], &open["next_attempt"]), (&"".into(), &"".into()));

    switch.store(200, Ordering::SeqCst);
    // Not by sleeping: it is asked until it says so.
    soon(async { while status(&mut world).await["state"] != "half_open" {} }).await;
    assert_eq!(gets(&world, 1).await, [200]);
    let half = status(&mut world).await;
    assert_eq!((&half["state"], &half["successes"]), (&"half_open".into(), &1.into()));
    assert_eq!(gets(&world, 2).await, [200, 200]);
    assert_eq!(status(&mut world).await["state"], "closed");
}

#[tokio::test]
async fn a_reset_closes_it_at_once_and_zero_takes_it_away() {
    let (backend, switch, _) = switched(0).await;
    let mut world = World::before(&backend).await;
    world.all_ok(&["CIRCUIT_BREAKER_SET||ALL|2|1h|1", "CONFIG_APPLY|"]).await;
    assert_eq!(gets(&world, 3).await, [502, 502, 503], "a connection that breaks is a failure");
    switch.store(200, Ordering::SeqCst);
    assert_eq!(world.ask("CIRCUIT_BREAKER_RESET||r1").await, "CIRCUIT_OK");
    assert_eq!(gets(&world, 1).await, [200]);

    switch.store(503, Ordering::SeqCst);
    assert_eq!(gets(&world, 3).await, [503, 503, 503]);
    assert_eq!(status(&mut world).await["state"], "open");
    world.all_ok(&["CIRCUIT_BREAKER_SET||r1|0|0s|0", "CONFIG_APPLY|"]).await;
    switch.store(200, Ordering::SeqCst);
    assert_eq!(gets(&world, 1).await, [200]);
    assert_eq!(world.ask("CIRCUIT_BREAKER_RESET||r1").await, "ERROR|circuit breaker not found");
    assert_eq!(world.ask("CIRCUIT_BREAKER_RESET||r7").await, "ERROR|route not found");
}

#[tokio::test]
async fn while_one_members_breaker_is_open_the_other_serves() {
    let good = Backend::saying("good").await;
    let world = World::before(&good).await;
    let (bad, _, asked) = switched(500).await;
    let mut sibling = session(world.server.registry_address(), "web", "web-2").await;
    for line in [
        format!("ROUTE_ADD||example.com|/|{}|0", bad.url()),
        "CIRCUIT_BREAKER_SET||ALL|2|1h|1".to_owned(),
        "CONFIG_APPLY|".to_owned(),
    ] {
        assert!(ask(&mut sibling, &line).await.contains("OK"), "{line}");
    }
    soon(async {
        while asked.load(Ordering::SeqCst) < 2 {
            world.get("/").await;
        }
    })
    .await;
    assert_eq!(gets(&world, 30).await, [200; 30]);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert!(ask(&mut sibling, "CIRCUIT_BREAKER_STATUS||r1").await.contains(r#""state":"open""#));
}

#[tokio::test]
async fn a_backend_that_cannot_be_connected_to_has_failed() {
    let (_bound, url) = refusing();
    let mut world = World::with(&[("HOLD", "0s")]).await;
    let add = format!("ROUTE_ADD||example.com|/|{url}|0");
    world.all_ok(&[&add, "CIRCUIT_BREAKER_SET||r1|2|1h|1", "CONFIG_APPLY|"]).await;
    assert_eq!(gets(&world, 3).await[..2], [502, 502]);
    let status = status(&mut world).await;
    assert_eq!((&status["state"], &status["in_maintenance"]), (&"open".into(), &false.into()));
}

#[tokio::test]
async fn of_many_at_once_only_so_many_are_trials() {
    let (asked, go) = (Arc::new(AtomicUsize::new(0)), tokio::sync::watch::channel(false));
    let (count, (go, gone)) = (Arc::clone(&asked), go);
    let backend = Backend::new(move |mut peer: Peer| {
        let (count, mut gone) = (Arc::clone(&count), gone.clone());
        async move {
            while peer.head().await.is_some() {
                if count.fetch_add(1, Ordering::SeqCst) < 3 {
                    peer.send("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n").await;
                } else {
                    gone.wait_for(|go| *go).await.unwrap();
                    peer.send(support::ok("well")).await;
                }
            }
        }
    })
    .await;
    let mut world = World::before(&backend).await;
    world.all_ok(&["CIRCUIT_BREAKER_SET||r1|3|300ms|2", "CONFIG_APPLY|"]).await;
    assert_eq!(gets(&world, 3).await, [500; 3]);
    soon(async { while status(&mut world).await["state"] != "half_open" {} }).await;
    let mut waiting = Vec::new();
    for number in 1..=2 {
        let mut client = world.client().await;
        client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
        support::until(|| asked.load(Ordering::SeqCst) == 3 + number).await;
        waiting.push(client);
    }
    assert_eq!(gets(&world, 5).await, [503; 5], "the trials are under way");
    assert_eq!(asked.load(Ordering::SeqCst), 5);
    // One of them goes away, which says nothing of the backend and makes room for another.
    drop(waiting.pop());
    let mut third = world.client().await;
    soon(async {
        while asked.load(Ordering::SeqCst) == 5 {
            third = world.client().await;
            third.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
            let _ = tokio::time::timeout(std::time::Duration::from_millis(50), third.head()).await;
        }
    })
    .await;
    go.send_replace(true);
    assert_eq!(waiting.pop().unwrap().response().await.status(), 200);
    soon(async { while status(&mut world).await["state"] != "closed" {} }).await;
    assert_eq!(gets(&world, 3).await, [200; 3]);
}
