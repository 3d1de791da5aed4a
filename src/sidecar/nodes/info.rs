//! From the configuration to what the node says about the application. Pure.

use std::net::IpAddr;

use registry_nodes::Node;
use serde_json::Value;

use crate::sidecar::config::NodeConfig;
use registry_client::protocol::Host;

/// The node when our address is `advertised`. All of it is text, as other programs expect it.
///
/// | name | value |
/// |---|---|
/// | `address` | host and port: `10.2.2.7:8080` |
/// | `port` | the port alone |
/// | `domains`, `path` | what people reach it under, separated by commas; only with a route |
/// | `version` | `version` of METADATA, if there is one |
/// | `metadata` | METADATA as JSON, unless it is empty |
pub(crate) fn node(config: &NodeConfig, advertised: IpAddr) -> Node {
    let own_host = config.route.as_ref().and_then(|route| route.host.clone());
    let host = own_host.unwrap_or(Host::Ip(advertised));
    let port = config.route.as_ref().map_or(config.port, |route| route.port);
    let mut node = Node::new(config.instance.as_str())
        .with("address", address(&host, port))
        .with("port", port.to_string());
    if let Some((domains, path)) = config.claim() {
        node = node.with("domains", domains.to_string()).with("path", path.to_string());
    }
    match config.metadata.get("version") {
        Some(Value::String(version)) => node = node.with("version", version),
        Some(version @ Value::Number(_)) => node = node.with("version", version.to_string()),
        _ => {}
    }
    if !config.metadata.is_empty() {
        node = node.with("metadata", Value::Object(config.metadata.clone()).to_string());
    }
    node
}

fn address(host: &Host, port: u16) -> String {
    match host {
        Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        host => format!("{host}:{port}"),
    }
}
