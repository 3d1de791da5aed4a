//! From the configuration to the intent that the client keeps true. Pure: the sessions and `check` share it.

use std::net::IpAddr;

use serde_json::Value;

use crate::sidecar::config::{RegistrationConfig, RouteConfig};
use registry_client::protocol::{Metadata, OptionKey, RouteOption};
use registry_client::{Intent, Route};

/// What is registered when our address is `advertised`. Each route is named after the variable that it comes from.
pub(crate) fn intent(config: &RegistrationConfig, advertised: IpAddr) -> Intent {
    let mut intent = Intent::new(config.service.clone(), config.instance.clone());
    intent.metadata = metadata(config);
    for config in &config.routes {
        intent = intent.with_route(config.origin.as_str(), route(config, advertised));
    }
    intent
}

/// One route as it is registered when the application is at `advertised`.
pub(super) fn route(config: &RouteConfig, advertised: IpAddr) -> Route {
    let backend = config.backend(advertised);
    let mut route =
        Route::new(config.domains.clone(), config.path.clone(), backend).with_priority(config.priority);
    route.health = config.health.clone();
    route.headers = config.headers.iter().cloned().collect();
    route.rate_limit = config.rate_limit;
    route.circuit_breaker = config.circuit_breaker;
    // Leave out what is the default everywhere: each option costs a command. Websockets are off at a reference server.
    let is_said = |option: &RouteOption| !option.is_default() || option.key() == OptionKey::Websocket;
    let options = config.options.to_options().into_iter().filter(is_said);
    route.options = options.chain(config.more_options.iter().cloned()).collect();
    route
}

/// METADATA and the two tokens. The tokens go with REGISTER, because the registry needs them before it answers.
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
