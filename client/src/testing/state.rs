//! What a fake registry knows, and how it answers: no I/O.

use std::collections::{BTreeMap, BTreeSet};

use crate::intent::Route;
use crate::protocol::report::{
    BackendReport, DrainStatus, MaintenanceStatus, RouteEntry, RouteStatus, SessionInfo,
};
use crate::protocol::{
    Command, Domain, EventKind, InstanceName, Push, Refusal, Registration, Reply, Request, RouteChange,
    RouteId, ServerLine, ServiceName, SessionId, SessionRef, Target, TargetItem,
};

/// A route in force at a [`FakeRegistry`](super::FakeRegistry).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FakeRoute {
    /// The service that registered it.
    pub service: ServiceName,
    /// Which of its instances did.
    pub instance: InstanceName,
    /// Its id in the instance's session.
    pub id: RouteId,
    /// The route with its settings, as the client sent them.
    pub route: Route,
    /// Whether it is in maintenance.
    pub in_maintenance: bool,
    /// Whether its session is drained.
    pub is_drained: bool,
}

/// Sessions and settings of one fake registry.
#[derive(Debug, Default)]
pub(super) struct State {
    sessions: BTreeMap<SessionId, Session>,
    /// The sessions whose name another one has taken.
    replaced: BTreeSet<SessionId>,
    last_session: u64,
    /// Domains that belong to the service named.
    taken: BTreeMap<Domain, String>,
    pub(super) in_flight: u64,
    /// What clients have sent, without secrets.
    pub(super) lines: Vec<String>,
}

#[derive(Debug)]
struct Session {
    registration: Registration,
    active: BTreeMap<RouteId, Route>,
    staged: BTreeMap<RouteId, Route>,
    last_route: u32,
    revision: u64,
    is_drained: bool,
    maintained: BTreeSet<RouteId>,
    subscribed: BTreeSet<EventKind>,
}

impl State {
    /// What is answered to a line, first to last. `own`: the session that is bound to the connection.
    pub(super) fn answer(&mut self, line: &str, own: &mut Option<SessionId>) -> Vec<ServerLine> {
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(refusal) => return vec![Reply::Error(refusal).into()],
        };
        self.lines.push(command.redacted());
        match command {
            Command::Register(registration) => vec![self.register(registration, own).into()],
            Command::Reconnect(id) => vec![self.reconnect(id, own).into()],
            Command::Request(session, request) => {
                let id = match session {
                    SessionRef::Own => own.clone(),
                    SessionRef::Id(id) => Some(id),
                };
                self.request(id, request)
            }
        }
    }

    pub(super) fn take(&mut self, domain: Domain, owner: &str) {
        self.taken.insert(domain, owner.to_owned());
    }

    pub(super) fn free(&mut self, domain: &Domain) {
        self.taken.remove(domain);
    }

    pub(super) fn forget_sessions(&mut self) {
        self.sessions.clear();
        self.replaced.clear();
    }

    /// Whether this session gets events of `kind`.
    pub(super) fn is_subscribed(&self, session: &SessionId, kind: EventKind) -> bool {
        self.sessions.get(session).is_some_and(|session| session.subscribed.contains(&kind))
    }

    pub(super) fn routes(&self) -> Vec<FakeRoute> {
        let of_session = |session: &Session| {
            let route = |(id, route): (&RouteId, &Route)| FakeRoute {
                service: session.registration.service.clone(),
                instance: session.registration.instance.clone(),
                id: *id,
                route: route.clone(),
                in_maintenance: session.maintained.contains(id),
                is_drained: session.is_drained,
            };
            session.active.iter().map(route).collect::<Vec<_>>()
        };
        self.sessions.values().flat_map(of_session).collect()
    }

    fn register(&mut self, registration: Registration, own: &mut Option<SessionId>) -> Reply {
        let name = |session: &Registration| (session.service.clone(), session.instance.clone());
        let older = self.sessions.iter().find(|(_, older)| name(&older.registration) == name(&registration));
        if let Some(older) = older.map(|(id, _)| id.clone()) {
            self.sessions.remove(&older);
            self.replaced.insert(older);
        }
        self.last_session += 1;
        let id: SessionId = format!("S{}", self.last_session).parse().unwrap();
        self.sessions.insert(id.clone(), Session::new(registration));
        *own = Some(id.clone());
        Reply::Registered(id)
    }

    fn reconnect(&mut self, id: SessionId, own: &mut Option<SessionId>) -> Reply {
        if self.replaced.contains(&id) {
            return Reply::Error(Refusal::SessionReplaced);
        }
        match self.sessions.contains_key(&id) {
            true => {
                *own = Some(id);
                Reply::Ok
            }
            false => Reply::Reregister,
        }
    }

    fn request(&mut self, id: Option<SessionId>, request: Request) -> Vec<ServerLine> {
        let Some(id) = id else { return vec![Reply::Error(Refusal::NoSession).into()] };
        if self.replaced.contains(&id) {
            return vec![Reply::Error(Refusal::SessionReplaced).into()];
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return vec![Reply::Error(Refusal::SessionNotFound).into()];
        };
        match request {
            Request::ClientShutdown => {
                self.sessions.remove(&id);
                vec![Reply::ShutdownOk.into()]
            }
            Request::ConfigApply => vec![session.apply(&self.taken).into()],
            Request::ConfigValidate => {
                vec![session.refusal(&self.taken).map_or(Reply::Ok, Reply::Error).into()]
            }
            Request::DrainStatus => vec![session.drain_status(self.in_flight).into()],
            Request::MaintEnter { target, .. } => session.maintain(target, true),
            Request::MaintExit(target) => session.maintain(target, false),
            request => vec![session.answer(request).unwrap_or_else(Reply::Error).into()],
        }
    }
}

impl Session {
    fn new(registration: Registration) -> Self {
        Session {
            registration,
            active: BTreeMap::new(),
            staged: BTreeMap::new(),
            last_route: 0,
            revision: 0,
            is_drained: false,
            maintained: BTreeSet::new(),
            subscribed: BTreeSet::new(),
        }
    }

    fn answer(&mut self, request: Request) -> Result<Reply, Refusal> {
        Ok(match request {
            Request::Ping => Reply::Pong,
            Request::SessionInfo => Reply::SessionInfo(Box::new(self.info())),
            Request::ConfigRollback => {
                self.staged = self.active.clone();
                Reply::Ok
            }
            Request::ConfigDiff => Reply::Diff(Box::default()),
            Request::RouteList { .. } => Reply::RouteList(self.entries()),
            Request::MaintStatus => Reply::MaintenanceStatus(self.maintenance_status()),
            Request::StatsGet(_) => Reply::StatsAll(Vec::new()),
            Request::BackendTest(_) => Reply::BackendOk(BackendReport {
                reachable: true,
                response_time_ms: 1.0,
                status_code: 200,
                tls_valid: false,
            }),
            Request::DrainStart(_) => {
                self.is_drained = true;
                Reply::DrainStarted("1970-01-01T00:00:00Z".to_owned())
            }
            Request::DrainCancel if self.is_drained => {
                self.is_drained = false;
                Reply::DrainOk
            }
            Request::DrainCancel => return Err(Refusal::NoDrain),
            Request::Subscribe(kind) => {
                self.subscribed.insert(kind);
                Reply::SubscribeOk
            }
            Request::Unsubscribe(kind) => {
                self.subscribed.remove(&kind);
                Reply::UnsubscribeOk
            }
            request => return self.stage(request),
        })
    }

    /// The commands that stage something.
    fn stage(&mut self, request: Request) -> Result<Reply, Refusal> {
        Ok(match request {
            Request::RouteAdd(spec) => {
                self.last_route += 1;
                let id = RouteId(self.last_route);
                let route = Route::new(spec.domains, spec.path, spec.backend).with_priority(spec.priority);
                self.staged.insert(id, route);
                Reply::RouteAdded(id)
            }
            Request::RouteUpdate { route, change } => {
                let route = self.staged.get_mut(&route).ok_or(Refusal::RouteNotFound)?;
                match change {
                    RouteChange::Backend(backend) => route.backend = backend,
                    RouteChange::Priority(priority) => route.priority = priority,
                    RouteChange::Domains(domains) => route.domains = domains,
                    RouteChange::Path(path) => route.path = path,
                }
                Reply::RouteOk
            }
            Request::RouteRemove(id) => {
                self.staged.remove(&id).ok_or(Refusal::RouteNotFound)?;
                Reply::RouteOk
            }
            Request::OptionsSet { target, option } => {
                self.each(&target, |route| route.options.set(option.clone()));
                Reply::OptionsOk
            }
            Request::OptionsRemove { target, key } => {
                self.each(&target, |route| {
                    route.options =
                        route.options.iter().filter(|option| option.key() != key).cloned().collect();
                });
                Reply::OptionsOk
            }
            Request::HealthSet { route, check } => {
                let route = self.staged.get_mut(&route).ok_or(Refusal::RouteNotFound)?;
                route.health = (!check.interval.is_zero()).then_some(check);
                Reply::HealthOk
            }
            Request::HeadersSet { target, name, value } => {
                self.each(&target, |route| route.headers.set(name.clone(), value.clone()));
                Reply::HeadersOk
            }
            request => return Err(Refusal::UnknownCommand(request.name().to_owned())),
        })
    }

    fn apply(&mut self, taken: &BTreeMap<Domain, String>) -> Reply {
        if let Some(refusal) = self.refusal(taken) {
            return Reply::Error(refusal);
        }
        self.active = self.staged.clone();
        self.maintained.retain(|id| self.active.contains_key(id));
        self.revision += 1;
        Reply::Ok
    }

    /// What a registry says of the first route that claims a domain of another service.
    fn refusal(&self, taken: &BTreeMap<Domain, String>) -> Option<Refusal> {
        self.staged.iter().find_map(|(id, route)| {
            let domain = route.domains.as_slice().iter().find(|domain| taken.contains_key(*domain))?;
            let owner = &taken[domain];
            Some(Refusal::Other(format!("route {id}: {domain}{} belongs to service {owner}", route.path)))
        })
    }

    /// MAINT_ENTER and MAINT_EXIT: the acknowledgement, and the verdict at once.
    fn maintain(&mut self, target: Target, enters: bool) -> Vec<ServerLine> {
        let ids: Vec<RouteId> = self.meant(&target);
        for id in ids {
            match enters {
                true => drop(self.maintained.insert(id)),
                false => drop(self.maintained.remove(&id)),
            }
        }
        vec![Reply::MaintenanceAck.into(), Push::MaintenanceOk(target).into()]
    }

    fn meant(&self, target: &Target) -> Vec<RouteId> {
        let ids = self.staged.keys().copied();
        match target {
            Target::All => ids.collect(),
            Target::Some(items) => ids.filter(|id| items.contains(&TargetItem::Route(*id))).collect(),
        }
    }

    fn each(&mut self, target: &Target, change: impl Fn(&mut Route)) {
        for id in self.meant(target) {
            self.staged.entry(id).and_modify(&change);
        }
    }

    fn info(&self) -> SessionInfo {
        SessionInfo {
            service_name: self.registration.service.to_string(),
            instance_name: self.registration.instance.to_string(),
            routes_active: self.active.len() as u64,
            revision: Some(self.revision),
            server: Some("registry-server/fake".to_owned()),
            capabilities: vec!["drain".to_owned()],
            ..SessionInfo::default()
        }
    }

    fn entries(&self) -> Vec<RouteEntry> {
        let entry = |(id, route): (&RouteId, &Route)| RouteEntry {
            route_id: *id,
            domains: route.domains.as_slice().iter().map(ToString::to_string).collect(),
            path: route.path.to_string(),
            backend: route.backend.to_string(),
            priority: route.priority,
            status: RouteStatus::Active,
        };
        self.active.iter().map(entry).collect()
    }

    fn maintenance_status(&self) -> MaintenanceStatus {
        let in_maintenance = self.maintained.iter().map(ToString::to_string).collect();
        MaintenanceStatus { in_maintenance, ..MaintenanceStatus::default() }
    }

    fn drain_status(&self, in_flight: u64) -> Reply {
        if !self.is_drained {
            return Reply::Error(Refusal::NoDrain);
        }
        Reply::DrainStatus(DrainStatus {
            active: true,
            started_at: "1970-01-01T00:00:00Z".to_owned(),
            duration_seconds: 0.0,
            elapsed_seconds: 0.0,
            remaining_seconds: 0.0,
            traffic_percent: 0.0,
            in_flight: Some(in_flight),
            upgraded: Some(0),
        })
    }
}
