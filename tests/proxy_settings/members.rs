//! Whose settings hold where a claim has several members (SEMANTICS section 1).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::support::{Backend, Peer, refusing};
use super::*;

/// Two members of `example.com/`, each known by its body; the second serves already.
async fn two(first: &[&str], second: &[&str]) -> (World, BufReader<TcpStream>, [Backend; 2]) {
    let text = |name: &str| format!("{name} {}", "x".repeat(1000));
    let page = |name: &str| {
        let body = text(name);
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let backends = [Backend::answering(page("one")).await, Backend::answering(page("two")).await];
    let mut world = World::new().await;
    let mut sibling = session(world.server.registry_address(), "web", "web-2").await;
    world.ok(&format!("ROUTE_ADD||example.com|/|{}|0", backends[0].url())).await;
    world.all_ok(first).await;
    world.ok("CONFIG_APPLY|").await;
    let add = format!("ROUTE_ADD||example.com|/|{}|0", backends[1].url());
    for line in std::iter::once(add.as_str()).chain(second.iter().copied()).chain(["CONFIG_APPLY|"]) {
        let reply = ask(&mut sibling, line).await;
        assert!(!reply.starts_with("ERROR"), "{line}: {reply}");
    }
    // It joins when the proxy has reached it.
    soon(async { while !world.get("/").await.body.starts_with("two") {} }).await;
    (world, sibling, backends)
}

#[tokio::test]
async fn what_a_route_says_of_its_backend_is_for_its_own_member_alone() {
    let ((mut world, mut sibling, backends), mut counts) = (
        two(
            &["OPTIONS_SET||r1|compression|true", "HEADERS_SET||r1|X-Of|one"],
            &[
                "OPTIONS_SET||r1|preserve_host|false",
                "OPTIONS_SET||r1|websocket|false",
                "HEADERS_SET||r1|X-Of|two",
            ],
        )
        .await,
        BTreeMap::new(),
    );
    let before = [requests(&mut world.session).await, requests(&mut sibling).await];
    for _ in 0..40 {
        let mut client = world.client().await;
        client
            .send("GET / HTTP/1.1\r\nHost: example.com\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n")
            .await;
        let head = client.head().await.unwrap();
        client.gone().await;
        let of = support::field(&head, "x-of").unwrap().to_owned();
        assert_eq!(support::field(&head, "content-encoding").is_some(), of == "one", "{head}");
        *counts.entry(of).or_insert(0_u64) += 1;
    }
    assert_eq!(support::field(&backends[0].last_head(), "host"), Some("example.com"));
    assert_eq!(support::field(&backends[1].last_head(), "host"), Some(backends[1].addr.to_string().as_str()));
    assert_eq!(counts.len(), 2, "{counts:?}");
    // Statistics are each route's own, and exact.
    soon(async {
        loop {
            let now = [requests(&mut world.session).await, requests(&mut sibling).await];
            if now == [before[0] + counts["one"], before[1] + counts["two"]] {
                return;
            }
        }
    })
    .await;
    // Whether an upgrade is taken depends on who gets it.
    let upgrade = "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut statuses = std::collections::BTreeSet::new();
    soon(async {
        while statuses.len() < 2 {
            statuses.insert(world.raw(upgrade).await.status());
        }
    })
    .await;
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), [200, 403], "200: a backend that declines");
}

async fn requests(session: &mut BufReader<TcpStream>) -> u64 {
    let reply = ask(session, "STATS_GET||r1").await;
    let stats: serde_json::Value = serde_json::from_str(reply.strip_prefix("STATS_OK|").unwrap()).unwrap();
    stats["requests"].as_u64().unwrap()
}

#[tokio::test]
async fn a_slow_members_time_out_is_its_own() {
    let slow = Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        peer.gone().await;
    })
    .await;
    let (mut world, mut sibling, _backends) = two(&[], &[]).await;
    for line in
        [format!("ROUTE_UPDATE||r1|backend_url|{}", slow.url()), "OPTIONS_SET||r1|timeout|300ms".to_owned()]
    {
        assert!(ask(&mut sibling, &line).await.contains("OK"));
    }
    assert_eq!(ask(&mut sibling, "CONFIG_APPLY|").await, "OK");
    soon(async { while world.get("/").await.status() != 504 {} }).await;
    world.all_ok(&["OPTIONS_SET||r1|timeout|1h", "CONFIG_APPLY|"]).await;
    soon(async { while world.get("/").await.status() != 504 {} }).await;
}

#[tokio::test]
async fn priority_and_hold_are_those_of_whoever_applied_last() {
    let (mut world, mut sibling, _backends) = two(&["OPTIONS_SET||r1|hold|0s"], &[]).await;
    let admin = Backend::saying("admin").await;
    world.ok(&format!("ROUTE_ADD||example.com|/admin|{}|5", admin.url())).await;
    world.ok("CONFIG_APPLY|").await;
    assert_eq!(world.get("/admin").await.body, "admin", "the higher priority, and the longer path");
    for line in ["ROUTE_UPDATE||r1|priority|9", "CONFIG_APPLY|"] {
        assert!(ask(&mut sibling, line).await.contains("OK"));
    }
    assert_ne!(world.get("/admin").await.body, "admin", "the sibling's / goes before it now");
    world.all_ok(&["ROUTE_UPDATE||r1|priority|1", "CONFIG_APPLY|"]).await;
    assert_eq!(world.get("/admin").await.body, "admin", "the last one decides for the claim");

    // The first session applied last, and does not want requests to wait.
    assert!(ask(&mut sibling, "DRAIN_START||0s").await.starts_with("DRAIN_OK"));
    world.ok("DRAIN_START||0s").await;
    assert_eq!(world.get("/").await.status(), 503);
    world.ok("DRAIN_CANCEL|").await;
    for line in ["OPTIONS_SET||r1|hold|1h", "CONFIG_APPLY|"] {
        assert!(ask(&mut sibling, line).await.contains("OK"));
    }
    world.ok("DRAIN_START||0s").await;
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    let answer = tokio::time::timeout(Duration::from_millis(300), client.head()).await;
    assert!(answer.is_err(), "now they wait: {answer:?}");
}

#[tokio::test]
async fn a_further_member_gets_no_request_before_the_proxy_has_reached_it() {
    // It would serve people well, but does not pass yet.
    let (ready, passes) = tokio::sync::watch::channel(false);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let late = Backend::new(move |mut peer: Peer| {
        let (passes, count) = (passes.clone(), Arc::clone(&count));
        async move {
            while let Some(head) = peer.head().await {
                count.fetch_add(1, Ordering::SeqCst);
                let is_probe = head.starts_with("GET /health ");
                let status = if is_probe && !*passes.borrow() { 503 } else { 200 };
                peer.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 4\r\n\r\nlate")).await;
            }
        }
    })
    .await;
    let good = Backend::saying("good").await;
    let world = World::before(&good).await;
    let mut sibling = session(world.server.registry_address(), "web", "web-2").await;
    for line in [
        format!("ROUTE_ADD||example.com|/|{}|0", late.url()),
        "HEALTH_SET||r1|/health|100ms|1s".to_owned(),
        "CONFIG_APPLY|".to_owned(),
    ] {
        assert!(ask(&mut sibling, &line).await.contains("OK"), "{line}");
    }
    soon(async {
        while asked.load(Ordering::SeqCst) < 5 {
            assert_eq!(world.get("/").await.body, "good");
        }
    })
    .await;
    ready.send_replace(true);
    soon(async { while world.get("/").await.body != "late" {} }).await;
}

#[tokio::test]
async fn the_first_member_serves_at_once_in_hope() {
    let (_socket, dead) = refusing();
    let mut world = World::with(&[("HOLD", "0s")]).await;
    world.all_ok(&[&format!("ROUTE_ADD||example.com|/|{dead}|0"), "CONFIG_APPLY|"]).await;
    assert_eq!(world.get("/").await.status(), 502, "it was asked, not waited for");
}

#[tokio::test]
async fn a_backend_of_two_routes_counts_once_and_goes_with_the_last() {
    let backend = Backend::saying("web").await;
    let mut world = World::with(&[("HOLD", "0s")]).await;
    let url = backend.url();
    world
        .all_ok(&[
            &format!("ROUTE_ADD||example.com|/|{url}|0"),
            &format!("ROUTE_ADD||example.com,other.example|/|{url}/|0"),
            "CONFIG_APPLY|",
        ])
        .await;
    assert_eq!(world.get("/").await.body, "web");
    world.all_ok(&["ROUTE_REMOVE||r1", "CONFIG_APPLY|"]).await;
    assert_eq!(world.get("/").await.body, "web", "the other route leads there still");
    world.all_ok(&["ROUTE_REMOVE||r2", "CONFIG_APPLY|"]).await;
    assert_eq!(world.get("/").await.status(), 404);
}
