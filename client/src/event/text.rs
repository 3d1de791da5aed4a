//! Each event as a sentence for a log.

use std::fmt;

use super::{Event, Mode, Registry, Retry};
use crate::intent::Route;

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Connected { registry } => write!(f, "connected to {registry}"),
            Event::Disconnected { registry, cause } => write!(f, "disconnected from {registry}: {cause}"),
            Event::Retrying(retry) => write!(f, "{retry}"),
            Event::ExtendedRetry(retry) => write!(f, "still no session: {retry}"),
            Event::Reconnected { registry, resumed: true } => write!(f, "session resumed at {registry}"),
            Event::Reconnected { registry, resumed: false } => {
                write!(f, "new session at {registry}, registering everything again")
            }
            Event::Joined { registry, service, siblings } => write!(
                f,
                "joining service {service} at {registry}; its sessions from other addresses: {siblings}"
            ),
            Event::RouteAdded { key, id, route } => write!(f, "route {key} added as {id}: {}", Shown(route)),
            Event::RouteUpdated { key, id, route } => {
                write!(f, "route {key} ({id}) changed: {}", Shown(route))
            }
            Event::RouteRemoved { key: Some(key), id } => write!(f, "route {key} ({id}) removed"),
            Event::RouteRemoved { key: None, id } => write!(f, "stale route {id} removed"),
            Event::HealthCheckSet { key, id } => write!(f, "health check of route {key} ({id}) set"),
            Event::ConfigApplied { routes, .. } => {
                write!(f, "configuration applied, routes in force: {routes}")
            }
            Event::RouteRefused { key, refusal, delay, .. } => {
                write!(f, "route {key} refused, next try in {delay:?}: {refusal}")
            }
            Event::ApplyRefused { refusal, delay } => {
                write!(f, "configuration refused, next try in {delay:?}: {refusal}")
            }
            Event::Replaced { registry, service, instance } => write!(
                f,
                "another process has registered as service {service}, instance {instance} at {registry} and \
                 has taken this one's place; waiting until it is gone"
            ),
            Event::Error { registry, cause } => write!(f, "{registry}: {cause}"),
            Event::Unsupported { key, what } => write!(f, "route {key}: {what}"),
            Event::MaintenanceRequested { target } => write!(f, "maintenance of {target} requested"),
            Event::MaintenanceEntered { target, mode: Mode::Proxy } => {
                write!(f, "maintenance of {target} entered: the proxy shows the page")
            }
            Event::MaintenanceEntered { target, mode: Mode::Local } => {
                write!(f, "maintenance of {target} entered here; the proxy has not confirmed it")
            }
            Event::MaintenanceExitRequested { target } => {
                write!(f, "end of maintenance of {target} requested")
            }
            Event::MaintenanceExited { target, mode: Mode::Proxy } => {
                write!(f, "maintenance of {target} has ended: the proxy sends requests to the application")
            }
            Event::MaintenanceExited { target, mode: Mode::Local } => {
                write!(f, "maintenance of {target} has ended here; the proxy has not confirmed it")
            }
            Event::MaintenanceFailed { entering: true, refusal } => {
                write!(f, "the proxy did not enter maintenance as asked: {refusal}")
            }
            Event::MaintenanceFailed { entering: false, refusal } => {
                write!(
                    f,
                    "the proxy did not leave maintenance as asked, or does not reach the application: {refusal}"
                )
            }
            Event::Drained(true) => f.write_str("drained: the registry sends no new requests here"),
            Event::Drained(false) => f.write_str("no longer drained: the registry sends requests here again"),
            Event::ConfigValidated => f.write_str("the registry finds nothing wrong with the stage"),
            Event::ConfigInvalid { refusal } => write!(f, "the registry would refuse the stage: {refusal}"),
            Event::IpChanged { old, new } => write!(f, "address changed from {old} to {new}"),
            Event::Registry { kind, data } => write!(f, "{kind}: {data}"),
            Event::Missed(count) => write!(f, "{count} events were missed by a slow listener"),
        }
    }
}

/// A route in one line.
struct Shown<'a>(&'a Route);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.0.domains, self.0.path, self.0.backend)
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) if *self.name != *peer.to_string() => write!(f, "{} ({peer})", self.name),
            _ => f.write_str(&self.name),
        }
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "retry {} of {} in {:?}: {}", self.attempt, self.registry, self.delay, self.cause)
    }
}
