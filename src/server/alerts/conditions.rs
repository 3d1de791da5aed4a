//! From what is observed to alerts that begin and end (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use super::outbox::{Alert, Subject};

/// How long a service must be without anybody who serves. A restart takes less.
const LOST_FOR: Duration = Duration::from_secs(10);
/// How long the store must be in trouble, and how long after a refusal it counts as well again.
const STORE_FOR: Duration = Duration::from_secs(10);
const STORE_WELL: Duration = Duration::from_secs(60);
/// A certificate with less time left is near its end.
const NEAR_END: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// How many services are watched at once; of further ones nothing is told.
const MAX_SERVICES: usize = 5000;
/// For how long a lost service is remembered that has no claim any more.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// How things are.
#[derive(Debug, Default)]
pub(super) struct Observation {
    /// Each service that has a claim, and whether all its claims are served.
    pub(super) services: BTreeMap<String, bool>,
    /// The ends of certificates, by their first name.
    pub(super) certificates: BTreeMap<String, SystemTime>,
    /// Why the shared store cannot be read.
    pub(super) store_trouble: Option<String>,
    /// The store has refused a change since the last observation.
    pub(super) store_refused: bool,
}

/// Which alerts there are.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    services: BTreeMap<String, Service>,
    certificates: BTreeSet<String>,
    store: Store,
}

#[derive(Debug)]
struct Service {
    /// Since when nobody serves.
    ill: Option<Instant>,
    /// Whether that was told.
    is_told: bool,
    seen: Instant,
}

#[derive(Debug, Default)]
struct Store {
    ill: Option<Instant>,
    refused: Option<Instant>,
    is_told: bool,
}

impl Conditions {
    /// The alerts that begin or end with this observation.
    pub(super) fn observe(&mut self, now: Instant, wall: SystemTime, seen: &Observation) -> Vec<Alert> {
        let mut alerts = Vec::new();
        self.services(now, wall, seen, &mut alerts);
        self.certificates(wall, seen, &mut alerts);
        self.store(now, wall, seen, &mut alerts);
        alerts
    }

    fn services(&mut self, now: Instant, wall: SystemTime, seen: &Observation, alerts: &mut Vec<Alert>) {
        for (name, serves) in &seen.services {
            if self.services.len() >= MAX_SERVICES && !self.services.contains_key(name) {
                continue;
            }
            let service =
                self.services.entry(name.clone()).or_insert(Service { ill: None, is_told: false, seen: now });
            service.seen = now;
            if *serves {
                service.ill = None;
                if std::mem::take(&mut service.is_told) {
                    alerts.push(Alert::ends(Subject::Service(name.clone()), format!("{name} is back"), wall));
                }
                continue;
            }
            let ill = *service.ill.get_or_insert(now);
            if !service.is_told && now.saturating_duration_since(ill) >= LOST_FOR {
                service.is_told = true;
                let text = format!("{name} is lost: nobody serves it, or a part of it");
                alerts.push(Alert::begins(Subject::Service(name.clone()), text, wall));
            }
        }
        // A service that left in order is nobody's trouble. One that was lost before may come back.
        self.services.retain(|_, service| match service.is_told {
            true => now.saturating_duration_since(service.seen) < REMEMBERED,
            false => service.seen == now,
        });
    }

    fn certificates(&mut self, wall: SystemTime, seen: &Observation, alerts: &mut Vec<Alert>) {
        let is_near =
            |ends: &SystemTime| ends.duration_since(wall).is_ok_and(|left| left < NEAR_END) || *ends <= wall;
        for (name, ends) in seen.certificates.iter().filter(|(_, ends)| is_near(ends)) {
            if self.certificates.insert(name.clone()) {
                let left = ends.duration_since(wall).map(|left| left.as_secs() / 86_400);
                let text = match left {
                    Ok(days) => format!("the certificate of {name} ends in {days} days"),
                    Err(_) => format!("the certificate of {name} has ended"),
                };
                alerts.push(Alert::begins(Subject::Certificate(name.clone()), text, wall));
            }
        }
        let over: Vec<String> = self
            .certificates
            .iter()
            .filter(|name| seen.certificates.get(*name).is_none_or(|ends| !is_near(ends)))
            .cloned()
            .collect();
        for name in over {
            self.certificates.remove(&name);
            let text = match seen.certificates.contains_key(&name) {
                true => format!("the certificate of {name} is renewed"),
                false => format!("the certificate of {name} is not used any more"),
            };
            alerts.push(Alert::ends(Subject::Certificate(name), text, wall));
        }
    }

    fn store(&mut self, now: Instant, wall: SystemTime, seen: &Observation, alerts: &mut Vec<Alert>) {
        let store = &mut self.store;
        if seen.store_refused {
            store.refused = Some(now);
        }
        store.ill = seen.store_trouble.as_ref().map(|_| store.ill.unwrap_or(now));
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        let refuses = since(store.refused).is_some_and(|ago| ago < STORE_WELL);
        let is_ill = refuses || since(store.ill).is_some_and(|time| time >= STORE_FOR);
        if is_ill != store.is_told {
            store.is_told = is_ill;
            alerts.push(match (is_ill, &seen.store_trouble) {
                (true, Some(why)) => {
                    Alert::begins(Subject::Store, format!("the store is in trouble: {why}"), wall)
                }
                (true, None) => Alert::begins(Subject::Store, "the store refuses changes".to_owned(), wall),
                (false, _) => Alert::ends(Subject::Store, "the store is well again".to_owned(), wall),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        conditions: Conditions,
        begun: Instant,
    }

    impl World {
        fn new() -> Self {
            World { conditions: Conditions::default(), begun: Instant::now() }
        }

        /// The texts of the alerts after so many seconds.
        fn at(&mut self, seconds: u64, seen: &Observation) -> Vec<String> {
            let time = Duration::from_secs(seconds);
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + time;
            let alerts = self.conditions.observe(self.begun + time, wall, seen);
            alerts.into_iter().map(|alert| alert.text).collect()
        }
    }

    fn services(all: &[(&str, bool)]) -> Observation {
        let services = all.iter().map(|(name, serves)| ((*name).to_owned(), *serves)).collect();
        Observation { services, ..Observation::default() }
    }

    #[test]
    fn a_service_is_lost_after_ten_seconds_and_its_return_is_told() {
        let mut world = World::new();
        assert!(world.at(0, &services(&[("web", true)])).is_empty());
        assert!(world.at(1, &services(&[("web", false)])).is_empty());
        assert!(world.at(10, &services(&[("web", false)])).is_empty());
        assert_eq!(world.at(11, &services(&[("web", false)])).len(), 1);
        assert!(world.at(20, &services(&[("web", false)])).is_empty(), "it is told once");
        assert!(world.at(30, &services(&[])).is_empty(), "its claims are gone, and it is still lost");
        assert_eq!(world.at(40, &services(&[("web", true)])), ["web is back"]);
    }

    #[test]
    fn a_restart_and_a_service_that_leaves_are_nobodys_trouble() {
        let mut world = World::new();
        world.at(0, &services(&[("web", true), ("shop", true)]));
        assert!(world.at(5, &services(&[("web", false)])).is_empty());
        assert!(world.at(14, &services(&[("web", true)])).is_empty());
        assert!(world.at(60, &services(&[("web", true)])).is_empty());
    }

    #[test]
    fn a_certificate_near_its_end_is_told_once_and_its_renewal() {
        let mut world = World::new();
        let ends = |days: u64| {
            let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + days * 86_400);
            Observation {
                certificates: BTreeMap::from([("a.example".to_owned(), end)]),
                ..Observation::default()
            }
        };
        assert!(world.at(0, &ends(15)).is_empty());
        assert_eq!(world.at(1, &ends(10)), ["the certificate of a.example ends in 9 days"]);
        assert!(world.at(2, &ends(10)).is_empty());
        assert_eq!(world.at(3, &ends(90)), ["the certificate of a.example is renewed"]);
        assert_eq!(world.at(4, &ends(0)), ["the certificate of a.example has ended"]);
    }

    #[test]
    fn a_store_that_refuses_is_told_at_once_and_one_in_trouble_after_a_while() {
        let mut world = World::new();
        let refused = Observation { store_refused: true, ..Observation::default() };
        assert_eq!(world.at(0, &refused), ["the store refuses changes"]);
        assert!(world.at(59, &Observation::default()).is_empty());
        assert_eq!(world.at(60, &Observation::default()), ["the store is well again"]);
        let trouble = Observation { store_trouble: Some("no answer".to_owned()), ..Observation::default() };
        assert!(world.at(100, &trouble).is_empty());
        assert_eq!(world.at(110, &trouble), ["the store is in trouble: no answer"]);
    }
}
