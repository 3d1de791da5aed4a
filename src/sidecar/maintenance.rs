//! The maintenance page (SEMANTICS section 5).
//!
//! People, whose requests come through the proxy and have `X-Forwarded-For`, get 503 and `Retry-After`; the
//! proxy's own probe has no such header and gets 200.

mod answer;
mod keeper;
mod state;
mod windows;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tracing::info;

use super::agent::Agent;
use super::config::MaintenanceConfig;
use super::http::{self, Answer};

pub(super) use keeper::{Keeper, end_windows};
pub(super) use windows::{Window, in_words};

/// Serves the page for as long as it lives. A port that is taken is tried again, and said to be once.
pub(super) async fn serve(config: MaintenanceConfig, service: String, agent: Agent) {
    let Some(port) = config.port else { return std::future::pending().await };
    info!("maintenance page on port {port}");
    // Both families where there are two.
    let addresses =
        [SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
    let answers = move |asked: &http::Asked| Answer::to(asked, config.page.as_deref(), &service, &agent);
    http::serve("maintenance page", &addresses, Arc::new(answers)).await;
}

#[cfg(test)]
mod tests;
