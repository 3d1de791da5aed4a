//! What a registry sees of the client, and what the client's user sees of the registry: stories over real
//! connections, and over connections in memory where virtual time matters.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail")]

mod support;

use registry_sidecar::client::{Client, ClientConfig, Endpoint, Event, EventStream, Intent, Phase, Route};
use registry_sidecar::protocol::{Domains, HealthCheck, PathPrefix, RouteOption};
use support::fake_registry::FakeRegistry;

/// What our own server says of a fresh session.
const INFO: &str = r#"SESSION_OK|{"revision":0,"server":"registry-server/0.1.0"}"#;

fn route(domain: &str, backend: &str) -> Route {
    let domains = Domains::new([domain.parse().unwrap()]).unwrap();
    Route::new(domains, PathPrefix::root(), backend.parse().unwrap())
}

fn intent() -> Intent {
    Intent::new("web".parse().unwrap(), "web-1".parse().unwrap())
        .with_route("main", route("example.com", "http://10.2.2.7:8080"))
}

fn start(registry: &FakeRegistry, intent: Intent) -> (Client, EventStream) {
    let endpoint = Endpoint::new(registry.address.ip().to_string(), registry.address.port());
    Client::start(ClientConfig::new(endpoint), intent)
}

/// Reads events until the one of this name.
async fn until(events: &mut EventStream, name: &str) -> Event {
    loop {
        let event = events.next().await.unwrap_or_else(|| panic!("no {name}"));
        if event.name() == name {
            return event;
        }
    }
}

#[tokio::test]
async fn registers_stages_applies_pings_and_leaves_in_order() {
    let registry = FakeRegistry::listen().await;
    let check = HealthCheck {
        path: "/health".parse().unwrap(),
        interval: "30s".parse().unwrap(),
        timeout: "5s".parse().unwrap(),
    };
    let main = route("example.com", "http://10.2.2.7:8080")
        .with_health(check)
        .with_option(RouteOption::Compression(true));
    let (client, mut events) = start(&registry, intent().with_route("main", main));
    let mut link = registry.accept().await;
    link.play("> REGISTER|web|web-1|0|{}").await;
    link.play("< ACK|S1").await;
    link.play("> SESSION_INFO|S1").await;
    link.send(INFO).await;
    link.play(
        "> ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r1
         > OPTIONS_SET|S1|r1|compression|true
         < OPTIONS_OK
         > HEALTH_SET|S1|r1|/health|30s|5s
         < HEALTH_OK
         > CONFIG_APPLY|S1
         < OK",
    )
    .await;
    client.wait_live().await.unwrap();
    let names: Vec<_> = [events.next().await, events.next().await, events.next().await, events.next().await]
        .into_iter()
        .map(|event| event.unwrap().name())
        .collect();
    assert_eq!(names, ["CONNECTED", "ROUTE_ADDED", "HEALTH_CHECK_SET", "CONFIG_APPLIED"]);

    let leaving = tokio::spawn({
        let client = client.clone();
        async move { client.shutdown().await }
    });
    link.play(
        "> CLIENT_SHUTDOWN|S1
         < SHUTDOWN_OK",
    )
    .await;
    leaving.await.unwrap();
    link.expect_end().await;
    assert_eq!(client.status().phase, Phase::Stopped);
    assert_eq!(events.next().await, None);
}
