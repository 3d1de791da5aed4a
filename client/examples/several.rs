//! Registers with several registries. One that is down delays nothing at the others:
//!
//! ```text
//! cargo run --example several -- app.example.com http://10.2.2.7:8080 proxy-a:81 proxy-b:81
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::env;
use std::error::Error;
use std::time::Duration;

use registry_client::protocol::{BackendUrl, Domain, PathPrefix};
use registry_client::{Client, ClientConfig, Endpoint, Intent, Route};
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(30);

/// A client for each registry, and how many of them are settled.
pub(crate) async fn run(
    registries: Vec<Endpoint>,
    domain: Domain,
    backend: BackendUrl,
) -> Result<(Vec<Client>, usize), Box<dyn Error>> {
    let route = Route::new(domain, PathPrefix::root(), backend);
    let intent = Intent::new("example".parse()?, "example-1".parse()?).with_route("main", route);
    let start = |registry| Client::start(ClientConfig::new(registry), intent.clone()).0;
    let clients: Vec<Client> = registries.into_iter().map(start).collect();

    let mut waits = JoinSet::new();
    for client in clients.clone() {
        waits.spawn(async move { (client.status().registry, client.wait_settled(LIMIT).await) });
    }
    let mut settled = 0;
    while let Some(waited) = waits.join_next().await {
        let (registry, result) = waited?;
        match result {
            Ok(()) => settled += 1,
            // It goes on trying.
            Err(error) => println!("{registry}: {error}"),
        }
    }
    Ok((clients, settled))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let usage = "usage: several DOMAIN BACKEND REGISTRY…";
    let domain = arguments.next().ok_or(usage)?.parse()?;
    let backend = arguments.next().ok_or(usage)?.parse()?;
    let registries = arguments.map(|registry| registry.parse()).collect::<Result<_, _>>()?;
    let (clients, settled) = run(registries, domain, backend).await?;
    println!("settled at {settled} of {}", clients.len());
    tokio::signal::ctrl_c().await?;
    for client in clients {
        client.shutdown().await;
    }
    Ok(())
}
