//! What becomes ready by itself: a port that routes lead to, or the application as a whole where READY_CHECK is set.

use std::net::IpAddr;

use registry_client::protocol::Host;

use super::{Config, Endpoint, ReadyCheck, RouteConfig};

/// Something that becomes ready by itself, and the routes that wait for it with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// All of them must pass; at least one.
    pub checks: Vec<ReadyCheck>,
}

impl Place {
    /// What people call it, such as `tcp://127.0.0.1:8080`. No two places have the same name.
    pub fn name(&self) -> String {
        let checks: Vec<String> = self.checks.iter().map(ReadyCheck::to_string).collect();
        checks.join(" and ")
    }
}

impl Config {
    /// The places on which the routes wait, each once; none without WAIT_FOR_PORT. `replicas` are the addresses of the
    /// application where BACKEND_EACH_ADDRESS is set.
    pub fn places(&self, replicas: Option<&[IpAddr]>) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        if !self.readiness.wait {
            return places;
        }
        for route in self.registration.iter().flat_map(|registration| &registration.routes) {
            for replica in addresses_of(route, replicas) {
                let place = self.place_of(route, replica);
                if !places.contains(&place) {
                    places.push(place);
                }
            }
        }
        if places.is_empty() && replicas.is_none() {
            places.push(Place { checks: self.readiness.checks.clone() });
        }
        places
    }

    /// The place on which this route waits. `replica` is its backend's address where BACKEND_EACH_ADDRESS is set.
    pub fn place_of(&self, route: &RouteConfig, replica: Option<IpAddr>) -> Place {
        let whole = self.readiness.whole;
        let mut checks = if whole { self.readiness.checks.clone() } else { Vec::new() };
        match replica {
            Some(ip) => checks.push(ReadyCheck::at(Some(Host::Ip(ip)), route.port)),
            None if whole => {}
            None => {
                let host = route.host.clone().or_else(|| self.address.backend_host.clone());
                checks.push(ReadyCheck::at(host, route.port));
            }
        }
        Place { checks }
    }
}

/// The addresses of the replicas to which a route leads; `None` stands for the one address of a route that does not
/// lead to replicas.
pub fn addresses_of(route: &RouteConfig, replicas: Option<&[IpAddr]>) -> Vec<Option<IpAddr>> {
    match replicas.filter(|_| route.host.is_none()) {
        Some(replicas) => replicas.iter().copied().map(Some).collect(),
        None => vec![None],
    }
}

impl ReadyCheck {
    /// Something accepts connections on the port of `host`; `None` is this network namespace.
    pub(super) fn at(host: Option<Host>, port: u16) -> ReadyCheck {
        match host {
            Some(host) => ReadyCheck::Tcp(Endpoint { host, port }),
            None => ReadyCheck::OwnPort(port),
        }
    }
}
