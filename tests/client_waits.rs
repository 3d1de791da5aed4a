//! The waits of a client, and what they end with: each ends, and none says that something is in force that is not.
//! Time is virtual, so that whatever waits for ever fails at once.
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

use std::time::Duration;

use registry_client::protocol::{Domains, PathPrefix, Refusal, RouteId};
use registry_client::testing::{FakeRegistry, MemoryRegistry};
use registry_client::{
    Cause, Client, ClientConfig, ConnectError, DrainError, Endpoint, Event, EventStream, Intent,
    MaintenanceError, MaintenanceTarget, Mode, Route, RouteError, RouteStatus, Visibility, WaitError,
};

const LIMIT: Duration = Duration::from_secs(5);

fn route(domain: &str) -> Route {
    let domains = Domains::new([domain.parse().unwrap()]).unwrap();
    Route::new(domains, PathPrefix::root(), "http://10.2.2.7:8080".parse().unwrap())
}

fn intent() -> Intent {
    Intent::new("web".parse().unwrap(), "web-1".parse().unwrap()).with_route("main", route("example.com"))
}

fn start(registry: &FakeRegistry, intent: Intent) -> (Client, EventStream) {
    Client::start_with(registry.connector(), ClientConfig::new(Endpoint::new("proxy", 81)), intent)
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_not_there_ends_every_wait_at_its_limit_and_says_why() {
    let registry = FakeRegistry::new();
    let connector = registry.connector();
    drop(registry);
    let config = ClientConfig::new(Endpoint::new("proxy", 81));
    let (client, _events) = Client::start_with(connector, config, intent());
    let target = MaintenanceTarget::All;
    client.maintenance_enter(target.clone(), None).unwrap();
    let ends = [
        client.wait_connected(LIMIT).await,
        client.wait_settled(LIMIT).await,
        client.wait_route("main", LIMIT).await.map(drop),
        client.wait_maintenance(&target, LIMIT).await.map(drop),
    ];
    for end in ends {
        let Err(WaitError::TimedOut { after: LIMIT, cause: Some(Cause::Connect(why)) }) = end else {
            panic!("{end:?}");
        };
        assert!(matches!(why, ConnectError::Refused { .. }), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_route_ends_the_wait_for_it_and_not_the_wait_for_another() {
    let registry = FakeRegistry::new();
    registry.refuse_domain("taken.example".parse().unwrap(), "shop");
    let (client, mut events) = start(&registry, intent().with_route("taken", route("taken.example")));
    let refusal = Refusal::Other("route r2: taken.example/ belongs to service shop".to_owned());
    let refused = WaitError::RouteRefused { key: "taken".into(), refusal };
    assert_eq!(client.wait_route("taken", LIMIT).await, Err(refused.clone()));
    assert_eq!(client.wait_settled(LIMIT).await.map_err(|error| error.to_string().len() > 20), Err(true));
    client.wait_route("main", LIMIT).await.unwrap();
    assert_eq!(client.wait_route("none", LIMIT).await, Err(WaitError::UnknownRoute("none".into())));

    registry.accept_domain(&"taken.example".parse().unwrap());
    registry.wait_for_routes(LIMIT * 12, |routes| routes.len() == 2).await;
    client.wait_settled(LIMIT).await.unwrap();
    while !matches!(events.next().await, Some(Event::RouteRefused { .. })) {}
}

#[tokio::test(start_paused = true)]
async fn settled_means_the_visibility_too_also_where_nothing_is_to_be_seen() {
    let registry = FakeRegistry::new();
    let (client, _events) = start(&registry, intent().with_visibility(Visibility::Absent));
    client.wait_settled(LIMIT).await.unwrap();
    assert!(registry.routes().is_empty());
    assert_eq!(client.wait_route("main", LIMIT).await, Err(WaitError::Absent));

    client.set_visibility(Visibility::Live).unwrap();
    client.wait_settled(LIMIT).await.unwrap();
    assert_eq!(registry.routes().len(), 1);

    // A registry that does not answer has confirmed nothing, although the routes are in force.
    for (visibility, other) in
        [(Visibility::Maintenance, Visibility::Live), (Visibility::Draining, Visibility::Maintenance)]
    {
        registry.set_silent(true);
        client.set_visibility(visibility).unwrap();
        let end = client.wait_settled(LIMIT).await;
        assert_eq!(end, Err(WaitError::TimedOut { after: LIMIT, cause: None }));
        assert_eq!(client.status().shown, other);
        registry.set_silent(false);
        client.wait_settled(LIMIT * 12).await.unwrap();
        assert_eq!(client.status().shown, visibility);
    }
    assert!(registry.routes()[0].is_drained && !registry.routes()[0].in_maintenance);
}

#[tokio::test(start_paused = true)]
async fn maintenance_says_whose_word_it_is_and_never_of_what_there_is_not() {
    let registry = FakeRegistry::new();
    let (client, _events) = start(&registry, intent());
    client.wait_settled(LIMIT).await.unwrap();
    let nothing = MaintenanceTarget::Path("/nothing".parse().unwrap());
    let unknown = MaintenanceError::UnknownTarget(nothing.clone());
    assert_eq!(client.maintenance_enter(nothing.clone(), None), Err(unknown.clone()));
    assert_eq!(client.maintenance_exit(nothing), Err(unknown));

    let target = MaintenanceTarget::Route("main".into());
    client.maintenance_enter(target.clone(), None).unwrap();
    assert_eq!(client.wait_maintenance(&target, LIMIT).await, Ok(Mode::Proxy));
    assert!(registry.routes()[0].in_maintenance);
    client.maintenance_exit(target.clone()).unwrap();
    assert_eq!(client.wait_maintenance(&target, LIMIT).await, Ok(Mode::Proxy));
    assert!(!registry.routes()[0].in_maintenance);

    registry.set_silent(true);
    client.maintenance_enter(target.clone(), None).unwrap();
    let limit = Duration::from_secs(60);
    assert_eq!(client.wait_maintenance(&target, limit).await, Ok(Mode::Local));
    // A route that is gone takes its maintenance along.
    client.remove_route("main").unwrap();
    client.maintenance_exit(target).unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_was_replaced_is_not_live_and_no_wait_of_his_hangs_until_he_takes_over() {
    let registry = FakeRegistry::new();
    let (first, _events) = start(&registry, intent());
    first.wait_settled(LIMIT).await.unwrap();
    let (second, _events_of_second) = start(&registry, intent());
    second.wait_settled(LIMIT).await.unwrap();
    assert_eq!(first.wait_route("gone", LIMIT).await, Err(WaitError::UnknownRoute("gone".into())));
    let mut status = first.watch();
    let status = status.wait_for(|status| status.replaced).await.unwrap().clone();
    assert!(!status.live && !status.settled && status.shown == Visibility::Absent, "{status:?}");
    assert_eq!(status.routes["main"], RouteStatus::Pending);
    let until_replaced = Duration::from_secs(100);
    assert_eq!(first.wait_settled(until_replaced).await, Err(WaitError::Replaced));
    assert_eq!(first.wait_connected(LIMIT).await, Err(WaitError::Replaced));

    first.take_over().await.unwrap();
    first.wait_settled(LIMIT).await.unwrap();
    assert_eq!(second.wait_connected(Duration::ZERO).await, Ok(()), "it has not been told yet");
}

#[tokio::test(start_paused = true)]
async fn a_refused_registration_ends_a_wait_and_another_token_begins_anew() {
    let (mut registry, connector) = MemoryRegistry::new();
    let config = ClientConfig::new(Endpoint::new("proxy", 81));
    let (client, _events) = Client::start_with(connector, config, intent());
    let mut link = registry.accept().await;
    link.play("> REGISTER|web|web-1|0|{}\n< ERROR|not allowed: token").await;
    let Err(WaitError::RegistrationRefused(_)) = client.wait_connected(LIMIT).await else {
        panic!("it was refused");
    };
    client.set_metadata(intent().with_metadata("token", "t0p".into()).metadata).unwrap();
    let script = async {
        let mut link = registry.accept().await;
        link.play("> REGISTER|web|web-1|0|{\"token\":\"t0p\"}\n< ACK|S1\n> SESSION_INFO|S1\n< SESSION_OK|{}")
            .await;
        link.expect("ROUTE_ADD|*").await;
        link
    };
    let (connected, _link) = tokio::join!(client.wait_connected(LIMIT), script);
    connected.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_when_nothing_is_in_flight_or_says_how_much_is() {
    let registry = FakeRegistry::new();
    let (client, _events) = start(&registry, intent());
    client.wait_settled(LIMIT).await.unwrap();
    registry.set_in_flight(3);
    assert_eq!(client.drain(LIMIT).await, Err(DrainError::TimedOut { in_flight: Some(3) }));
    assert!(registry.routes()[0].is_drained);
    let finished = async {
        tokio::time::sleep(LIMIT / 2).await;
        registry.set_in_flight(0);
    };
    let (drained, ()) = tokio::join!(client.drain(LIMIT), finished);
    drained.unwrap();
    client.set_visibility(Visibility::Live).unwrap();
    client.wait_settled(LIMIT).await.unwrap();
    assert!(!registry.routes()[0].is_drained);

    registry.set_silent(true);
    assert_eq!(client.drain(LIMIT).await, Err(DrainError::TimedOut { in_flight: None }));
    client.shutdown().await;
    assert_eq!(client.drain(LIMIT).await, Err(DrainError::Stopped));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_cannot_drain_is_not_asked_to() {
    let (mut registry, connector) = MemoryRegistry::new();
    let config = ClientConfig::new(Endpoint::new("proxy", 81));
    let (client, _events) = Client::start_with(connector, config, intent());
    let mut link = registry.accept().await;
    link.play(
        "> REGISTER|*\n< ACK|S1\n> SESSION_INFO|S1\n< SESSION_OK|{\"revision\":0,\"server\":\"registry-server/0\"}
         > ROUTE_ADD|*\n< ROUTE_OK|r1\n> CONFIG_APPLY|S1\n< OK",
    )
    .await;
    client.wait_settled(LIMIT).await.unwrap();
    assert_eq!(client.drain(LIMIT).await, Err(DrainError::Unsupported));
    assert_eq!(client.status().visibility_wanted, Visibility::Live);
    link.expect("PING|S1").await;
}

#[tokio::test(start_paused = true)]
async fn two_clones_that_change_a_route_each_lose_no_change() {
    let registry = FakeRegistry::new();
    let (client, _events) = start(&registry, intent());
    let clones = (0..50).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.modify_route("main", |route| route.priority += 1).unwrap() })
    });
    for clone in clones.collect::<Vec<_>>() {
        clone.await.unwrap();
    }
    client.wait_settled(LIMIT).await.unwrap();
    assert_eq!(registry.routes()[0].route.priority, 10 + 50);
    assert_eq!(client.modify_route("none", |_| ()), Err(RouteError::Unknown("none".into())));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_nothing_has_changes_nothing_and_tells_nothing() {
    let registry = FakeRegistry::new();
    let (client, mut events) = start(&registry, intent());
    client.wait_settled(LIMIT).await.unwrap();
    let before = client.status();
    assert_eq!(client.change_address([10, 2, 2, 8].into(), [10, 2, 2, 9].into()), Ok(false));
    assert_eq!(client.change_address([10, 2, 2, 7].into(), [10, 2, 2, 7].into()), Ok(false));
    assert_eq!(client.status(), before);
    assert_eq!(client.change_address([10, 2, 2, 7].into(), [10, 2, 2, 9].into()), Ok(true));
    client.wait_settled(LIMIT).await.unwrap();
    client.shutdown().await;
    let mut changed = 0;
    while let Some(event) = events.next().await {
        changed += usize::from(event.name() == "IP_CHANGED");
    }
    assert_eq!(changed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_client_says_goodbye_while_the_runtime_runs() {
    let registry = FakeRegistry::new();
    let (client, events) = start(&registry, intent());
    client.wait_settled(LIMIT).await.unwrap();
    drop((client, events));
    registry.wait_for_routes(LIMIT, <[_]>::is_empty).await;
    assert_eq!(registry.lines().last().unwrap(), "CLIENT_SHUTDOWN|[redacted]");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_restarts_without_its_state_gets_everything_again_and_ids_are_of_the_new_session() {
    let registry = FakeRegistry::new();
    let (client, _events) = start(&registry, intent());
    assert_eq!(client.wait_route("main", LIMIT).await, Ok(RouteId(1)));
    registry.restart();
    assert!(registry.routes().is_empty());
    registry.wait_for_routes(LIMIT, |routes| routes.len() == 1).await;
    assert_eq!(client.wait_route("main", LIMIT).await, Ok(RouteId(1)));
    registry.disconnect();
    client.wait_settled(LIMIT).await.unwrap();
}
