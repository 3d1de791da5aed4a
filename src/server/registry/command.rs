//! What each command does (PROTOCOL sections 3 to 5).

use std::net::SocketAddr;

use crate::protocol::{
    BackendUrl, Command, Domain, HealthCheck, Host, OptionKey, Refusal, Reply, Request, RouteChange, RouteId,
    RouteOption, RouteSpec, SessionRef, Target, TargetItem,
};

use super::apply::Pending;
use super::io::{Change, ConnId, Effect, Happening, Now, SessionNo, TestId};
use super::policy::ClaimPolicy;
use super::session::Session;
use super::stage::{Slot, Stage, cost};
use super::timers::Timer;
use super::{Outcome, Registry, Wait};

impl Registry {
    pub(super) fn command(&mut self, now: Now, conn: ConnId, command: Command) -> Outcome {
        if let Command::Reconnect(id) | Command::Request(SessionRef::Id(id), _) = &command {
            self.sessions.recognise(id);
        }
        if let Some(no) = self.must_wait_for(conn, &command) {
            if let Some(session) = self.sessions.get_mut(no) {
                session.waiting.push(conn);
            }
            return Outcome::Wait(Wait::Turn(no, Box::new(command)));
        }
        if let Some(no) = self.lacks_ids(conn, &command) {
            return self.reserve_ids(now, conn, no, command);
        }
        match command {
            Command::Register(registration) => self.register(now, conn, registration).into(),
            Command::Reconnect(id) => self.reconnect(now, conn, &id),
            Command::Request(session, request) => self.request(now, conn, &session, request),
        }
    }

    /// The session that the command is for, if a change of it is on its way to the store and the command could
    /// get in its way.
    fn must_wait_for(&self, conn: ConnId, command: &Command) -> Option<SessionNo> {
        if self.pending.is_empty() {
            return None;
        }
        let no = match command {
            Command::Register(_) => return None,
            Command::Request(_, request) if is_indifferent(request) => return None,
            Command::Reconnect(id) => self.resolve(conn, &SessionRef::Id(id.clone())),
            Command::Request(session, _) => self.resolve(conn, session),
        };
        let session = self.sessions.get(no.ok()?)?;
        // An apply may end on another connection than it began on: RECONNECT's OK says nothing about what is
        // applied, and what is asked behind it waits. A session that ends may not come back.
        let ends =
            matches!(self.pending.get(&session.pending?)?, Pending::ShutDown { .. } | Pending::Expiry(_));
        (ends || !matches!(command, Command::Reconnect(_))).then_some(session.no)
    }

    fn request(&mut self, now: Now, conn: ConnId, session: &SessionRef, request: Request) -> Outcome {
        let no = match self.resolve(conn, session) {
            Ok(no) => no,
            Err(refusal) => return Err(refusal).into(),
        };
        self.renew(now, conn, no);
        match request {
            Request::Ping => Outcome::Reply(Reply::Pong),
            Request::SessionInfo => self.session_info(now, no).into(),
            Request::ClientShutdown => self.client_shutdown(now, conn, no),
            Request::RouteAdd(spec) => self.route_add(now, no, spec).into(),
            Request::RouteAddBulk(specs) => self.route_add_bulk(now, no, specs).into(),
            Request::RouteUpdate { route, change } => self.route_update(now, no, route, change).into(),
            Request::RouteRemove(route) => self.route_remove(now, no, route).into(),
            Request::RouteList { compressed, after } => self.route_list(no, compressed, after).into(),
            Request::OptionsSet { target, option } => {
                self.options(now, no, &target, option.key(), Some(option)).into()
            }
            Request::OptionsRemove { target, key } => self.options(now, no, &target, key, None).into(),
            Request::HeadersSet { target, name, value } => {
                self.headers(now, no, &target, &name, Some(&value)).into()
            }
            Request::HeadersRemove { target, name } => self.headers(now, no, &target, &name, None).into(),
            Request::HealthSet { route, check } => self.health_set(now, no, route, check).into(),
            Request::RateLimitSet { target, limit } => self.limit_set(now, no, target, limit).into(),
            Request::CircuitBreakerSet { target, breaker } => {
                self.breaker_set(now, no, target, breaker).into()
            }
            Request::CircuitBreakerStatus(route) => self.breaker_status(now, no, route).into(),
            Request::StatsGet(which) => self.stats(no, which).into(),
            Request::StatsPage { after } => self.stats_page(no, after).into(),
            Request::CircuitBreakerReset(route) => self.breaker_reset(no, route).into(),
            Request::ConfigValidate => self.validate(no).into(),
            Request::ConfigApply => self.apply(now, no, conn, None),
            Request::ConfigApplyPartial(scopes) => self.apply(now, no, conn, Some(scopes)),
            Request::ConfigRollback => self.rollback(no).into(),
            Request::ConfigDiff => self.config_diff(no).into(),
            Request::DrainStart(time) => self.drain_start(now, no, time.get()).into(),
            Request::DrainStatus => self.drain_status(now, no).into(),
            Request::DrainCancel => self.drain_cancel(no).into(),
            Request::MaintEnter { target, page } => self.maint_enter(now, conn, no, target, page),
            Request::MaintExit(target) => self.maint_exit(now, conn, no, target),
            Request::MaintStatus => self.maint_status(no, None).into(),
            Request::MaintStatusPage { after } => self.maint_status(no, Some(after)).into(),
            Request::BackendTest(url) => self.backend_test(conn, no, url),
            Request::Subscribe(kind) => self.subscribe(conn, no, kind).into(),
            Request::Unsubscribe(kind) => self.unsubscribe(conn, no, kind).into(),
        }
    }

    fn client_shutdown(&mut self, now: Now, conn: ConnId, no: SessionNo) -> Outcome {
        if self.sessions.get(no).is_some_and(|session| session.revision > 0) {
            let pending = Pending::ShutDown { session: no, conn };
            return Outcome::Wait(Wait::Store(self.commit(no, Change::Ended(no), pending)));
        }
        self.shut_down(now, no, Some(conn));
        Outcome::Done
    }

    fn route_add(&mut self, now: Now, no: SessionNo, spec: RouteSpec) -> Result<Reply, Refusal> {
        let ids = self.add_routes(now, no, vec![spec])?;
        ids.first().map(|id| Reply::RouteAdded(*id)).ok_or(Refusal::InvalidFormat)
    }

    fn route_add_bulk(&mut self, now: Now, no: SessionNo, specs: Vec<RouteSpec>) -> Result<Reply, Refusal> {
        self.add_routes(now, no, specs).map(Reply::RoutesAdded)
    }

    /// Stages all of them or none.
    fn add_routes(
        &mut self,
        now: Now,
        no: SessionNo,
        specs: Vec<RouteSpec>,
    ) -> Result<Vec<RouteId>, Refusal> {
        let limits = self.config.limits;
        for spec in &specs {
            self.check_backend(no, &spec.backend)?;
            check_domains(spec, limits.domains)?;
            self.check_policy(no, spec)?;
        }
        let bytes = specs.iter().map(cost).sum();
        self.staging(now, no, bytes, |session| {
            if session.routes() + specs.len() > limits.routes {
                return Err(Refusal::Other("too many routes".to_owned()));
            }
            let count = u32::try_from(specs.len()).ok();
            let last = count.and_then(|count| session.last_route.checked_add(count));
            let last = last.ok_or_else(|| Refusal::Other("this session has no route ids left".to_owned()))?;
            let ids: Vec<RouteId> = (session.last_route + 1..=last).map(RouteId).collect();
            session.last_route = last;
            for (id, spec) in ids.iter().zip(specs) {
                session.stage.put(*id, spec, false);
            }
            Ok(ids)
        })
    }

    fn route_update(
        &mut self,
        now: Now,
        no: SessionNo,
        id: RouteId,
        change: RouteChange,
    ) -> Result<Reply, Refusal> {
        if let RouteChange::Backend(backend) = &change {
            self.check_backend(no, backend)?;
        }
        let most_domains = self.config.limits.domains;
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        let mut spec = session.spec(id).ok_or(Refusal::RouteNotFound)?.clone();
        match change {
            RouteChange::Backend(backend) => spec.backend = backend,
            RouteChange::Priority(priority) => spec.priority = priority,
            RouteChange::Domains(domains) => spec.domains = domains,
            RouteChange::Path(path) => spec.path = path,
        }
        check_domains(&spec, most_domains)?;
        self.check_policy(no, &spec)?;
        self.staging(now, no, cost(&spec), |session| {
            let is_applied = session.applied.contains_key(&id);
            session.stage.put(id, spec, is_applied);
            Ok(Reply::RouteOk)
        })
    }

    fn route_remove(&mut self, now: Now, no: SessionNo, id: RouteId) -> Result<Reply, Refusal> {
        self.staging(now, no, 0, |session| {
            session.spec(id).ok_or(Refusal::RouteNotFound)?;
            let is_applied = session.applied.contains_key(&id);
            session.stage.remove(id, is_applied);
            Ok(Reply::RouteOk)
        })
    }

    /// OPTIONS_SET, and OPTIONS_REMOVE with no value.
    fn options(
        &mut self,
        now: Now,
        no: SessionNo,
        target: &Target,
        key: OptionKey,
        value: Option<RouteOption>,
    ) -> Result<Reply, Refusal> {
        self.staging(now, no, 0, |session| {
            for slot in slots(session, target)? {
                session.stage.set_option(slot, key, value);
            }
            Ok(Reply::OptionsOk)
        })
    }

    fn health_set(
        &mut self,
        now: Now,
        no: SessionNo,
        id: RouteId,
        check: HealthCheck,
    ) -> Result<Reply, Refusal> {
        self.staging(now, no, 0, |session| {
            session.spec(id).ok_or(Refusal::RouteNotFound)?;
            let slot = Slot::Route(id);
            let options = [
                RouteOption::HealthCheckInterval(check.interval),
                RouteOption::HealthCheckTimeout(check.timeout),
            ];
            for option in options {
                session.stage.set_option(slot, option.key(), Some(option));
            }
            session.stage.set_health_path(slot, check.path);
            Ok(Reply::HealthOk)
        })
    }

    fn rollback(&mut self, no: SessionNo) -> Result<Reply, Refusal> {
        let session = self.sessions.get_mut(no).ok_or(Refusal::SessionNotFound)?;
        session.stage = Stage::default();
        self.timers.cancel(Timer::Stage(no));
        Ok(Reply::Ok)
    }

    fn backend_test(&mut self, conn: ConnId, no: SessionNo, url: BackendUrl) -> Outcome {
        if let Err(refusal) = self.check_backend(no, &url) {
            return Err(refusal).into();
        }
        let Some(session) = self.sessions.get(no) else { return Err(Refusal::SessionNotFound).into() };
        let peer = session.peer;
        self.last_test += 1;
        let test = TestId(self.last_test);
        self.tests.insert(test, conn);
        self.push(Effect::Test { test, url, peer });
        Outcome::Wait(Wait::Test(test))
    }

    /// Changes a stage that has room for about `bytes` more. Staged changes expire some time after the last one.
    pub(super) fn staging<T>(
        &mut self,
        now: Now,
        no: SessionNo,
        bytes: usize,
        change: impl FnOnce(&mut Session) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let session = self.sessions.get_mut(no).ok_or(Refusal::SessionNotFound)?;
        if session.stage.bytes().saturating_add(bytes) > self.config.limits.staged_bytes {
            return Err(Refusal::Other("too many staged changes".to_owned()));
        }
        let result = change(session)?;
        if session.stage.is_empty() {
            self.timers.cancel(Timer::Stage(no));
        } else {
            self.timers.set(Timer::Stage(no), now.mono + self.config.stage_ttl);
        }
        Ok(result)
    }

    /// REGISTRY_POLICY.
    fn check_policy(&mut self, no: SessionNo, spec: &RouteSpec) -> Result<(), Refusal> {
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        let Some((domain, refusal)) = self.forbidden(session, spec) else { return Ok(()) };
        let (who, domain) = (session.who(), domain.clone());
        self.push(Effect::Happened(Happening::NotPermitted { who, domain }));
        Err(refusal)
    }

    /// The first domain of a route that the policy does not let its service claim.
    pub(super) fn forbidden<'a>(
        &self,
        session: &Session,
        spec: &'a RouteSpec,
    ) -> Option<(&'a Domain, Refusal)> {
        let policy = self.config.policy.as_ref()?;
        let service = &session.registration.service;
        let domain = spec.domains.as_slice().iter().find(|domain| !policy.permits(service, domain))?;
        Some((domain, Refusal::NotAllowed(format!("domain {domain} for service {service}"))))
    }

    /// Who may claim what from now on.
    pub(super) fn set_policy(&mut self, policy: ClaimPolicy) {
        self.config.policy = Some(policy);
        self.tell_outside_policy();
    }

    /// What was claimed under another policy stays until it is changed or removed; somebody should know.
    pub(super) fn tell_outside_policy(&mut self) {
        let Some(policy) = &self.config.policy else { return };
        let mut outside =
            self.pools.claims().filter(|claim| !policy.permits(&claim.terms.service, &claim.domain));
        let Some(first) = outside.next() else { return };
        let (domain, service) = (first.domain.clone(), first.terms.service.clone());
        let claims = 1 + outside.count();
        self.push(Effect::Happened(Happening::OutsidePolicy { claims, domain, service }));
    }

    /// BACKEND_ALLOW for a backend whose address is known here and now (SEMANTICS section 9). A name is checked
    /// when it is resolved.
    pub(super) fn check_backend(&self, no: SessionNo, backend: &BackendUrl) -> Result<(), Refusal> {
        let Host::Ip(ip) = backend.host() else { return Ok(()) };
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        if self.config.backends.permits(session.peer, SocketAddr::new(*ip, backend.port())) {
            return Ok(());
        }
        Err(Refusal::NotAllowed(backend.to_string()))
    }
}

/// Whether a command neither changes what its session has applied or staged nor shows it. A slow store must
/// not cost anybody a PONG, and the revision that SESSION_INFO tells must not be one that is about to end:
/// a client that lost the reply to an apply decides by it whether to repeat that.
fn is_indifferent(request: &Request) -> bool {
    matches!(
        request,
        Request::Ping | Request::BackendTest(_) | Request::Subscribe(_) | Request::Unsubscribe(_)
    )
}

fn check_domains(spec: &RouteSpec, most: usize) -> Result<(), Refusal> {
    if spec.domains.as_slice().len() > most {
        return Err(Refusal::Other("too many domains".to_owned()));
    }
    Ok(())
}

/// Whose settings a target means. `SERVICE` means other sessions' routes too, whose stages are their own.
pub(super) fn slots(session: &Session, target: &Target) -> Result<Vec<Slot>, Refusal> {
    let Target::Some(items) = target else { return Ok(vec![Slot::All]) };
    let mut slots = Vec::new();
    for item in items {
        let before = slots.len();
        match item {
            TargetItem::Route(id) => slots.extend(session.spec(*id).map(|_| Slot::Route(*id))),
            TargetItem::Path(path) => slots.extend(slots_where(session, |spec| spec.path == *path)),
            TargetItem::Domain(domain) => {
                slots.extend(slots_where(session, |spec| spec.domains.as_slice().contains(domain)));
            }
            TargetItem::Service => {}
        }
        if slots.len() == before {
            return Err(Refusal::UnknownTarget(item.to_string()));
        }
    }
    Ok(slots)
}

/// The routes, applied and staged, that are as asked for.
fn slots_where(session: &Session, is: impl Fn(&RouteSpec) -> bool) -> Vec<Slot> {
    let all = session.route_ids();
    all.filter(|id| session.spec(*id).is_some_and(&is)).map(Slot::Route).collect()
}
