//! The client library's examples, each against a registry with its proxy in this process.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]
#![allow(dead_code, reason = "an example's main, and what other suites need of the shared helpers")]

#[path = "../client/examples/drain.rs"]
mod drain;
#[path = "../client/examples/maintenance.rs"]
mod maintenance;
#[path = "../client/examples/register.rs"]
mod register;
#[path = "../client/examples/routes.rs"]
mod routes;
#[path = "../client/examples/several.rs"]
mod several;
#[path = "../client/examples/subscribe.rs"]
mod subscribe;
#[path = "operations/support.rs"]
mod support;

use std::ops::ControlFlow;
use std::time::Duration;

use registry_client::Endpoint;
use registry_client::protocol::{Domain, EventKind};
use registry_sidecar::server::Server;
use support::{Backend, Session, get, server, soon, until};
use tokio::sync::oneshot;

const DOMAIN: &str = "app.example.com";
/// Requests that find no member are answered at once.
const NO_HOLD: &[(&str, &str)] = &[("HOLD", "0s")];

fn endpoint(server: &Server) -> Endpoint {
    server.registry_address().to_string().parse().unwrap()
}

fn domain() -> Domain {
    DOMAIN.parse().unwrap()
}

async fn status(server: &Server) -> u16 {
    get(server, DOMAIN).await.status
}

#[tokio::test]
async fn one_route_is_registered_until_the_stop() {
    let (server, backend) = (server(NO_HOLD).await, Backend::new("app").await);
    let (stop, stopped) = oneshot::channel::<()>();
    let running = register::run(endpoint(&server), domain(), backend.addr.port(), async {
        drop(stopped.await);
    });
    let seen = async {
        until(async || status(&server).await == 200).await;
        drop(stop);
    };
    let (result, ()) = soon(async { tokio::join!(running, seen) }).await;
    result.unwrap();
    assert_ne!(status(&server).await, 200);
}

#[tokio::test]
async fn routes_change_while_they_serve() {
    let server = server(&[]).await;
    let (from, to) = (Backend::new("from").await, Backend::new("to").await);
    let urls = (from.url().parse().unwrap(), to.url().parse().unwrap());
    let client = soon(routes::run(endpoint(&server), domain(), urls.0, urls.1)).await.unwrap();
    until(async || get(&server, DOMAIN).await.body.starts_with("to ")).await;
    client.shutdown().await;
}

#[tokio::test]
async fn people_see_the_page_during_a_migration() {
    let (server, backend) = (server(&[]).await, Backend::new("app").await);
    let mut during = 0;
    let migration = async {
        during = status(&server).await;
        Ok(())
    };
    let url = backend.url().parse().unwrap();
    let client = soon(maintenance::run(endpoint(&server), domain(), url, migration)).await.unwrap();
    assert_eq!((during, status(&server).await), (503, 200));
    client.shutdown().await;
}

#[tokio::test]
async fn a_request_in_flight_is_answered_before_the_end() {
    let (server, backend) = (server(NO_HOLD).await, Backend::new("app").await);
    let (stop, stopped) = oneshot::channel::<()>();
    let url = backend.url().parse().unwrap();
    let running = drain::run(endpoint(&server), domain(), url, async { drop(stopped.await) });
    let request = async {
        until(async || status(&server).await == 200).await;
        backend.slow(true);
        let before = backend.requests();
        let answered = async { get(&server, DOMAIN).await.status };
        let stopping = async {
            until(async || backend.requests() > before).await;
            drop(stop);
            // New requests are no longer sent here while the one in flight is.
            until(async || server_says_drained(&server).await).await;
            backend.slow(false);
        };
        tokio::join!(answered, stopping).0
    };
    let (result, answered) = soon(async { tokio::join!(running, request) }).await;
    result.unwrap();
    assert_eq!(answered, 200);
}

/// Whether a new request finds nobody who takes it. One that comes before the drain waits for the slow backend, and is
/// given up.
async fn server_says_drained(server: &Server) -> bool {
    tokio::time::timeout(Duration::from_millis(100), status(server)).await == Ok(503)
}

#[tokio::test]
async fn an_observer_hears_of_another_services_configuration() {
    let (server, backend) = (server(&[]).await, Backend::new("app").await);
    let mut heard = None;
    let (mut session, mut count) = (Session::register(&server, "shop", "shop-1").await, 0);
    let observing = subscribe::run(endpoint(&server), |kind, data| {
        heard = Some((kind, data["service"].clone()));
        ControlFlow::Break(())
    });
    // Only what is applied after the subscription is told.
    let applying = async {
        loop {
            count += 1;
            session.route(&format!("{count}.example.com"), &backend.url()).await;
        }
    };
    soon(async {
        tokio::select! {
            result = observing => result.unwrap(),
            () = applying => {}
        }
    })
    .await;
    assert_eq!(heard, Some((EventKind::GlobalConfigChanged, "shop".into())));
}

#[tokio::test]
async fn one_client_for_each_registry() {
    let (one, two, backend) = (server(&[]).await, server(&[]).await, Backend::new("app").await);
    let url = backend.url().parse().unwrap();
    let (clients, settled) =
        soon(several::run(vec![endpoint(&one), endpoint(&two)], domain(), url)).await.unwrap();
    assert_eq!(settled, 2);
    assert_eq!((status(&one).await, status(&two).await), (200, 200));
    for client in clients {
        client.shutdown().await;
    }
}
