//! The fields of each event as JSON, by the names that users of the Go client know where they know any.

use serde_json::{Map, Value, json};

use super::{Event, Mode, Registry, Retry};
use crate::intent::{Route, RouteKey};
use crate::protocol::RouteId;

impl Event {
    /// The event's fields: `message`, which is [`Event`]'s `Display`, and those of its own.
    pub fn data(&self) -> Map<String, Value> {
        let mut data = self.own_data();
        data.insert("message".to_owned(), Value::from(self.to_string()));
        if self.name() == "LOG" {
            let is_good = matches!(self, Event::Drained(_) | Event::Joined { .. });
            let level = if is_good { "info" } else { "warn" };
            data.insert("level".to_owned(), Value::from(level));
        }
        data
    }

    fn own_data(&self) -> Map<String, Value> {
        let data = match self {
            Event::Connected { registry } => about(registry),
            Event::Disconnected { registry, cause } | Event::Error { registry, cause } => {
                with(about(registry), [("cause", cause.to_string().into())])
            }
            Event::Retrying(retry) | Event::ExtendedRetry(retry) => of_retry(retry),
            Event::Reconnected { registry, resumed } => {
                with(about(registry), [("resumed", (*resumed).into())])
            }
            Event::Joined { registry, service, siblings } => with(
                about(registry),
                [("service", service.as_str().into()), ("siblings", (*siblings).into())],
            ),
            Event::RouteAdded { key, id, route } | Event::RouteUpdated { key, id, route } => {
                of_route(key, *id, route)
            }
            Event::RouteRemoved { key, id } => {
                json!({"route_id": id.to_string(), "route": key.as_ref().map(RouteKey::as_str)})
            }
            Event::HealthCheckSet { key, id } => json!({"route_id": id.to_string(), "route": key.as_str()}),
            Event::ConfigApplied { routes, revision } => json!({"routes": routes, "revision": revision}),
            Event::RouteRefused { key, refusal, owner, delay } => json!({
                "route": key.as_str(),
                "refusal": refusal.to_string(),
                "owner": owner,
                "delay_ms": millis(*delay),
            }),
            Event::ApplyRefused { refusal, delay } => {
                json!({"refusal": refusal.to_string(), "delay_ms": millis(*delay)})
            }
            Event::Replaced { registry, service, instance } => with(
                about(registry),
                [("service", service.as_str().into()), ("instance", instance.as_str().into())],
            ),
            Event::Unsupported { key, what } => json!({"route": key.as_str(), "what": what}),
            Event::MaintenanceRequested { target } | Event::MaintenanceExitRequested { target } => {
                json!({"target": target.to_string()})
            }
            Event::MaintenanceEntered { target, mode } | Event::MaintenanceExited { target, mode } => {
                let mode = if *mode == Mode::Proxy { "proxy" } else { "local" };
                json!({"target": target.to_string(), "mode": mode})
            }
            Event::MaintenanceFailed { entering, refusal } => {
                json!({"entering": entering, "refusal": refusal})
            }
            Event::Drained(drained) => json!({"drained": drained}),
            Event::ConfigInvalid { refusal } => json!({"refusal": refusal.to_string()}),
            Event::IpChanged { old, new } => json!({"old_ip": old.to_string(), "new_ip": new.to_string()}),
            Event::Registry { kind, data } => json!({"type": kind.as_str(), "data": data}),
            Event::Missed(count) => json!({"missed": count}),
            Event::ConfigValidated => json!({}),
        };
        match data {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

fn about(registry: &Registry) -> Value {
    json!({"registry": &*registry.name, "peer": registry.peer.map(|peer| peer.to_string())})
}

fn of_retry(retry: &Retry) -> Value {
    let fields = [
        ("attempt", retry.attempt.into()),
        ("delay_ms", millis(retry.delay).into()),
        ("cause", retry.cause.to_string().into()),
    ];
    with(about(&retry.registry), fields)
}

fn of_route(key: &RouteKey, id: RouteId, route: &Route) -> Value {
    let domains: Vec<_> = route.domains.as_slice().iter().map(ToString::to_string).collect();
    json!({
        "route_id": id.to_string(),
        "route": key.as_str(),
        "domains": domains,
        "path": route.path.to_string(),
        "backend_url": route.backend.to_string(),
        "priority": route.priority,
    })
}

fn with<const N: usize>(mut value: Value, fields: [(&str, Value); N]) -> Value {
    for (name, field) in fields {
        value[name] = field;
    }
    value
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::event::Cause;
    use crate::protocol::{Domains, EventKind, Refusal};
    use crate::{MaintenanceTarget, Route};

    /// One of each, and of those that differ by a field one for each name.
    fn every_event() -> Vec<Event> {
        let registry = Registry { name: "proxy:81".into(), peer: Some(([10, 2, 2, 2], 81).into()) };
        let cause = Cause::Closed;
        let delay = Duration::from_millis(100);
        let retry = Retry { registry: registry.clone(), attempt: 3, delay, cause: cause.clone() };
        let domains = Domains::new(["example.com".parse().unwrap()]).unwrap();
        let route = Route::new(domains, "/api".parse().unwrap(), "http://10.2.2.7:8080".parse().unwrap());
        let (key, id, refusal) = (RouteKey::from("main"), RouteId(1), Refusal::NotAllowed("X".to_owned()));
        let target = MaintenanceTarget::Path("/api".parse().unwrap());
        let (proxy, local) = (Mode::Proxy, Mode::Local);
        vec![
            Event::Connected { registry: registry.clone() },
            Event::Disconnected { registry: registry.clone(), cause: cause.clone() },
            Event::Retrying(retry.clone()),
            Event::ExtendedRetry(retry),
            Event::Reconnected { registry: registry.clone(), resumed: true },
            Event::Joined { registry: registry.clone(), service: "web".parse().unwrap(), siblings: 2 },
            Event::RouteAdded { key: key.clone(), id, route: route.clone() },
            Event::RouteUpdated { key: key.clone(), id, route },
            Event::RouteRemoved { key: Some(key.clone()), id },
            Event::HealthCheckSet { key: key.clone(), id },
            Event::ConfigApplied { routes: 1, revision: Some(7) },
            Event::RouteRefused { key: key.clone(), refusal: refusal.clone(), owner: None, delay },
            Event::ApplyRefused { refusal: refusal.clone(), delay },
            Event::Replaced {
                registry: registry.clone(),
                service: "web".parse().unwrap(),
                instance: "web-1".parse().unwrap(),
            },
            Event::Error { registry, cause },
            Event::Unsupported { key, what: "something".to_owned() },
            Event::MaintenanceRequested { target: target.clone() },
            Event::MaintenanceEntered { target: target.clone(), mode: proxy },
            Event::MaintenanceEntered { target: target.clone(), mode: local },
            Event::MaintenanceExitRequested { target: target.clone() },
            Event::MaintenanceExited { target: target.clone(), mode: proxy },
            Event::MaintenanceExited { target, mode: local },
            Event::MaintenanceFailed { entering: true, refusal: "timeout".to_owned() },
            Event::Drained(true),
            Event::ConfigValidated,
            Event::ConfigInvalid { refusal },
            Event::IpChanged { old: [10, 2, 2, 7].into(), new: [10, 2, 2, 9].into() },
            Event::Registry { kind: EventKind::CertRenewed, data: json!({"domain": "example.com"}) },
            Event::Missed(3),
        ]
    }

    #[test]
    fn each_event_as_people_get_it() {
        let shown: Vec<String> = every_event()
            .iter()
            .map(|event| format!("{} {}", event.name(), Value::Object(event.data())))
            .collect();
        insta::assert_snapshot!(shown.join("\n"));
    }

    #[test]
    fn the_twenty_names_of_the_go_client_are_all_there() {
        let names: BTreeSet<_> = every_event().iter().map(Event::name).collect();
        for name in [
            "CONNECTED",
            "DISCONNECTED",
            "RETRYING",
            "EXTENDED_RETRY",
            "RECONNECTED",
            "ROUTE_ADDED",
            "ROUTE_REMOVED",
            "HEALTH_CHECK_SET",
            "CONFIG_APPLIED",
            "MAINT_REQUESTED",
            "MAINT_PROXY_ENTERED",
            "MAINT_LOCAL_ENTERED",
            "MAINT_EXIT_REQUESTED",
            "MAINT_PROXY_EXITED",
            "MAINT_LOCAL_EXITED",
            "CONFIG_VALIDATED",
            "CONFIG_INVALID",
            "LOG",
            "ERROR",
            "IP_CHANGED",
        ] {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn the_fields_have_the_names_that_the_go_client_gave_them() {
        let changed = Event::IpChanged { old: [10, 2, 2, 7].into(), new: [10, 2, 2, 9].into() };
        assert_eq!(
            Value::Object(changed.data()),
            json!({
                "old_ip": "10.2.2.7",
                "new_ip": "10.2.2.9",
                "message": "address changed from 10.2.2.7 to 10.2.2.9",
            })
        );
        let entered = Event::MaintenanceEntered { target: MaintenanceTarget::All, mode: Mode::Local }.data();
        assert_eq!((&entered["target"], &entered["mode"]), (&json!("ALL"), &json!("local")));
        let log = Event::Missed(3).data();
        assert_eq!((&log["level"], &log["missed"]), (&json!("warn"), &json!(3)));
        assert!(log["message"].is_string());
    }
}
