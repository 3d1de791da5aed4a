//! Warns of what is set and does nothing at a reference server, which keeps such settings and does not act on them.

use tokio::sync::watch;
use tracing::warn;

use crate::sidecar::config::{RegistrationConfig, RouteConfig};
use registry_client::{Phase, Status};

/// When the registry turns out to be a reference server, warns once of each of `gaps`. Returns then, or when the session
/// has ended.
pub(super) async fn warn_of_gaps(mut status: watch::Receiver<Status>, gaps: Vec<String>) {
    let Ok(live) = status.wait_for(|status| status.bound && status.phase == Phase::Live).await else {
        return;
    };
    if !live.ours {
        for gap in gaps {
            warn!("{}: {gap} has no effect: a go-proxy does not act on it", live.registry);
        }
    }
}

/// What is set that a reference server does not act on, each once.
pub(super) fn gaps(config: &RegistrationConfig) -> Vec<String> {
    type IsSet = fn(&RouteConfig) -> bool;
    let of_a_route: [(&str, IsSet); 5] = [
        ("a domain with *.", |route| route.domains.as_slice().iter().any(|domain| domain.is_wildcard())),
        ("RATE_LIMIT", |route| route.rate_limit.is_some()),
        ("CIRCUIT_BREAKER", |route| route.circuit_breaker.is_some()),
        ("PRESERVE_HOST=false", |route| !route.options.preserve_host),
        ("BACKEND_HTTP2", |route| route.options.http2),
    ];
    let set = of_a_route.into_iter().filter(|(_, is_set)| config.routes.iter().any(is_set));
    let mut gaps: Vec<String> = set.map(|(name, _)| name.to_owned()).collect();
    let compresses = |route: &RouteConfig| route.options.compression;
    if config.wants_compression && config.routes.iter().any(compresses) {
        gaps.push("COMPRESSION".to_owned());
    }
    gaps
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::*;
    use crate::environment::Context;
    use crate::sidecar::config::Config;

    fn gaps_of(more: &[(&str, &str)]) -> Vec<String> {
        let vars = [("SERVICE_NAME", "shop"), ("INSTANCE_NAME", "shop-1"), ("DOMAINS", "a.example.com")];
        let vars = vars.iter().chain(more).map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let read_file = |_: &Path| Err("no files here".to_owned());
        let config = Config::from_env(vars, Context { host_name: "h", read_file: &read_file }).unwrap();
        gaps(&config.registration.unwrap())
    }

    #[test]
    fn only_what_is_set_is_warned_about() {
        assert!(gaps_of(&[]).is_empty());
        for (name, value, told) in [
            ("DOMAINS", "*.example.com", "a domain with *."),
            ("SIDECAR_RATE_LIMIT", "100/1m", "RATE_LIMIT"),
            ("SIDECAR_CIRCUIT_BREAKER", "5/30s/3", "CIRCUIT_BREAKER"),
            ("PRESERVE_HOST", "false", "PRESERVE_HOST=false"),
            ("BACKEND_HTTP2", "true", "BACKEND_HTTP2"),
            ("SIDECAR_COMPRESSION", "true", "COMPRESSION"),
            ("SIDECAR_ROUTES", r#"[{"domains":"b.example.com","rate_limit":"1/1s"}]"#, "RATE_LIMIT"),
        ] {
            assert_eq!(gaps_of(&[(name, value)]), [told], "{name}");
        }
        assert!(gaps_of(&[("SIDECAR_COMPRESSION", "false"), ("PRESERVE_HOST", "true")]).is_empty());
    }
}
