//! Stops on SIGTERM without failing a request: no new ones, then the end of those in flight, then the end.
//!
//! ```text
//! cargo run --example drain -- proxy:81 app.example.com http://10.2.2.7:8080
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::env;
use std::error::Error;
use std::future::Future;
use std::time::Duration;

use registry_client::protocol::{BackendUrl, Domain, PathPrefix};
use registry_client::{Client, ClientConfig, DrainError, Endpoint, Intent, Route};
use tokio::signal::unix::{SignalKind, signal};

const LIMIT: Duration = Duration::from_secs(30);
/// Less than the 10 s after which Docker kills.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);

/// Serves until `stop`.
pub(crate) async fn run(
    registry: Endpoint,
    domain: Domain,
    backend: BackendUrl,
    stop: impl Future<Output = ()>,
) -> Result<(), Box<dyn Error>> {
    let route = Route::new(domain, PathPrefix::root(), backend);
    let intent = Intent::new("example".parse()?, "example-1".parse()?).with_route("main", route);
    let (client, _) = Client::start(ClientConfig::new(registry), intent);
    client.wait_settled(LIMIT).await?;

    stop.await;
    match client.drain(DRAIN_LIMIT).await {
        Ok(()) => println!("nothing is in flight"),
        // The process ends in any case, and the registry should hear of it.
        Err(DrainError::TimedOut { in_flight }) => println!("still in flight: {in_flight:?}"),
        Err(error) => println!("not drained: {error}"),
    }
    client.shutdown().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [registry, domain, backend] = &arguments[..] else {
        return Err("usage: drain REGISTRY DOMAIN BACKEND".into());
    };
    let mut terminated = signal(SignalKind::terminate())?;
    let stop = async move {
        terminated.recv().await;
    };
    run(registry.parse()?, domain.parse()?, backend.parse()?, stop).await
}
