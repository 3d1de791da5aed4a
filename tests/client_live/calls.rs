//! What a handle may ask, answered by our own server.

use std::time::Duration;

use registry_client::protocol::report::IdsOrCount;
use registry_client::protocol::{EventKind, Refusal};
use registry_client::{BackendTestError, CallError, Event};

use crate::support::{Backend, get, server, until};
use crate::world::{event, intent, live, route, start};

#[tokio::test]
async fn the_stage_is_validated_compared_and_rolled_back() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let main = route("a.example.com", "/", &backend.url());
    let (client, mut events) = start(server.registry_address(), intent().with_route("main", main));
    live(&client).await;
    client.validate().await.unwrap();
    event(&mut events, "CONFIG_VALIDATED").await;
    let diff = client.diff().await.unwrap();
    let nothing = IdsOrCount::default();
    assert_eq!((&diff.routes.added, &diff.routes.removed), (&nothing, &nothing));
    client.rollback().await.unwrap();
    assert_eq!(client.registered_routes().await.unwrap().len(), 1);
}

#[tokio::test]
async fn statistics_breakers_and_backends_are_asked_about() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let main = route("a.example.com", "/", &backend.url());
    let (client, _events) = start(server.registry_address(), intent().with_route("main", main));
    assert_eq!(client.stats().await, Err(CallError::NoSession), "an answer, not a wait");
    live(&client).await;
    get(&server, "a.example.com").await;
    until(async || client.stats().await.unwrap()[0].requests == 1).await;
    let no_breaker = client.circuit_breaker_reset("main").await;
    assert_eq!(no_breaker, Err(CallError::Refused(Refusal::CircuitBreakerNotFound)));
    assert!(matches!(client.circuit_breaker_status("other").await, Err(CallError::NoRoute(_))));

    let report = client.backend_test(backend.url().parse().unwrap()).await.unwrap();
    assert_eq!((report.reachable, report.status_code), (true, 200));
    let url = backend.url();
    backend.stop().await;
    let refused = client.backend_test(url.parse().unwrap()).await;
    assert!(matches!(refused, Err(BackendTestError::Unreachable(_))), "{refused:?}");
    let forbidden = client.backend_test("http://169.254.1.1:80".parse().unwrap()).await;
    assert!(matches!(&forbidden, Err(BackendTestError::Unreachable(_) | BackendTestError::Refused(_))));
    assert!(forbidden.unwrap_err().to_string().contains("not allowed"));
}

#[tokio::test]
async fn a_drain_is_started_watched_and_cancelled() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let main = route("a.example.com", "/", &backend.url());
    let (client, _events) = start(server.registry_address(), intent().with_route("main", main));
    live(&client).await;
    assert_eq!(client.drain_cancel().await, Err(CallError::Refused(Refusal::NoDrain)));
    client.drain_start(Duration::from_secs(60)).await.unwrap();
    let drain = client.drain_status().await.unwrap();
    assert!(drain.active && drain.in_flight == Some(0), "{drain:?}");
    client.drain_cancel().await.unwrap();
    assert_eq!(get(&server, "a.example.com").await.status, 200);
}

#[tokio::test]
async fn the_registrys_own_events_are_subscribed_to() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let (client, mut events) = start(server.registry_address(), intent());
    client.subscribe(EventKind::All).await.unwrap();
    live(&client).await;
    // The subscription goes after what is wanted of the routes, and before this answer.
    client.registered_routes().await.unwrap();
    let other = registry_client::Intent::new("other".parse().unwrap(), "other-1".parse().unwrap());
    let (other, _more) = start(
        server.registry_address(),
        other.with_route("main", route("b.example.com", "/", &backend.url())),
    );
    live(&other).await;
    let Event::Registry { kind, data } = event(&mut events, "REGISTRY_EVENT").await else { panic!() };
    assert_eq!((kind, &data["service"]), (EventKind::GlobalConfigChanged, &"other".into()));
}

#[tokio::test]
async fn our_own_address_is_the_one_on_the_way_to_the_registry() {
    let server = server(&[]).await;
    let (client, _events) = start(server.registry_address(), intent());
    live(&client).await;
    assert_eq!(client.local_ip(), Some("127.0.0.1".parse().unwrap()));
    let url = client.build_backend_url(3000).unwrap();
    assert_eq!(url.to_string(), "http://127.0.0.1:3000/");
}
