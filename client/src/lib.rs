//! A client library: keeps one session with a registry alive and converges it to an intent.
//!
//! It knows the wire ([`protocol`]), and neither the environment nor processes. Inside, a
//! pure machine decides (`session`, with `plan`, `sync` and `backoff`) and one task per client
//! does what it says (`driver`, with `connect`); [`Client`] is the handle.
//!
//! ```no_run
//! use registry_client::{Client, ClientConfig, Endpoint, Intent, Route};
//! use registry_client::protocol::{Domains, HealthCheck, PathPrefix, RouteOption};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let domains = Domains::new(["app.example.com".parse()?]).ok_or("no domain")?;
//! let check = HealthCheck { path: "/health".parse()?, interval: "30s".parse()?, timeout: "5s".parse()? };
//! let route = Route::new(domains, PathPrefix::root(), "http://10.2.2.7:8080".parse()?)
//!     .with_health(check)
//!     .with_option(RouteOption::Compression(true));
//! let intent = Intent::new("my-service".parse()?, "my-service-1".parse()?).with_route("main", route);
//!
//! let (client, mut events) = Client::start(ClientConfig::new(Endpoint::new("proxy", 81)), intent);
//! tokio::spawn(async move {
//!     while let Some(event) = events.next().await {
//!         println!("{} {event}", event.name());
//!     }
//! });
//! client.wait_live().await?;
//! // The application runs; the session survives restarts of the registry.
//! client.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod backoff;
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
mod maintenance;
mod plan;
pub mod protocol;
mod session;
mod start;
mod status;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod wait;

/// The machine inside a [`Client`], for whoever turns its crank without the client's task: it is told of lines,
/// connections and the time, and says what to do. Our simulation runs many of them in virtual time.
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
#[doc(hidden)]
pub use intent::Visibility as Wanted;
pub use intent::{
    Headers, Intent, MaintenanceAction, MaintenanceRequest, MaintenanceTarget, Options, Route, RouteKey,
    Routes, Visibility,
};
pub use plan::{Applied, Batch, Dialect, Plan, RouteRef, Step, Unsupported, dry_run, plan};
pub use status::{MaintenanceProgress, Phase, RouteStatus, Status};

/// The JSON library whose [`Value`](serde_json::Value) stands in events and metadata.
pub use serde_json;
