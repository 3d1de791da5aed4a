//! Registers a program's routes with a Registry V2 reverse proxy and keeps them registered.
//!
//! A program says what it wants in an [`Intent`]: its service, its instance, its routes. [`Client::start`] returns a handle
//! at once; a task keeps one session with the registry alive and makes the registry agree with the intent, through broken
//! connections, restarts of the registry and changes of the intent.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use registry_client::protocol::{Domain, HealthCheck, PathPrefix, RouteOption};
//! use registry_client::{Client, ClientConfig, Intent, Route};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let domain: Domain = "app.example.com".parse()?;
//! let check = HealthCheck { path: "/health".parse()?, interval: "30s".parse()?, timeout: "5s".parse()? };
//! let route = Route::new(domain, PathPrefix::root(), "http://10.2.2.7:8080".parse()?)
//!     .with_health(check)
//!     .with_option(RouteOption::Compression(true));
//! let intent = Intent::new("my-service".parse()?, "my-service-1".parse()?).with_route("main", route);
//!
//! let (client, mut events) = Client::start(ClientConfig::new("proxy:81".parse()?), intent);
//! tokio::spawn(async move {
//!     while let Some(event) = events.next().await {
//!         println!("{} {event}", event.name());
//!     }
//! });
//! client.wait_settled(Duration::from_secs(30)).await?;
//! // The application runs. The session survives restarts of the registry.
//! client.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to find what
//! - what is wanted: [`Intent`], [`Route`], [`Visibility`], [`MaintenanceTarget`]; its changes are methods of [`Client`]
//! - what became of it: [`Client::wait_settled`] and the other waits, [`Client::status`], [`EventStream`]
//! - questions to the registry: [`Client::backend_test`], [`Client::registered_routes`], [`Client::stats`], …
//! - the language of the wire: [`protocol`]
//! - registries for tests: `testing`, with the feature of that name
//!
//! # Inside
//! A pure state machine decides (`session`, with `plan`, `batch_run` and `backoff`), and one task per client carries out what it
//! decides (`driver`, with `connect`). The library reads no environment and starts no process.

mod backoff;
mod batch_run;
mod call;
mod change;
mod config;
mod connect;
mod drain;
mod driver;
mod error;
mod event;
mod follow;
mod handle;
mod host;
mod intent;
mod lookup;
mod maintenance;
mod plan;
pub mod protocol;
mod session;
#[cfg(all(doc, not(doctest)))]
pub mod spec;
mod start;
mod status;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod wait;

/// The state machine inside a [`Client`], for a program that brings its own I/O and clock: it takes lines, the state of
/// the connection and the time, and returns what to do. Its interface may change in any version.
pub mod machine {
    pub use super::intent::Goal;
    pub use super::session::{Effect, Received, Session, Ticket, Timing};
}

pub use config::ClientConfig;
pub use connect::{ConnectError, Connector, Endpoint, Resolver, SystemResolver, TcpConnector};
pub use error::{BackendTestError, CallError, DrainError, MaintenanceError, RouteError, Stopped, WaitError};
pub use event::{Cause, Event, EventStream, Mode, Registry, Retry};
pub use handle::Client;
pub use host::host_instance_name;
pub use intent::{
    Headers, Intent, MaintenanceAction, MaintenanceRequest, MaintenanceTarget, Options, Route, RouteKey,
    Routes, Visibility,
};
pub use plan::{Applied, Batch, Dialect, Plan, RouteRef, Step, Unsupported, dry_run, plan};
pub use status::{MaintenanceProgress, Phase, RouteStatus, Status};

/// The JSON library whose [`Value`](serde_json::Value) stands in events and metadata.
pub use serde_json;

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
