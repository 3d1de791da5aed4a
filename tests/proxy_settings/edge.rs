//! The options of a route that concern requests before a backend has them: addresses, lengths, other hosts, paths.

use super::support::{Backend, Peer, field};
use super::*;

/// Answers with the request's line, and keeps its head.
async fn echo() -> Backend {
    let heads: std::sync::Arc<std::sync::Mutex<Vec<String>>> = std::sync::Arc::default();
    let kept = std::sync::Arc::clone(&heads);
    let mut backend = Backend::new(move |mut peer: Peer| {
        let kept = std::sync::Arc::clone(&kept);
        async move {
            while let Some(head) = peer.head().await {
                let line = head.lines().next().unwrap_or_default().to_owned();
                if let Some(length) = field(&head, "content-length") {
                    peer.exactly(length.parse().unwrap()).await;
                }
                kept.lock().unwrap().push(head);
                peer.send(support::ok(&line)).await;
            }
        }
    })
    .await;
    backend.heads = heads;
    backend
}

#[tokio::test]
async fn strip_prefix_takes_the_routes_path_off_and_says_it() {
    let backend = echo().await;
    let mut world = World::with(&[("TRUSTED_PROXIES", "127.0.0.1")]).await;
    world.ok(&format!("ROUTE_ADD||example.com|/api|{}|0", backend.url())).await;
    world.all_ok(&["OPTIONS_SET||r1|strip_prefix|true", "CONFIG_APPLY|"]).await;
    for (asked, seen) in [("/api", "/"), ("/api/a%2fb?c=/api", "/a%2fb?c=/api"), ("/x/../api/y", "/y")] {
        assert_eq!(world.get(asked).await.body, format!("GET {seen} HTTP/1.1"), "{asked}");
        assert_eq!(field(&backend.last_head(), "x-forwarded-prefix"), Some("/api"));
    }
    let behind = "GET /api/x HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-Prefix: /outer/\r\n\r\n";
    world.raw(behind).await;
    assert_eq!(field(&backend.last_head(), "x-forwarded-prefix"), Some("/outer/api"));
    // Below a base path of the backend's own, too.
    world.all_ok(&[&format!("ROUTE_UPDATE||r1|backend_url|{}/base", backend.url()), "CONFIG_APPLY|"]).await;
    soon(async { while world.get("/api/x").await.body != "GET /base/x HTTP/1.1" {} }).await;
    world.all_ok(&["OPTIONS_REMOVE||r1|strip_prefix", "CONFIG_APPLY|"]).await;
    assert_eq!(world.get("/api/x").await.body, "GET /base/api/x HTTP/1.1");
    assert_eq!(field(&backend.last_head(), "x-forwarded-prefix"), None);
}

#[tokio::test]
async fn a_prefix_that_a_stranger_claims_is_not_passed_on() {
    let backend = echo().await;
    let world = World::before(&backend).await;
    world.raw("GET / HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-Prefix: /evil\r\n\r\n").await;
    assert_eq!(field(&backend.last_head(), "x-forwarded-prefix"), None);
}

#[tokio::test]
async fn redirect_sends_every_request_to_the_other_host_and_none_to_the_backend() {
    let backend = echo().await;
    let mut world = World::before(&backend).await;
    world.ok(&format!("ROUTE_ADD||www.example.com,example.org|/|{}|0", backend.url())).await;
    world.all_ok(&["OPTIONS_SET||r2|redirect|example.com", "CONFIG_APPLY|"]).await;
    for (request, location) in [
        ("GET /a%2fb?c=d HTTP/1.1\r\nHost: www.example.com\r\n\r\n", "http://example.com/a%2fb?c=d"),
        (
            "POST / HTTP/1.1\r\nHost: EXAMPLE.org:8080\r\nContent-Length: 0\r\n\r\n",
            "http://example.com:8080/",
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: example.org\r\n\r\n", "http://example.com/"),
    ] {
        let answer = world.raw(request).await;
        assert_eq!((answer.status(), answer.field("location")), (308, Some(location)), "{request}");
    }
    assert!(backend.heads.lock().unwrap().is_empty());
    assert_eq!(world.get("/").await.status(), 200);
    // A host that is sent to itself would never arrive.
    world.all_ok(&["OPTIONS_SET||r1|redirect|example.com", "CONFIG_APPLY|"]).await;
    assert_eq!(world.get("/").await.status(), 200);
}

#[tokio::test]
async fn allow_from_lets_these_addresses_in_and_no_others() {
    let backend = echo().await;
    let mut world = World::with(&[("TRUSTED_PROXIES", "127.0.0.1")]).await;
    world.route("example.com", &backend).await;
    world.all_ok(&["OPTIONS_SET||r1|allow_from|192.0.2.0/24,2001:db8::/32", "CONFIG_APPLY|"]).await;
    let status = async |world: &World, client: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-For: {client}\r\n\r\n");
        world.raw(&request).await.status()
    };
    for (client, expected) in
        [("192.0.2.7", 200), ("2001:db8::7", 200), ("198.51.100.7", 403), ("192.0.2.7, 198.51.100.7", 403)]
    {
        assert_eq!(status(&world, client).await, expected, "{client}");
    }
    // Who may not is refused before the rate limit counts him, and learns nothing else of the route.
    world.all_ok(&["RATELIMIT_SET||r1|1|1h", "OPTIONS_SET||r1|body_limit|1", "CONFIG_APPLY|"]).await;
    let asked = backend.heads.lock().unwrap().len();
    for _ in 0..5 {
        assert_eq!(status(&world, "198.51.100.7").await, 403);
    }
    assert_eq!(backend.heads.lock().unwrap().len(), asked);
    world.all_ok(&["OPTIONS_REMOVE||r1|allow_from", "CONFIG_APPLY|"]).await;
    assert_eq!(status(&world, "198.51.100.7").await, 200, "its allowance is untouched");
}

#[tokio::test]
async fn body_limit_refuses_what_is_longer_whether_it_says_so_or_not() {
    let backend = Backend::new(|mut peer: Peer| async move {
        while let Some(head) = peer.head().await {
            match field(&head, "content-length") {
                Some(length) => drop(peer.exactly(length.parse().unwrap()).await),
                None => while !peer.exactly(1).await.is_empty() {},
            }
            peer.send(support::ok("taken")).await;
        }
    })
    .await;
    let mut world = World::before(&backend).await;
    world.all_ok(&["OPTIONS_SET||r1|body_limit|1k", "CONFIG_APPLY|"]).await;
    let post = |length: usize| {
        let body = "x".repeat(length);
        format!("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    assert_eq!(world.raw(&post(1024)).await.body, "taken");
    let refused = world.raw(&post(1025)).await;
    assert_eq!(refused.status(), 413);
    assert!(refused.body.contains("longer body"), "{}", refused.body);
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}1\r\nx\r\n0\r\n\r\n"
    );
    assert_eq!(world.raw(&chunked).await.status(), 413);
    world.all_ok(&["OPTIONS_SET||r1|body_limit|0", "CONFIG_APPLY|"]).await;
    assert_eq!(world.raw(&post(5000)).await.body, "taken");
}
