//! Registers a node, lists its service, and follows it until Ctrl-C.
//!
//! ```sh
//! cargo run -p registry-sidecar-nodes --example node -- http://localhost:2379 api api-server-1 localhost:8080
//! ```

#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::time::Duration;

use registry_nodes::{Config, Error, Event, Node, Registry};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut words = std::env::args().skip(1);
    let mut word = |fallback: &str| words.next().unwrap_or_else(|| fallback.to_owned());
    let (endpoint, service) = (word("http://localhost:2379"), word("api"));
    let node =
        Node::new(word("api-server-1")).with("version", "1.0.0").with("address", word("localhost:8080"));

    let registry = Registry::connect(Config::new([endpoint])).await?;
    let registration = registry.register_node(&service, node, Duration::from_secs(30))?;
    let mut events = registration.events();
    registration.registered().await?;
    println!("registered");

    for node in registry.service_nodes(&service).await? {
        println!("found {} with {:?}", node.name, node.info);
    }

    let mut watch = registry.watch(&service)?;
    loop {
        tokio::select! {
            view = watch.next() => {
                if let Some(snapshot) = &view.snapshot {
                    println!("now: {:?}", snapshot.nodes.keys().collect::<Vec<_>>());
                }
            }
            event = events.next() => match event {
                Some(Event::Trouble(error)) => println!("trouble, tried again: {error}"),
                Some(event) => println!("{event:?}"),
                None => return Ok(()),
            },
            _ = tokio::signal::ctrl_c() => return registration.deregister(Duration::from_secs(5)).await,
        }
    }
}
