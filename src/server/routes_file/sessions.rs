//! Keeps a session with the own registry for each service of ROUTES_FILE, and follows the file.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use registry_client::protocol::{InstanceName, Metadata, ServiceName};
use registry_client::{Client, ClientConfig, Endpoint, Event, EventStream};
use serde_json::{Map, Value};
use tracing::{debug, error, info, warn};

use crate::environment::{Secret, read_file};

use super::{RoutesFile, Services, intent};
use crate::server::followed_file::FollowedFile;

/// The registry of this server.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Where it listens.
    pub address: SocketAddr,
    /// REGISTRY_TOKEN
    pub token: Option<Secret>,
    /// The name of the sessions' instance.
    pub instance: InstanceName,
}

/// Registers the routes of the file, and changes them as it changes. An invalid file is logged once and changes nothing.
pub async fn keep_registered(file: RoutesFile, registry: Registry) {
    let shown = file.path.display().to_string();
    let mut sessions = Sessions { registry, clients: BTreeMap::new() };
    sessions.follow(&file.services).await;
    info!("ROUTES_FILE={shown}: the routes of {} services are registered", file.services.len());
    let path = file.path.clone();
    let mut file = FollowedFile::new(file, move || RoutesFile::parse(path.clone(), read_file(&path)?));
    loop {
        match file.changed().await {
            Ok(file) => {
                info!("ROUTES_FILE={shown} has changed and is in force");
                sessions.follow(&file.services).await;
            }
            Err(error) => error!("ROUTES_FILE={shown}: {error}; the routes before stay in force"),
        }
    }
}

struct Sessions {
    registry: Registry,
    clients: BTreeMap<ServiceName, Client>,
}

impl Sessions {
    /// Makes the sessions those of the services.
    async fn follow(&mut self, services: &Services) {
        for (service, routes) in services {
            match self.clients.get(service) {
                // A client that has stopped does so with the server.
                Some(client) => drop(client.set_routes(routes.clone())),
                None => {
                    let mut wanted = intent(service, &self.registry.instance, routes);
                    wanted.metadata = metadata(self.registry.token.as_ref());
                    let address = reachable(self.registry.address);
                    let endpoint = Endpoint::new(address.ip().to_string(), address.port());
                    let (client, events) = Client::start(ClientConfig::new(endpoint), wanted);
                    tokio::spawn(log(service.clone(), events));
                    self.clients.insert(service.clone(), client);
                }
            }
        }
        let gone: Vec<_> =
            self.clients.keys().filter(|known| !services.contains_key(*known)).cloned().collect();
        for client in gone.iter().filter_map(|service| self.clients.remove(service)) {
            client.shutdown().await;
        }
    }
}

fn metadata(token: Option<&Secret>) -> Metadata {
    let mut entries = Map::new();
    if let Some(token) = token {
        entries.insert("token".to_owned(), Value::from(token.reveal()));
    }
    Metadata::new(entries)
}

/// Where a listener on all addresses is reached from its own host.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Logs what becomes of a service's routes.
async fn log(service: ServiceName, mut events: EventStream) {
    while let Some(event) = events.next().await {
        match &event {
            Event::RouteRefused { .. } | Event::ApplyRefused { .. } | Event::Unsupported { .. } => {
                warn!("ROUTES_FILE, service {service}: {event}");
            }
            _ => debug!("ROUTES_FILE, service {service}: {event}"),
        }
    }
}
