//! Prints what a registry tells of itself, without registering a route:
//!
//! ```text
//! cargo run --example subscribe -- proxy:81
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::env;
use std::error::Error;
use std::ops::ControlFlow;
use std::time::Duration;

use registry_client::protocol::EventKind;
use registry_client::{Client, ClientConfig, Endpoint, Event, Intent, serde_json::Value};

const LIMIT: Duration = Duration::from_secs(30);

/// Gives each event of the registry's to `hear`, until that breaks.
pub(crate) async fn run(
    registry: Endpoint,
    mut hear: impl FnMut(EventKind, Value) -> ControlFlow<()>,
) -> Result<(), Box<dyn Error>> {
    let intent = Intent::new("observer".parse()?, "observer-1".parse()?);
    let (client, mut events) = Client::start(ClientConfig::new(registry), intent);
    client.subscribe(EventKind::All).await?;
    client.wait_settled(LIMIT).await?;
    println!("subscribed");

    while let Some(event) = events.next().await {
        let next = match event {
            Event::Registry { kind, data } => hear(kind, data),
            Event::Missed(count) => {
                println!("too slow: {count} events were missed");
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        };
        if next.is_break() {
            break;
        }
    }
    client.shutdown().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = env::args().nth(1).ok_or("usage: subscribe REGISTRY")?;
    run(registry.parse()?, |kind, data| {
        println!("{kind}: {data}");
        ControlFlow::Continue(())
    })
    .await
}
