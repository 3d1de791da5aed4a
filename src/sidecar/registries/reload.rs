//! Reads the configuration again when somebody asks for it. If it is wrong, nothing changes.

use std::fmt::Display;
use std::net::IpAddr;

use tracing::{info, warn};

use crate::sidecar::address::Lookup;
use crate::sidecar::config::{Config, RegistrationConfig};
use crate::sidecar::state::DaemonState;
use registry_client::SystemResolver;

/// Answers the requests to reload for as long as it runs. `apply` puts each new configuration in force, and returns how
/// many routes are wanted then. Tokens count from
/// the next registration on. A mistake is logged and returned to the request.
pub(super) async fn reload_when_asked(
    config: &Config,
    state: &DaemonState,
    apply: impl Fn(Config, RegistrationConfig, IpAddr) -> usize,
) {
    loop {
        let request = state.next_reload().await;
        let result = reload(config, state.advertised(), &apply).await;
        match &result {
            Ok(done) => info!("{done}"),
            Err(reason) => warn!("{reason}"),
        }
        // The request may have been dropped.
        let _ = request.send(result);
    }
}

async fn reload(
    config: &Config,
    advertised: Option<IpAddr>,
    apply: impl Fn(Config, RegistrationConfig, IpAddr) -> usize,
) -> Result<String, String> {
    let unchanged = |reason: &dyn Display| format!("nothing is changed: {reason}");
    let read = config.load_again().map_err(|errors| unchanged(&errors))?;
    let Some(registration) = read.registration.clone() else {
        return Err(unchanged(&"there would be no route any more"));
    };
    let lookup = Lookup {
        config: &read.address,
        registries: &registration.registry.endpoints,
        wrapped: config.command.is_some(),
        resolver: &SystemResolver,
    };
    // Where the address is found as before, who follows it knows more than a single lookup.
    let own = match advertised.filter(|_| read.address == config.address) {
        Some(own) => own,
        None => lookup.once().await.map_err(|reason| unchanged(&reason))?.ip,
    };
    let routes = apply(read, registration, own);
    Ok(format!("read the configuration again, routes wanted: {routes}"))
}
