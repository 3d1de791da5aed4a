//! What our client bears from the reference server, point by point of PROTOCOL section 8: each file has a server
//! that misbehaves in exactly that way, as a script of its lines.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail")]

#[path = "reference/p01_reconnect_never_resumes.rs"]
mod p01_reconnect_never_resumes;
#[path = "reference/p02_verdicts_come_late.rs"]
mod p02_verdicts_come_late;
#[path = "reference/p03_bulk_locks_up.rs"]
mod p03_bulk_locks_up;
#[path = "reference/p04_backend_test_crashes.rs"]
mod p04_backend_test_crashes;
#[path = "reference/p05_settings_only_with_their_route.rs"]
mod p05_settings_only_with_their_route;
#[path = "reference/p06_entries_leak.rs"]
mod p06_entries_leak;
#[path = "reference/p07_living_routes_get_lost.rs"]
mod p07_living_routes_get_lost;
#[path = "reference/p08_maintenance_sticks.rs"]
mod p08_maintenance_sticks;
#[path = "reference/p09_drain_is_an_outage.rs"]
mod p09_drain_is_an_outage;
#[path = "reference/p10_it_vanishes_without_a_word.rs"]
mod p10_it_vanishes_without_a_word;
#[path = "reference/p11_priorities_are_ignored.rs"]
mod p11_priorities_are_ignored;

use std::time::Duration;

use registry_client::protocol::{Domains, PathPrefix};
use registry_client::testing::{MemoryRegistry, ScriptedLink};
use registry_client::{Client, ClientConfig, Endpoint, Event, EventStream, Intent, Route};
use tokio::io::DuplexStream;
use tokio::time::timeout;

/// More than anything here takes, in virtual time.
const PATIENCE: Duration = Duration::from_secs(600);

fn route(domain: &str, backend: &str) -> Route {
    let domains = Domains::new([domain.parse().unwrap()]).unwrap();
    Route::new(domains, PathPrefix::root(), backend.parse().unwrap())
}

fn bare() -> Intent {
    Intent::new("web".parse().unwrap(), "web-1".parse().unwrap())
}

/// One route, `main`: example.com to 10.2.2.7:8080.
fn intent() -> Intent {
    bare().with_route("main", route("example.com", "http://10.2.2.7:8080"))
}

fn start(intent: Intent) -> (Client, EventStream, MemoryRegistry) {
    let (registry, connector) = MemoryRegistry::new();
    // As often as the keepalive, so that the scripts are short.
    let config =
        ClientConfig::new(Endpoint::new("proxy", 81)).with_route_watch_interval(Duration::from_secs(30));
    let (client, events) = Client::start_with(connector, config, intent);
    (client, events, registry)
}

/// The beginning of every session: this server says nothing of itself.
async fn greet(link: &mut ScriptedLink<DuplexStream>, id: &str) {
    link.play(&format!(
        "> REGISTER|web|web-1|0|{{}}
         < ACK|{id}
         > SESSION_INFO|{id}
         < SESSION_OK|{{\"session_id\":\"{id}\",\"routes_active\":0}}"
    ))
    .await;
}

/// The one route of [`intent`], in force as r2, after what former sessions left is gone.
async fn clear_and_add(link: &mut ScriptedLink<DuplexStream>, id: &str) {
    link.play(&format!(
        "> ROUTE_ADD|{id}|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r1
         > CONFIG_APPLY|{id}
         < OK
         > ROUTE_REMOVE|{id}|r1
         < ROUTE_OK|r1
         > CONFIG_APPLY|{id}
         < OK
         > ROUTE_ADD|{id}|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r2
         > CONFIG_APPLY|{id}
         < OK"
    ))
    .await;
}

/// A client whose one route is in force as r2 of session S1.
async fn live() -> (Client, EventStream, MemoryRegistry, ScriptedLink<DuplexStream>) {
    let (client, events, mut registry) = start(intent());
    let mut link = registry.accept().await;
    greet(&mut link, "S1").await;
    clear_and_add(&mut link, "S1").await;
    client.wait_settled(PATIENCE).await.unwrap();
    (client, events, registry, link)
}

/// Reads events until the one of this name.
async fn until(events: &mut EventStream, name: &str) -> Event {
    loop {
        let event = timeout(PATIENCE, events.next()).await.unwrap().unwrap_or_else(|| panic!("no {name}"));
        if event.name() == name {
            return event;
        }
    }
}
