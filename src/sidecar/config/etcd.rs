//! ETCD_*: how etcd is reached, and the node that is registered in it, beside the routes or alone.

use crate::environment::{Reader, Reported};
use registry_client::protocol::{Domains, InstanceName, PathPrefix, ServiceName};

use super::RouteConfig;
use super::raw::Raw;

#[cfg(feature = "etcd")]
pub(super) use with_etcd::etcd;
#[cfg(feature = "etcd")]
pub use with_etcd::{EtcdConfig, load_nodes_config};
#[cfg(not(feature = "etcd"))]
pub use without_etcd::EtcdConfig;
#[cfg(not(feature = "etcd"))]
pub(super) use without_etcd::etcd;

/// What does nothing without ETCD_ENDPOINTS.
const NEED_ENDPOINTS: [&str; 10] = [
    "ETCD_BASE_PATH",
    "ETCD_USERNAME",
    "ETCD_PASSWORD",
    "ETCD_TTL",
    "ETCD_TIMEOUT",
    "ETCD_CA",
    "ETCD_CERT",
    "ETCD_KEY",
    "ETCD_LAYOUT",
    "ETCD_IF_TAKEN",
];

/// Warns of what was set and does nothing without ETCD_ENDPOINTS.
pub(super) fn warn_without_endpoints(config: Option<&EtcdConfig>, reader: &mut Reader) {
    for name in NEED_ENDPOINTS.into_iter().filter(|_| config.is_none()) {
        if reader.is_prefixed(name) {
            let spelled = reader.spelled(name);
            reader.warn(format!("{spelled} has no effect: ETCD_ENDPOINTS is not set"));
        }
    }
}

/// What the node in etcd says about the application, beside its address.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeConfig {
    /// SERVICE_NAME.
    pub service: ServiceName,
    /// INSTANCE_NAME, or the host name: the node's name.
    pub instance: InstanceName,
    /// METADATA, without the tokens.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// The first route; `None` where there is none.
    pub route: Option<RouteConfig>,
    /// PORT, for a node without a route.
    pub port: u16,
}

impl NodeConfig {
    /// The domains and the path that people reach the application under.
    pub fn claim(&self) -> Option<(&Domains, &PathPrefix)> {
        self.route.as_ref().map(|route| (&route.domains, &route.path))
    }
}

#[cfg(feature = "etcd")]
mod with_etcd {
    use std::time::Duration;

    use registry_nodes::OnTaken;

    use crate::environment::{self, ConfigErrors, Context, Source};
    use crate::etcd::{self, EtcdTexts};
    use crate::sidecar::config::{TABLE, values};
    use registry_client::protocol::Invalid;

    use super::*;

    /// Where the node is registered, and for how long.
    #[derive(Debug, Clone, PartialEq)]
    pub struct EtcdConfig {
        /// ETCD_ENDPOINTS, ETCD_BASE_PATH, ETCD_USERNAME, ETCD_PASSWORD, ETCD_TIMEOUT, ETCD_LAYOUT and the files.
        pub registry: registry_nodes::Config,
        /// ETCD_TTL, at least a second.
        pub ttl: Duration,
        /// ETCD_IF_TAKEN.
        pub on_taken: OnTaken,
        /// What the node says.
        pub node: NodeConfig,
    }

    /// How etcd is reached, for a command that only reads nodes: no other variable needs to be right for that.
    ///
    /// # Errors
    /// Every mistake in ETCD_*, or that ETCD_ENDPOINTS is not set. The caller's exit code is 64.
    pub fn load_nodes_config() -> Result<registry_nodes::Config, ConfigErrors> {
        let host_name = environment::host_name();
        let context = Context { host_name: &host_name, read_file: &environment::read_file };
        let (mut raw, mut reader): (Raw, Reader) =
            Reader::new(Source::read(TABLE, std::env::vars_os(), &context));
        let config = match registry(&mut raw, &mut reader) {
            Ok(None) => {
                Err(reader.missing("ETCD_ENDPOINTS", "it is required and not set", &["ETCD_ENDPOINTS"]))
            }
            Ok(Some(config)) => Ok(config),
            Err(reported) => Err(reported),
        };
        reader.finish(config).map(|(config, _)| config)
    }

    /// The node's registration; `None` without ETCD_ENDPOINTS. `node` is what it says, if that is known.
    pub(in super::super) fn etcd(
        raw: &mut Raw,
        reader: &mut Reader,
        node: Option<NodeConfig>,
    ) -> Result<Option<EtcdConfig>, Reported> {
        let ttl = reader.value("ETCD_TTL", raw.etcd_ttl.take(), values::positive);
        let on_taken = reader.value("ETCD_IF_TAKEN", raw.etcd_if_taken.take(), on_taken);
        let registry = registry(raw, reader)?;
        let (ttl, on_taken) = (ttl?.get(), on_taken?);
        if ttl < Duration::from_secs(1) {
            return Err(reader.refuse("ETCD_TTL", "a lease lives for a second at least".to_owned()));
        }
        // Without a node its names were wrong, which is in the report.
        Ok(registry.zip(node).map(|(registry, node)| EtcdConfig { registry, ttl, on_taken, node }))
    }

    fn registry(raw: &mut Raw, reader: &mut Reader) -> Result<Option<registry_nodes::Config>, Reported> {
        let layout = reader.value("ETCD_LAYOUT", raw.etcd_layout.take(), |text| {
            text.parse().map_err(|reason| Invalid::new("layout", text, reason, "services"))
        });
        let texts = EtcdTexts {
            endpoints: raw.etcd_endpoints.take(),
            base_path: raw.etcd_base_path.take(),
            username: raw.etcd_username.take(),
            password: raw.etcd_password.take(),
            timeout: raw.etcd_timeout.take(),
            ca: raw.etcd_ca.take(),
            cert: raw.etcd_cert.take(),
            key: raw.etcd_key.take(),
        };
        let connection = etcd::connection(texts, reader)?;
        let layout = layout?;
        Ok(connection.map(|connection| registry_nodes::Config { layout, ..connection }))
    }

    fn on_taken(text: &str) -> Result<OnTaken, Invalid> {
        match text {
            "wait" => Ok(OnTaken::Wait),
            "refuse" => Ok(OnTaken::Refuse),
            _ => Err(Invalid::new("choice", text, "it is neither wait nor refuse", "wait")),
        }
    }
}

/// A build that does without etcd's client.
#[cfg(not(feature = "etcd"))]
mod without_etcd {
    use super::*;

    /// There is none.
    #[derive(Debug, Clone, PartialEq)]
    pub enum EtcdConfig {}

    pub(in super::super) fn etcd(
        raw: &mut Raw,
        reader: &mut Reader,
        _node: Option<NodeConfig>,
    ) -> Result<Option<EtcdConfig>, Reported> {
        match raw.etcd_endpoints.take() {
            None => Ok(None),
            Some(_) => Err(reader.refuse(
                "ETCD_ENDPOINTS",
                "this registry-sidecar is built without etcd: use the image of the Dockerfile's target sidecar-etcd, \
                 or build it with --features etcd"
                    .to_owned(),
            )),
        }
    }
}
