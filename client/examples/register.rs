//! Registers one route and keeps it registered until Ctrl-C:
//!
//! ```text
//! cargo run --example register -- proxy:81 app.example.com 8080
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::env;
use std::error::Error;
use std::future::Future;
use std::time::Duration;

use registry_client::protocol::{Domain, PathPrefix};
use registry_client::{Client, ClientConfig, Endpoint, EventStream, Intent, Route, host_instance_name};

const LIMIT: Duration = Duration::from_secs(30);

/// An application on this host listens on `port`. It is served at `domain` until `stop`.
pub(crate) async fn run(
    registry: Endpoint,
    domain: Domain,
    port: u16,
    stop: impl Future<Output = ()>,
) -> Result<(), Box<dyn Error>> {
    let config = ClientConfig::new(registry).with_own_address_followed();
    let intent = Intent::new("example".parse()?, host_instance_name()?);
    let (client, events) = Client::start(config, intent);
    tokio::spawn(print(events));

    // This host's address is the one from which it reaches the registry.
    client.wait_connected(LIMIT).await?;
    let backend = client.build_backend_url(port).ok_or("no way to the registry")?;
    client.add_route("main", Route::new(domain, PathPrefix::root(), backend))?;
    client.wait_route("main", LIMIT).await?;

    stop.await;
    client.shutdown().await;
    Ok(())
}

async fn print(mut events: EventStream) {
    while let Some(event) = events.next().await {
        println!("{} {event}", event.name());
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [registry, domain, port] = &arguments[..] else {
        return Err("usage: register REGISTRY DOMAIN PORT".into());
    };
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    run(registry.parse()?, domain.parse()?, port.parse()?, stop).await
}
