//! RATELIMIT_SET: each client address has its requests, and whoever asks for more is told when to come again.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::support::Backend;
use super::*;

/// What was logged, by all threads of the program.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines_with(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).lines().filter(|line| line.contains(text)).count()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The statuses of requests that claim to be forwarded for `client`.
async fn statuses(world: &World, client: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        let request = format!("GET / HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-For: {client}\r\n\r\n");
        statuses.push(world.raw(&request).await.status());
    }
    statuses
}

#[tokio::test]
async fn too_many_requests_are_answered_with_429_and_when_to_come_again() {
    let backend = Backend::saying("hi").await;
    let mut world = World::before(&backend).await;
    world.ok("RATELIMIT_SET||r1|2|1h").await;
    assert_eq!(statuses(&world, "1.2.3.4", 3).await, [200, 200, 200], "nothing happens before the apply");
    world.ok("CONFIG_APPLY|").await;
    assert_eq!(statuses(&world, "1.2.3.4", 2).await, [200, 200]);
    // What a client says of itself does not make it another one. And each connection may be on another core.
    let refused = world.get("/").await;
    assert_eq!((refused.status(), refused.field("retry-after")), (429, Some("1800")));
    assert!(refused.body.contains("more requests than this service allows"), "{}", refused.body);
    assert_eq!(statuses(&world, "5.6.7.8", 2).await, [429, 429]);

    world.all_ok(&["RATELIMIT_SET||ALL|3|1h", "RATELIMIT_SET||r1|3|1h", "CONFIG_APPLY|"]).await;
    assert_eq!(statuses(&world, "1.2.3.4", 2).await, [200, 429], "what was used up stays used up");
    world.all_ok(&["RATELIMIT_SET||r1|0|0s", "CONFIG_APPLY|"]).await;
    assert_eq!(statuses(&world, "1.2.3.4", 4).await, [200; 4], "zero takes the session's limit away too");
}

#[tokio::test]
async fn the_bucket_is_the_claims_whichever_member_serves() {
    let (one, other) = (Backend::saying("one").await, Backend::saying("other").await);
    let mut world = World::before(&one).await;
    world.all_ok(&["RATELIMIT_SET||ALL|100|1h", "CONFIG_APPLY|"]).await;
    let mut sibling = session(world.server.registry_address(), "web", "web-2").await;
    for line in [
        format!("ROUTE_ADD||example.com|/|{}|0", other.url()),
        "RATELIMIT_SET||r1|4|1h".to_owned(),
        "CONFIG_APPLY|".to_owned(),
    ] {
        assert!(ask(&mut sibling, &line).await.contains("OK"), "{line}");
    }
    assert_eq!(statuses(&world, "1.2.3.4", 6).await, [200, 200, 200, 200, 429, 429], "the last one's holds");
    world.all_ok(&["RATELIMIT_SET||ALL|101|1h", "CONFIG_APPLY|"]).await;
    assert_eq!(statuses(&world, "1.2.3.4", 1).await, [200]);
}

#[tokio::test]
async fn behind_a_trusted_proxy_its_clients_are_told_apart() {
    let backend = Backend::saying("hi").await;
    let mut world = World::with(&[("TRUSTED_PROXIES", "127.0.0.1")]).await;
    world.route("example.com", &backend).await;
    world.all_ok(&["RATELIMIT_SET||ALL|1|1h", "CONFIG_APPLY|"]).await;
    for client in ["1.2.3.4", "5.6.7.8", "6.6.6.6, 9.9.9.9"] {
        assert_eq!(statuses(&world, client, 2).await, [200, 429], "{client}");
    }
    assert_eq!(statuses(&world, "7.7.7.7, 9.9.9.9", 1).await, [429], "what a client adds does not count");
}

#[tokio::test]
async fn that_many_clients_seem_to_share_an_address_is_said_once_and_with_the_cure() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    let warnings = || log.lines_with("many clients seem to share");
    let backend = Backend::saying("hi").await;
    let mut world = World::with(&[("PROXY_THREADS", "1")]).await;
    world.route("example.com", &backend).await;
    world.all_ok(&["RATELIMIT_SET||ALL|1|1h", "CONFIG_APPLY|"]).await;
    assert_eq!(statuses(&world, "1.2.3.4", 3).await, [200, 429, 429]);
    assert_eq!(warnings(), 0, "that may be one client");

    let mut crowd = Vec::new();
    for _ in 0..8 {
        let mut client = world.client().await;
        client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
        assert_eq!(client.response().await.status(), 429);
        crowd.push(client);
    }
    // Connections are counted once a second at most.
    soon(async {
        while warnings() == 0 {
            assert_eq!(statuses(&world, "1.2.3.4", 1).await, [429]);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(log.lines_with("mode: host"), 1, "what to do about it stands in the same line");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(statuses(&world, "1.2.3.4", 3).await, [429; 3]);
    assert_eq!(warnings(), 1);
}
