//! Shows a maintenance page while a database is migrated:
//!
//! ```text
//! cargo run --example maintenance -- proxy:81 app.example.com http://10.2.2.7:8080
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::env;
use std::error::Error;
use std::future::Future;
use std::time::Duration;

use registry_client::protocol::{BackendUrl, Domain, PathPrefix};
use registry_client::{Client, ClientConfig, Endpoint, Intent, MaintenanceTarget, Mode, Route};

const LIMIT: Duration = Duration::from_secs(40);

/// Runs `migration` while people see the proxy's maintenance page.
pub(crate) async fn run(
    registry: Endpoint,
    domain: Domain,
    backend: BackendUrl,
    migration: impl Future<Output = Result<(), Box<dyn Error>>>,
) -> Result<Client, Box<dyn Error>> {
    let route = Route::new(domain, PathPrefix::root(), backend);
    let intent = Intent::new("example".parse()?, "example-1".parse()?).with_route("main", route);
    let (client, _) = Client::start(ClientConfig::new(registry), intent);
    client.wait_settled(LIMIT).await?;

    client.maintenance_enter(MaintenanceTarget::All, None)?;
    match client.wait_maintenance(&MaintenanceTarget::All, LIMIT).await? {
        Mode::Proxy => println!("the proxy shows the page"),
        // Somebody may still see the application: whether that matters is the migration's business.
        Mode::Local => return Err("the proxy has not confirmed the maintenance".into()),
    }
    let migrated = migration.await;

    client.maintenance_exit(MaintenanceTarget::All)?;
    client.wait_maintenance(&MaintenanceTarget::All, LIMIT).await?;
    migrated?;
    println!("the proxy shows the application");
    Ok(client)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [registry, domain, backend] = &arguments[..] else {
        return Err("usage: maintenance REGISTRY DOMAIN BACKEND".into());
    };
    let migration = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(())
    };
    let client = run(registry.parse()?, domain.parse()?, backend.parse()?, migration).await?;
    client.shutdown().await;
    Ok(())
}
