//! What must hold once everything is healed: intent equals applied state, and nothing else is left.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use registry_client::protocol::{Host, OptionKey, RouteOption};
use registry_sidecar::server::registry::persist::{RouteRecord, SavedSession};

use super::cast::{Place, Replica, Wish};
use super::world::World;

impl World {
    /// Why the world is not as everybody wants it to be, if so.
    pub(crate) fn judge(&self) -> Result<(), String> {
        for (id, replica) in self.replicas.iter().enumerate() {
            self.judge_sidecar(replica).map_err(|why| format!("replica {id}: {why}"))?;
            self.judge_disk(replica).map_err(|why| format!("replica {id}: {why}"))?;
        }
        self.judge_table()?;
        let (sessions, on_disk) = (self.server.session_count(), self.server.disk().count());
        let expected = self.replicas.len();
        if (sessions, on_disk) != (expected, expected) {
            return Err(format!("{expected} sidecars, {sessions} sessions, {on_disk} on disk"));
        }
        Ok(())
    }

    fn judge_sidecar(&self, replica: &Replica) -> Result<(), String> {
        let sidecar = replica.sidecar.and_then(|proc| self.procs.get(&proc)).ok_or("no sidecar")?;
        if sidecar.is_live() { Ok(()) } else { Err(format!("not live: {:?}", sidecar.session.status())) }
    }

    /// What was applied is what is wanted, to the last setting.
    fn judge_disk(&self, replica: &Replica) -> Result<(), String> {
        let own = |saved: &&SavedSession| {
            saved.session.service == replica.service && saved.session.instance == replica.instance
        };
        let mut sessions = self.server.disk().filter(own);
        let (Some(saved), None) = (sessions.next(), sessions.next()) else {
            return Err("not exactly one session on disk".to_owned());
        };
        let address = replica.address().ok_or("no address")?;
        let mut routes: Vec<&RouteRecord> = saved.routes.values().collect();
        for wish in replica.wishes.values() {
            let at = routes.iter().position(|route| is_as_wished(route, wish, address));
            let at = at.ok_or_else(|| format!("not in force: {wish:?} at {address}, but {routes:?}"))?;
            routes.remove(at);
        }
        if routes.is_empty() { Ok(()) } else { Err(format!("nobody wants {routes:?}")) }
    }

    /// Every wanted claim has exactly the members that are wanted, and all of them serve.
    fn judge_table(&self) -> Result<(), String> {
        let mut wanted: BTreeSet<(Place, Ipv4Addr)> = BTreeSet::new();
        for replica in &self.replicas {
            let address = replica.address().ok_or("no address")?;
            wanted.extend(replica.places().into_iter().map(|place| (place, address)));
        }
        for claim in self.server.table.claims() {
            let place = (claim.domain.clone(), claim.path.clone());
            if claim.members.is_empty() {
                return Err(format!("{}{} is held for nobody", place.0, place.1));
            }
            for member in &claim.members {
                let Host::Ip(ip) = member.backend.host() else { continue };
                let is_wanted = wanted.remove(&(place.clone(), super::cast::v4(*ip)));
                if !is_wanted || !member.usable {
                    return Err(format!("{}{} has {member:?}, wanted: {is_wanted}", place.0, place.1));
                }
            }
        }
        if wanted.is_empty() { Ok(()) } else { Err(format!("not served: {wanted:?}")) }
    }
}

fn is_as_wished(route: &RouteRecord, wish: &Wish, address: Ipv4Addr) -> bool {
    let wanted = wish.route(address);
    let cells = &route.settings;
    let option = |key| cells.options.get(&key).cloned();
    let compression = wish.compression.map(RouteOption::Compression);
    let check = match &wish.check {
        Some(check) => {
            cells.health_path.as_ref() == Some(&check.path)
                && option(OptionKey::HealthCheckInterval)
                    == Some(RouteOption::HealthCheckInterval(check.interval))
                && option(OptionKey::HealthCheckTimeout)
                    == Some(RouteOption::HealthCheckTimeout(check.timeout))
        }
        None => match option(OptionKey::HealthCheckInterval) {
            Some(RouteOption::HealthCheckInterval(interval)) => interval.is_zero(),
            _ => true,
        },
    };
    route.domains == wanted.domains
        && route.path == wanted.path
        && route.backend == wanted.backend
        && route.priority == wanted.priority
        && option(OptionKey::Compression) == compression
        && check
}
