//! Which routes are wanted at this moment: those of the configuration, at the addresses that are known, from the moment
//! at which their places were ready for the first time (SEMANTICS section 6, "Readiness"). Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::sidecar::config::{Config, RegistrationConfig, RouteConfig, addresses_of};
use crate::sidecar::state::{Conditions, Places};
use registry_client::protocol::Host;
use registry_client::{Intent, Visibility};

use super::intent::{intent, route};

/// The routes that are wanted, and what decides that.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The configuration; after a reload the new one.
    config: Config,
    registration: RegistrationConfig,
    /// Our address, or that of the first replica.
    own: IpAddr,
    /// The application's addresses where BACKEND_EACH_ADDRESS is set.
    replicas: Option<Vec<IpAddr>>,
    /// The places of routes that were wanted once. No route goes because its application is not ready.
    opened: BTreeSet<String>,
}

impl Wanted {
    pub(super) fn new(config: &Config, registration: &RegistrationConfig, own: IpAddr) -> Self {
        let (config, registration) = (config.clone(), registration.clone());
        Wanted { config, registration, own, replicas: None, opened: BTreeSet::new() }
    }

    /// The application is at another address.
    pub(super) fn set_own(&mut self, own: IpAddr) {
        self.own = own;
    }

    /// The application is at these addresses.
    pub(super) fn set_replicas(&mut self, replicas: Vec<IpAddr>) {
        self.own = replicas.first().copied().unwrap_or(self.own);
        self.replicas = Some(replicas);
    }

    /// The configuration was read again, and has these routes. Their places may be new, so that nobody knows whether they
    /// are ready: such routes are wanted at once.
    pub(super) fn set_config(&mut self, config: Config, registration: RegistrationConfig, own: IpAddr) {
        (self.config, self.registration, self.own) = (config, registration, own);
    }

    /// What is to be registered while the places stand like this. During maintenance all routes are, because their page is.
    pub(super) fn intent(&mut self, places: &Places, conditions: Conditions) -> Intent {
        let mut wanted = intent(&self.registration, self.own);
        wanted.maintenance_port = self.config.maintenance.port;
        wanted.maintenance_page = self.config.maintenance.url(self.own);
        wanted.routes.clear();
        let all = conditions.visibility() == Visibility::Maintenance;
        let mut opened = BTreeSet::new();
        for config in &self.registration.routes {
            for replica in addresses_of(config, self.replicas.as_deref()) {
                let place = self.config.place_of(config, replica).name();
                let status = places.get(&place);
                let is_known_to_be_shut = status.is_some_and(|status| !status.was_ready);
                if is_known_to_be_shut && !all && !self.opened.contains(&place) {
                    continue;
                }
                // A place that nobody has tried yet waits for its first try.
                if status.is_none() && replica.is_some() && self.config.readiness.wait && !all {
                    continue;
                }
                opened.insert(place);
                wanted.routes.insert(key(config, replica).into(), route(config, replica.unwrap_or(self.own)));
            }
        }
        self.opened = opened;
        wanted
    }

    /// The ports of the routes that lead to our address.
    pub(super) fn own_ports(&self) -> Vec<u16> {
        self.registration.own_ports()
    }
}

/// The route is named after the variable that it comes from, and after its replica if there are several.
fn key(config: &RouteConfig, replica: Option<IpAddr>) -> String {
    match replica {
        Some(ip) => format!("{}@{}", config.origin, Host::Ip(ip)),
        None => config.origin.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::*;
    use crate::environment::Context;
    use crate::sidecar::state::PlaceStatus;

    const ROUTES: &str =
        r#"[{"domains":"a.example.com","port":8000},{"domains":"b.example.com","port":8001}]"#;

    fn wanted(more: &[(&str, &str)]) -> Wanted {
        let vars = [("SERVICE_NAME", "shop"), ("INSTANCE_NAME", "shop-1"), ("SIDECAR_ROUTES", ROUTES)];
        let vars = vars.iter().chain(more).map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let read_file = |_: &Path| Err("no files here".to_owned());
        let config = Config::from_env(vars, Context { host_name: "h", read_file: &read_file }).unwrap();
        let registration = config.registration.clone().unwrap();
        Wanted::new(&config, &registration, [10, 2, 2, 7].into())
    }

    fn places(standing: &[(&str, bool, bool)]) -> Places {
        let status = |ready, was_ready| PlaceStatus { ready, was_ready, problem: None };
        standing.iter().map(|(name, ready, was)| ((*name).to_owned(), status(*ready, *was))).collect()
    }

    /// The keys of the routes, each with its backend.
    fn routes(wanted: &mut Wanted, standing: &[(&str, bool, bool)]) -> Vec<String> {
        let conditions = Conditions { ready: true, was_ready: true, ..Conditions::default() };
        let intent = wanted.intent(&places(standing), conditions);
        intent.routes.iter().map(|(key, route)| format!("{key} {}", route.backend)).collect()
    }

    const ONE: &str = "tcp://127.0.0.1:8000";
    const TWO: &str = "tcp://127.0.0.1:8001";
    const BOTH: [&str; 2] = ["ROUTES[0] http://10.2.2.7:8000/", "ROUTES[1] http://10.2.2.7:8001/"];

    #[test]
    fn a_route_comes_with_its_own_port_and_stays_when_that_is_lost() {
        let mut wanted = wanted(&[]);
        assert_eq!(routes(&mut wanted, &[(ONE, true, true), (TWO, false, false)]), BOTH[..1]);
        assert_eq!(routes(&mut wanted, &[(ONE, true, true), (TWO, true, true)]), BOTH);
        assert_eq!(routes(&mut wanted, &[(ONE, true, true), (TWO, false, true)]), BOTH);
        // The command was started again, and its ports are tried anew.
        assert_eq!(routes(&mut wanted, &[(ONE, true, true), (TWO, false, false)]), BOTH);
    }

    #[test]
    fn maintenance_is_of_all_routes() {
        let mut wanted = wanted(&[]);
        let conditions = Conditions { maintenance: true, ..Conditions::default() };
        assert_eq!(
            wanted.intent(&places(&[(ONE, false, false), (TWO, false, false)]), conditions).routes.len(),
            2
        );
    }

    #[test]
    fn with_a_check_of_the_whole_all_routes_come_together() {
        let mut wanted = wanted(&[("SIDECAR_READY_CHECK", "file:/ready")]);
        assert!(routes(&mut wanted, &[("file:/ready", false, false)]).is_empty());
        assert_eq!(routes(&mut wanted, &[("file:/ready", true, true)]), BOTH);
    }

    #[test]
    fn each_replica_has_its_routes_from_its_first_answer_until_it_is_gone() {
        let each = [("BACKEND_HOST", "tasks.shop"), ("SIDECAR_BACKEND_EACH_ADDRESS", "true")];
        let mut wanted = wanted(&each);
        let at = |ip: &str, port: u16| format!("tcp://{ip}:{port}");
        let (one, two) = (at("10.2.2.8", 8000), at("10.2.2.9", 8000));
        wanted.set_replicas(vec![[10, 2, 2, 8].into(), [10, 2, 2, 9].into()]);
        assert_eq!(
            routes(&mut wanted, &[(&one, true, true), (&two, false, false)]),
            ["ROUTES[0]@10.2.2.8 http://10.2.2.8:8000/"]
        );
        let standing = [(one.as_str(), false, true), (&two, true, true)];
        assert_eq!(
            routes(&mut wanted, &standing),
            ["ROUTES[0]@10.2.2.8 http://10.2.2.8:8000/", "ROUTES[0]@10.2.2.9 http://10.2.2.9:8000/"]
        );
        wanted.set_replicas(vec![[10, 2, 2, 9].into()]);
        assert_eq!(routes(&mut wanted, &standing), ["ROUTES[0]@10.2.2.9 http://10.2.2.9:8000/"]);
    }
}
