//! Registries for tests of programs that use this library (feature `testing`). They need no port and no second program.
//!
//! [`FakeRegistry`] accepts sessions and routes as a registry does, keeps them in memory, and shows what it was told. It
//! can refuse a domain, restart without its state, and fall silent. [`ScriptedRegistry`] and [`MemoryRegistry`] do what
//! a script says, line by line, for whoever cares about the wire.
//!
//! ```
//! use std::time::Duration;
//! use registry_client::protocol::{Domains, PathPrefix};
//! use registry_client::testing::FakeRegistry;
//! use registry_client::{Client, ClientConfig, Endpoint, Intent, Route};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = FakeRegistry::new();
//! let domains = Domains::new(["app.example.com".parse()?]).ok_or("no domain")?;
//! let route = Route::new(domains, PathPrefix::root(), "http://10.2.2.7:8080".parse()?);
//! let intent = Intent::new("app".parse()?, "app-1".parse()?).with_route("main", route);
//! let config = ClientConfig::new(Endpoint::new("proxy", 81));
//! let (client, _events) = Client::start_with(registry.connector(), config, intent);
//!
//! client.wait_settled(Duration::from_secs(5)).await?;
//! assert_eq!(registry.routes()[0].route.domains.to_string(), "app.example.com");
//!
//! registry.restart();
//! registry.wait_for_routes(Duration::from_secs(5), |routes| routes.len() == 1).await;
//! client.shutdown().await;
//! assert!(registry.routes().is_empty());
//! # Ok(())
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
//! #     .block_on(example()).unwrap();
//! ```
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail")]

mod fake;
mod script;
mod state;

pub use fake::{FakeConnector, FakeRegistry};
pub use script::{MemoryConnector, MemoryRegistry, ScriptedLink, ScriptedRegistry};
pub use state::FakeRoute;
