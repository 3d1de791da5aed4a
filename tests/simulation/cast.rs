//! Who takes part: replicas of services, each an application with addresses and a sidecar with the real machine.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use registry_client::machine::{Goal, Session, Timing};
use registry_client::protocol::{
    Domain, Domains, HealthCheck, InstanceName, LineCodec, MAX_CLIENT_LINE, PathPrefix, RouteOption,
    ServiceName,
};
use registry_client::{Intent, Route, RouteKey, Routes};

use super::grammar::Grammar;
use super::wire::LinkId;

/// A process of a sidecar. Never given twice.
pub(crate) type ProcId = usize;
/// A replica's number.
pub(crate) type ReplicaId = usize;
/// A claim's place.
pub(crate) type Place = (Domain, PathPrefix);

/// Every application listens there, so that a stranger answers.
const PORT: u16 = 8080;

/// One replica of a service: an application, and what its sidecar is to keep true.
pub(crate) struct Replica {
    pub(crate) service: ServiceName,
    pub(crate) instance: InstanceName,
    /// Where the application is. The last one is what the sidecar will advertise.
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// The sidecar has an address of its own (BACKEND_HOST).
    pub(crate) apart: Option<Ipv4Addr>,
    /// The application listens.
    pub(crate) is_up: bool,
    /// It accepts nothing, and refuses nothing.
    pub(crate) is_silent: bool,
    pub(crate) sidecar: Option<ProcId>,
    /// A second process of the same name at the same address: somebody's mistake.
    pub(crate) twin: Option<ProcId>,
    /// What is wanted, by path; the backend follows the address.
    pub(crate) wishes: BTreeMap<RouteKey, Wish>,
    /// What was wanted since everything wanted was in force.
    pub(crate) recent: Vec<Vec<Place>>,
    /// Nothing passes between the sidecar and the registry until then.
    pub(crate) held_until: Duration,
    /// Since when nothing has happened to it that excuses anything.
    pub(crate) quiet_since: Duration,
    /// Since when the application answers at its address.
    pub(crate) steady_since: Duration,
    /// One of its sidecars has had a route in force since it is there.
    pub(crate) has_applied: bool,
    /// It wants what another service has, and its other routes may have to do without their elders' help.
    pub(crate) contests: bool,
}

/// A wanted route but for its backend.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wish {
    pub(crate) domain: Domain,
    pub(crate) path: PathPrefix,
    pub(crate) priority: i32,
    pub(crate) compression: Option<bool>,
    pub(crate) check: Option<HealthCheck>,
}

/// A running sidecar.
pub(crate) struct Sidecar {
    pub(crate) replica: ReplicaId,
    pub(crate) session: Session,
    pub(crate) link: Option<LinkId>,
    pub(crate) codec: LineCodec,
    pub(crate) input: BytesMut,
    /// The attempt that is under way.
    pub(crate) dialling: Option<u64>,
    pub(crate) changes: u64,
    goal: Goal,
    /// The address that it believes in.
    pub(crate) believes: Ipv4Addr,
    pub(crate) grammar: Grammar,
    /// It was stopped (SIGSTOP, a debugger, a machine that sleeps) until then.
    pub(crate) frozen_until: Duration,
    /// When it was told to leave.
    pub(crate) leaving_since: Option<Duration>,
    /// When it sent its last lines.
    pub(crate) sent: VecDeque<Duration>,
    /// The next wake-up that is queued.
    pub(crate) alarm: Option<Duration>,
    /// Wake-ups in a row without time passing.
    pub(crate) spins: (Duration, u32),
    /// When the connection was lost, and how long it is to wait.
    pub(crate) retry: Option<(Duration, Duration)>,
    /// When it first lost a connection, or found none.
    pub(crate) lost_at: Option<Duration>,
}

impl Wish {
    pub(crate) fn place(&self) -> Place {
        (self.domain.clone(), self.path.clone())
    }

    /// The route, with its backend at `address`.
    pub(crate) fn route(&self, address: Ipv4Addr) -> Route {
        let backend = format!("http://{address}:{PORT}").parse().unwrap();
        let domains = Domains::new([self.domain.clone()]).unwrap();
        let mut route = Route::new(domains, self.path.clone(), backend).with_priority(self.priority);
        if let Some(on) = self.compression {
            route = route.with_option(RouteOption::Compression(on));
        }
        route.health.clone_from(&self.check);
        route
    }
}

impl Replica {
    /// Where the application is now, if it is anywhere.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.addresses.last().copied()
    }

    /// From where the sidecar connects.
    pub(crate) fn sidecar_address(&self) -> Option<Ipv4Addr> {
        self.apart.or(self.address())
    }

    /// Whether requests to its addresses are answered.
    pub(crate) fn answers(&self) -> bool {
        self.is_up && !self.is_silent && !self.addresses.is_empty()
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        self.wishes.values().map(Wish::place).collect()
    }

    pub(crate) fn routes(&self, address: Ipv4Addr) -> Routes {
        self.wishes.iter().map(|(key, wish)| (key.clone(), wish.route(address))).collect()
    }
}

impl Sidecar {
    pub(crate) fn new(
        id: ReplicaId,
        replica: &Replica,
        timing: Timing,
        seed: u64,
        now: Instant,
    ) -> Option<Self> {
        let believes = replica.address()?;
        let mut intent = Intent::new(replica.service.clone(), replica.instance.clone());
        intent.routes = replica.routes(believes);
        let goal = intent.goal();
        Some(Sidecar {
            replica: id,
            session: Session::new(Arc::from("proxy:81"), timing, intent, seed, now),
            link: None,
            codec: LineCodec::new(MAX_CLIENT_LINE),
            input: BytesMut::new(),
            dialling: None,
            changes: 0,
            goal,
            believes,
            grammar: Grammar::default(),
            frozen_until: Duration::ZERO,
            leaving_since: None,
            sent: VecDeque::new(),
            alarm: None,
            spins: (Duration::ZERO, 0),
            retry: None,
            lost_at: None,
        })
    }

    /// What the replica wants now, as far as the sidecar knows.
    pub(crate) fn next_goal(&mut self, replica: &Replica) -> Goal {
        self.changes += 1;
        let routes = replica.routes(self.believes);
        (self.goal.change, self.goal.routes) = (self.changes, routes);
        self.goal.clone()
    }

    /// Whether everything that is wanted is in force, as far as it knows.
    pub(crate) fn is_live(&self) -> bool {
        let status = self.session.status();
        status.live && status.intent == self.changes
    }
}

/// The address behind a backend's URL.
pub(crate) fn v4(ip: IpAddr) -> Ipv4Addr {
    match ip {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => unreachable!("the world has no IPv6"),
    }
}

pub(crate) fn some_check(rng: &mut fastrand::Rng) -> Option<HealthCheck> {
    let interval = *rng.choice(&["1s", "3s"]).unwrap();
    let timeout = *rng.choice(&["300ms", "1s"]).unwrap();
    let path = "/up".parse().unwrap();
    let check = HealthCheck { path, interval: interval.parse().unwrap(), timeout: timeout.parse().unwrap() };
    (rng.u8(..) < 220).then_some(check)
}

/// One replica of a service, at an address.
pub(crate) fn replica(service: usize, instance: usize, address: Ipv4Addr) -> Replica {
    let wish = Wish {
        domain: format!("s{service}.example.com").parse().unwrap(),
        path: "/".parse().unwrap(),
        priority: 10,
        compression: None,
        check: None,
    };
    Replica {
        service: format!("s{service}").parse().unwrap(),
        instance: format!("s{service}-{instance}").parse().unwrap(),
        addresses: vec![address],
        apart: None,
        is_up: true,
        is_silent: false,
        sidecar: None,
        twin: None,
        recent: vec![vec![wish.place()]],
        wishes: BTreeMap::from([("main".into(), wish)]),
        held_until: Duration::ZERO,
        quiet_since: Duration::ZERO,
        steady_since: Duration::ZERO,
        has_applied: false,
        contests: false,
    }
}

/// Two or three services of one or two replicas.
pub(crate) fn replicas(rng: &mut fastrand::Rng) -> Vec<Replica> {
    let mut all = Vec::new();
    for service in 0..rng.usize(2..=3) {
        let is_apart = rng.u8(..) < 64;
        for instance in 0..rng.usize(1..=2) {
            let number = u8::try_from(all.len()).unwrap();
            let mut one = replica(service, instance, Ipv4Addr::new(10, 2, 2, 10 + number));
            one.apart = is_apart.then(|| Ipv4Addr::new(10, 2, 3, 10 + number));
            one.wishes.values_mut().for_each(|wish| wish.check = some_check(rng));
            all.push(one);
        }
    }
    all
}
