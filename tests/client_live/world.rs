//! A client, and a server that can be stopped and started again on the same ports.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use registry_client::protocol::{Domains, PathPrefix};
use registry_client::{Client, ClientConfig, Endpoint, Event, EventStream, Intent, Route, RouteKey, Routes};
use registry_sidecar::environment::Context;
use registry_sidecar::server::Server;
use registry_sidecar::server::config::Config;
use tokio::net::TcpListener;

use crate::support::soon;

/// Two addresses at which nobody listened a moment ago: of the proxy and of the registry.
pub(crate) async fn free_addresses() -> [SocketAddr; 2] {
    let one = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let two = TcpListener::bind("127.0.0.1:0").await.unwrap();
    [one.local_addr().unwrap(), two.local_addr().unwrap()]
}

/// A server on these addresses, which may have been another's until now.
pub(crate) async fn server_at([http, registry]: [SocketAddr; 2], more: &[(&str, &str)]) -> Server {
    let (http, registry) = (http.to_string(), registry.to_string());
    let ports = [
        ("HTTP_LISTEN", http.as_str()),
        ("REGISTRY_LISTEN", &registry),
        ("PROXY_THREADS", "2"),
        ("START_HOLD", "0s"),
    ];
    let vars = ports.iter().chain(more).map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let read_file = |path: &std::path::Path| std::fs::read(path).map_err(|e| e.to_string());
    let context = Context { host_name: "proxy", read_file: &read_file };
    let config = Config::from_env(vars, context).unwrap();
    soon(async {
        loop {
            match Server::start(&config).await {
                Ok(server) => return server,
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    })
    .await
}

pub(crate) fn route(domain: &str, path: &str, backend: &str) -> Route {
    let domains = Domains::new([domain.parse().unwrap()]).unwrap();
    Route::new(domains, path.parse::<PathPrefix>().unwrap(), backend.parse().unwrap())
}

pub(crate) fn intent() -> Intent {
    Intent::new("shop".parse().unwrap(), "shop-1".parse().unwrap())
}

pub(crate) fn routes(wanted: &[(&str, Route)]) -> Routes {
    wanted.iter().map(|(key, route)| (RouteKey::from(*key), route.clone())).collect()
}

/// A client that retries fast, so that no test waits.
pub(crate) fn start(registry: SocketAddr, intent: Intent) -> (Client, EventStream) {
    let mut config = ClientConfig::new(Endpoint::new(registry.ip().to_string(), registry.port()));
    config.reconnect_min = Duration::from_millis(2);
    config.reconnect_max = Duration::from_millis(50);
    Client::start(config, intent)
}

pub(crate) async fn live(client: &Client) {
    client.wait_settled(Duration::from_secs(20)).await.unwrap();
}

/// Reads events until the one of this name.
pub(crate) async fn event(events: &mut EventStream, name: &str) -> Event {
    loop {
        let event = soon(events.next()).await.unwrap_or_else(|| panic!("no {name}"));
        if event.name() == name {
            return event;
        }
    }
}
