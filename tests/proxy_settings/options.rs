//! OPTIONS_SET and OPTIONS_REMOVE: each key does what it says, and what holds when nobody says anything.

use std::time::Duration;

use super::support::{Backend, Peer, field};
use super::*;

const UPGRADE: &str =
    "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Switches protocols if it is asked to, answers `/slow` never and everything else with what it was told of its name.
async fn versatile() -> Backend {
    let heads: std::sync::Arc<std::sync::Mutex<Vec<String>>> = std::sync::Arc::default();
    let kept = std::sync::Arc::clone(&heads);
    let mut backend = Backend::new(move |mut peer: Peer| {
        let kept = std::sync::Arc::clone(&kept);
        async move {
            while let Some(head) = peer.head().await {
                kept.lock().unwrap().push(head.clone());
                let host = field(&head, "host").unwrap().to_owned();
                if field(&head, "upgrade").is_some() {
                    peer.send("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
                    return peer.gone().await;
                } else if head.starts_with("GET /slow ") {
                    return peer.gone().await;
                }
                peer.send(support::ok(&host)).await;
            }
        }
    })
    .await;
    backend.heads = heads;
    backend
}

/// Whether there is no answer for so long that no time-out of a test can be in force.
async fn hangs(world: &World, request: &str) -> bool {
    let mut client = world.client().await;
    client.send(request).await;
    tokio::time::timeout(Duration::from_millis(900), client.head()).await.is_err()
}

#[tokio::test]
async fn timeout_is_how_long_the_headers_of_a_response_may_take() {
    let backend = versatile().await;
    let mut world = World::before(&backend).await;
    let slow = "GET /slow HTTP/1.1\r\nHost: example.com\r\n\r\n";
    assert!(hangs(&world, slow).await, "a minute unless something else is said");
    world.all_ok(&["OPTIONS_SET||r1|timeout|300ms", "CONFIG_APPLY|"]).await;
    assert_eq!(world.get("/slow").await.status(), 504);
    assert_eq!(world.get("/").await.status(), 200);
    world.all_ok(&["OPTIONS_REMOVE||r1|timeout", "CONFIG_APPLY|"]).await;
    assert!(hangs(&world, slow).await, "as before");
}

#[tokio::test]
async fn websocket_off_refuses_upgrades_and_nothing_else() {
    let backend = versatile().await;
    let mut world = World::before(&backend).await;
    assert_eq!(world.raw(UPGRADE).await.status(), 101);
    world.all_ok(&["OPTIONS_SET||r1|websocket|false", "CONFIG_APPLY|"]).await;
    let asked = backend.heads.lock().unwrap().len();
    let refused = world.raw(UPGRADE).await;
    assert_eq!(refused.status(), 403);
    assert!(refused.body.contains("websocket=false"), "{}", refused.body);
    assert_eq!(backend.heads.lock().unwrap().len(), asked, "the backend hears nothing of it");
    assert_eq!(world.get("/").await.status(), 200);
    world.all_ok(&["OPTIONS_SET||r1|websocket|true", "CONFIG_APPLY|"]).await;
    assert_eq!(world.raw(UPGRADE).await.status(), 101);
}

#[tokio::test]
async fn preserve_host_off_shows_the_backend_its_own_name() {
    let backend = versatile().await;
    let mut world = World::before(&backend).await;
    assert_eq!(world.get("/").await.body, "example.com");
    world.all_ok(&["OPTIONS_SET||ALL|preserve_host|false", "CONFIG_APPLY|"]).await;
    assert_eq!(world.get("/").await.body, backend.addr.to_string());
    assert_eq!(field(&backend.last_head(), "x-forwarded-host"), Some("example.com"));
    world.all_ok(&["OPTIONS_SET||r1|preserve_host|true", "CONFIG_APPLY|"]).await;
    assert_eq!(world.get("/").await.body, "example.com", "the route's own goes before the session's");
    world.all_ok(&["OPTIONS_REMOVE||r1|preserve_host", "CONFIG_APPLY|"]).await;
    assert_eq!(world.get("/").await.body, backend.addr.to_string(), "and without it the session's holds");
}

#[tokio::test]
async fn all_is_for_routes_that_come_later_too() {
    let backend = versatile().await;
    let mut world = World::new().await;
    world.ok("OPTIONS_SET||ALL|websocket|false").await;
    world.route("example.com", &backend).await;
    assert_eq!(world.raw(UPGRADE).await.status(), 403);
}

#[tokio::test]
async fn hold_is_how_long_requests_wait_for_a_successor() {
    let backend = versatile().await;
    let mut world = World::before(&backend).await;
    world.all_ok(&["OPTIONS_SET||r1|hold|300ms", "CONFIG_APPLY|", "DRAIN_START||0s"]).await;
    let begun = std::time::Instant::now();
    let over = world.get("/").await;
    assert_eq!((over.status(), over.field("retry-after").is_some()), (503, true));
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(10), "not the thirty seconds of everybody else: {waited:?}");
    assert!(waited > Duration::from_millis(150), "{waited:?}");
    world.all_ok(&["DRAIN_CANCEL|", "OPTIONS_SET||r1|hold|0s", "CONFIG_APPLY|", "DRAIN_START||0s"]).await;
    assert_eq!(world.get("/").await.status(), 503, "nothing is waited for");
    world.all_ok(&["DRAIN_CANCEL|", "OPTIONS_REMOVE||r1|hold", "CONFIG_APPLY|", "DRAIN_START||0s"]).await;
    assert!(hangs(&world, "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await);
}

#[tokio::test]
async fn the_intervals_of_a_check_are_one_cell_with_health_set() {
    let probed = Backend::saying("well").await;
    let mut world = World::before(&probed).await;
    world.all_ok(&["HEALTH_SET||r1|/health|1h|5s", "CONFIG_APPLY|"]).await;
    let probes = || probed.heads.lock().unwrap().iter().filter(|head| head.contains("/health")).count();
    support::until(|| probes() == 1).await;
    world.all_ok(&["OPTIONS_SET||r1|health_check_interval|100ms", "CONFIG_APPLY|"]).await;
    support::until(|| probes() > 5).await;
    world.all_ok(&["HEALTH_SET||r1|/health|1h|5s", "CONFIG_APPLY|"]).await;
    let until_now = probes();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(probes() <= until_now + 2, "the last writer wins");
}

#[tokio::test]
async fn what_is_no_option_or_no_value_is_refused_and_changes_nothing() {
    let backend = versatile().await;
    let mut world = World::before(&backend).await;
    for (line, words) in [
        ("OPTIONS_SET||r1|colour|blue", "colour"),
        ("OPTIONS_SET||r1|websocket|perhaps", "perhaps"),
        ("OPTIONS_SET||r1|timeout|soon", "invalid duration: soon"),
        ("OPTIONS_SET||r1|timeout|0s", "invalid duration: 0s"),
        ("OPTIONS_SET||r7|websocket|true", "unknown target: r7"),
    ] {
        let refused = world.ask(line).await;
        assert!(refused.starts_with("ERROR|") && refused.contains(words), "{line}: {refused}");
    }
    assert!(!world.ask("CONFIG_DIFF|").await.contains(r#""modified":1"#));
    world.all_ok(&["OPTIONS_SET||r1|http3|true", "CONFIG_APPLY|"]).await;
    assert_eq!(world.get("/").await.status(), 200, "http3 is kept for later, without effect");
}
