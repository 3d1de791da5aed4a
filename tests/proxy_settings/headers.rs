//! HEADERS_SET and HEADERS_REMOVE.

use super::support::Backend;
use super::*;

const TWO_FRAMES: &str =
    "HTTP/1.1 200 OK\r\nX-Frame-Options: DENY\r\nX-Frame-Options: ALLOW\r\nContent-Length: 2\r\n\r\nhi";

#[tokio::test]
async fn a_header_that_is_set_replaces_the_backends_and_goes_when_it_is_removed() {
    let backend = Backend::answering(TWO_FRAMES).await;
    let mut world = World::before(&backend).await;
    let frames = |response: &Response| -> Vec<String> {
        let lines = response.head.lines().filter(|line| line.to_lowercase().starts_with("x-frame-options:"));
        lines.map(|line| line.split_once(": ").unwrap().1.to_owned()).collect()
    };
    world.ok("HEADERS_SET||ALL|X-Frame-Options|SAMEORIGIN").await;
    assert_eq!(frames(&world.get("/").await), ["DENY", "ALLOW"], "nothing happens before the apply");
    world.ok("CONFIG_APPLY|").await;
    assert_eq!(frames(&world.get("/").await), ["SAMEORIGIN"]);

    world.all_ok(&["HEADERS_SET||r1|x-frame-options|a | b", "CONFIG_APPLY|"]).await;
    assert_eq!(frames(&world.get("/").await), ["a | b"], "the route's own goes before the session's");
    world.all_ok(&["HEADERS_REMOVE||example.com|X-Frame-Options", "CONFIG_APPLY|"]).await;
    assert_eq!(frames(&world.get("/").await), ["SAMEORIGIN"]);
    world.all_ok(&["HEADERS_REMOVE||ALL|X-FRAME-OPTIONS", "CONFIG_APPLY|"]).await;
    assert_eq!(frames(&world.get("/").await), ["DENY", "ALLOW"]);
}

#[tokio::test]
async fn headers_are_those_of_the_chosen_members_route() {
    let (one, other) = (Backend::saying("one").await, Backend::saying("other").await);
    let mut world = World::before(&one).await;
    let mut sibling = session(world.server.registry_address(), "web", "web-2").await;
    for line in [
        format!("ROUTE_ADD||example.com|/|{}|0", other.url()),
        "HEADERS_SET||/|X-From|other".to_owned(),
        "CONFIG_APPLY|".to_owned(),
    ] {
        assert!(ask(&mut sibling, &line).await.contains("OK"), "{line}");
    }
    world.all_ok(&["HEADERS_SET||r1|X-From|one", "CONFIG_APPLY|"]).await;
    let mut seen = std::collections::BTreeSet::new();
    // The sibling serves as soon as it was probed.
    soon(async {
        while seen.len() < 2 {
            let response = world.get("/").await;
            assert_eq!(response.field("x-from"), Some(response.body.as_str()));
            seen.insert(response.body);
        }
    })
    .await;
}

#[tokio::test]
async fn a_partial_apply_of_headers_shows_headers_and_leaves_limits_for_later() {
    let backend = Backend::saying("hi").await;
    let mut world = World::before(&backend).await;
    world.all_ok(&["HEADERS_SET||r1|X-A|1", "RATELIMIT_SET||r1|1|1h", "CONFIG_APPLY_PARTIAL||headers"]).await;
    for _ in 0..3 {
        let response = world.get("/").await;
        assert_eq!((response.status(), response.field("x-a")), (200, Some("1")));
    }
    world.ok("CONFIG_APPLY|").await;
    assert_eq!(world.get("/").await.status(), 200);
    assert_eq!(world.get("/").await.status(), 429);
}
