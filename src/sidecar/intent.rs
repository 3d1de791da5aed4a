//! From the configuration to what the client is to keep true. Pure: the daemon and the dry run share it.

use std::net::IpAddr;

use serde_json::Value;

use crate::client::{Intent, Route};
use crate::protocol::Metadata;

use super::config::{RegistrationConfig, RouteConfig};

/// What is registered when our address is `advertised`. Routes are named after the variables they come
/// from.
pub(super) fn intent(config: &RegistrationConfig, advertised: IpAddr) -> Intent {
    let mut intent = Intent::new(config.service.clone(), config.instance.clone());
    intent.metadata = metadata(config);
    for route in &config.routes {
        intent = intent.with_route(route.origin.as_str(), wanted_route(route, advertised));
    }
    intent
}

fn wanted_route(config: &RouteConfig, advertised: IpAddr) -> Route {
    let backend = config.backend(advertised);
    let mut route =
        Route::new(config.domains.clone(), config.path.clone(), backend).with_priority(config.priority);
    route.health = config.health.clone();
    route.headers = config.headers.iter().cloned().collect();
    route.rate_limit = config.rate_limit;
    route.circuit_breaker = config.circuit_breaker;
    // What holds anyway need not be said: each option costs a command.
    route.options = config.options.to_options().into_iter().filter(|option| !option.is_default()).collect();
    route
}

/// METADATA and the two tokens, which go with REGISTER because they are needed before any answer.
fn metadata(config: &RegistrationConfig) -> Metadata {
    let mut entries = config.metadata.clone();
    let tokens = [("token", &config.registry.token), ("service_token", &config.registry.service_token)];
    for (key, token) in tokens {
        if let Some(token) = token {
            entries.insert(key.to_owned(), Value::from(token.reveal()));
        }
    }
    Metadata::new(entries)
}
