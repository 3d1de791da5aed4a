//! Changes routes while they serve:
//!
//! ```text
//! cargo run --example routes -- proxy:81 app.example.com http://10.2.2.7:8080 http://10.2.2.7:8081
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::env;
use std::error::Error;
use std::time::Duration;

use registry_client::protocol::{BackendUrl, Domain, PathPrefix, RouteOption};
use registry_client::{Client, ClientConfig, Endpoint, Intent, Route};

const LIMIT: Duration = Duration::from_secs(30);

/// Moves `domain` from one backend to another, and adds a route for its assets at the same moment.
pub(crate) async fn run(
    registry: Endpoint,
    domain: Domain,
    from: BackendUrl,
    to: BackendUrl,
) -> Result<Client, Box<dyn Error>> {
    let main = Route::new(domain.clone(), PathPrefix::root(), from);
    let intent = Intent::new("example".parse()?, "example-1".parse()?).with_route("main", main);
    let (client, _) = Client::start(ClientConfig::new(registry), intent);
    client.wait_settled(LIMIT).await?;

    // One setting, on whatever the route is by now: clones of the handle may change others meanwhile.
    client.modify_route("main", |route| route.options.set(RouteOption::Compression(true)))?;

    // Several routes in one apply. The registry adds the new backend before it takes the old one away.
    let assets = Route::new(domain, "/assets".parse()?, to.clone());
    client.modify_routes(|routes| {
        routes.insert("assets".into(), assets);
        if let Some(main) = routes.get_mut("main") {
            main.backend = to;
        }
    })?;
    client.wait_settled(LIMIT).await?;
    for route in client.registered_routes().await? {
        println!("{} {:?}{} -> {}", route.route_id, route.domains, route.path, route.backend);
    }
    Ok(client)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [registry, domain, from, to] = &arguments[..] else {
        return Err("usage: routes REGISTRY DOMAIN FROM TO".into());
    };
    let client = run(registry.parse()?, domain.parse()?, from.parse()?, to.parse()?).await?;
    client.shutdown().await;
    Ok(())
}
