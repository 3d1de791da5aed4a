//! What is staged, what an apply makes of it, and what the store has to say to that (PROTOCOL section 4).

use serde_json::json;

use super::command::{NewRoute, Request, RouteChange};
use super::config::{Cells, Config, Route};
use super::maintenance::{Entering, Maintained};
use super::sessions::STORE_RETRY;
use super::text::{Item, Target, host_of};
use super::{Connection, Model, Session, Store, Waiting, Want};

/// Why a command changes nothing: the text after `ERROR|`.
type Refusal = String;

/// What HEADERS_SET never sets: it frames a message or belongs to a connection.
const FORBIDDEN_HEADERS: [&str; 4] = ["content-length", "transfer-encoding", "connection", "upgrade"];

/// No rate limit is higher.
const MOST_REQUESTS: u32 = 1_000_000;

/// What a session has staged: what would be applied, all of it.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub config: Config,
    /// Routes that were staged, changed or removed.
    pub touched: Vec<u32>,
    pub changed_at: u64,
}

/// What the store has been given.
#[derive(Debug, Clone)]
pub(crate) enum Pending {
    Apply { next: Config, scopes: Option<Vec<String>>, conn: usize, kept: Maintained },
    Entering { conn: usize, entering: Entering, kept: Vec<(usize, Maintained)> },
    Leaving { kept: Vec<(usize, Maintained)> },
    ShutDown { conn: usize },
    Expiry,
}

/// What the store was given and has not answered.
#[derive(Debug, Clone)]
pub(crate) enum Given {
    Session(usize),
    /// A session's maintenance, of which it held something else. Nobody waits for it.
    Remember(usize, Maintained),
}

impl Session {
    /// What an apply of everything would put in force.
    pub(crate) fn staged(&self) -> &Config {
        self.stage.as_ref().map_or(&self.applied, |stage| &stage.config)
    }
}

impl Model {
    /// A command that changes the stage: it acts on a copy, which is kept if all went well.
    pub(super) fn stage(&mut self, conn: usize, s: usize, request: Request) {
        let session = &self.sessions[s];
        let mut copy = session.staged().clone();
        let mut touched = session.stage.as_ref().map(|stage| stage.touched.clone()).unwrap_or_default();
        let mut next_route = session.next_route;
        match self.change(s, &mut copy, &mut touched, &mut next_route, request) {
            Err(text) => self.error(conn, &text),
            Ok(want) => {
                let session = &mut self.sessions[s];
                // One that was never applied and is removed leaves nothing behind.
                touched.retain(|id| copy.route(*id).is_some() || session.applied.route(*id).is_some());
                touched.sort_unstable();
                touched.dedup();
                session.stage = Some(Stage { config: copy, touched, changed_at: self.now });
                session.next_route = next_route;
                self.say(conn, want);
            }
        }
    }

    fn change(
        &self,
        s: usize,
        copy: &mut Config,
        touched: &mut Vec<u32>,
        next: &mut u32,
        request: Request,
    ) -> Result<Want, Refusal> {
        if self.rules.no_staging && !matches!(request, Request::RouteRemove(_)) {
            return Err("too many staged changes".to_owned());
        }
        let ok = |text: &str| Ok(Want::Exactly(text.to_owned()));
        match request {
            Request::RouteAdd(new) => {
                let ids = self.add(s, copy, next, vec![new])?;
                touched.extend(&ids);
                ok(&format!("ROUTE_OK|r{}", ids[0]))
            }
            Request::RouteAddBulk(all) => {
                let ids = self.add(s, copy, next, all)?;
                touched.extend(&ids);
                let entry = |id: &u32| json!({ "route_id": format!("r{id}"), "status": "ok" });
                Ok(Want::Json("ROUTE_BULK_OK", ids.iter().map(entry).collect()))
            }
            Request::RouteUpdate(id, change) => {
                if let RouteChange::Backend(url) = &change {
                    self.permit(s, url)?;
                }
                let route = copy.route_mut(id).ok_or("route not found")?;
                match change {
                    RouteChange::Backend(url) => route.backend = url,
                    RouteChange::Priority(priority) => route.priority = priority,
                    RouteChange::Path(path) => route.path = path,
                    RouteChange::Domains(domains) => {
                        self.check_domains(&domains)?;
                        route.domains = domains;
                    }
                }
                touched.push(id);
                ok("ROUTE_OK")
            }
            Request::RouteRemove(id) => {
                copy.route(id).ok_or("route not found")?;
                copy.routes.retain(|route| route.id != id);
                touched.push(id);
                ok("ROUTE_OK")
            }
            Request::HeadersSet(target, name, value) => {
                if FORBIDDEN_HEADERS.contains(&name.to_lowercase().as_str()) {
                    return Err(format!("header not allowed: {}", name.to_lowercase()));
                }
                self.each(copy, &target, |cells| cells.set_header(&name, &value))?;
                self.check_headers(copy)?;
                ok("HEADERS_OK")
            }
            Request::HeadersRemove(target, name) => {
                self.each(copy, &target, |cells| cells.remove_header(&name))?;
                ok("HEADERS_OK")
            }
            Request::OptionsSet(target, key, value) => {
                self.each(copy, &target, |cells| cells.set_option(&key, value.clone()))?;
                ok("OPTIONS_OK")
            }
            Request::OptionsRemove(target, key) => {
                self.each(copy, &target, |cells| cells.remove_option(&key))?;
                ok("OPTIONS_OK")
            }
            Request::HealthSet(id, path, interval, timeout) => {
                let cells = &mut copy.route_mut(id).ok_or("route not found")?.cells;
                cells.health_path = Some(path);
                cells.health_interval = Some(interval);
                cells.health_timeout = Some(timeout);
                ok("HEALTH_OK")
            }
            Request::RateLimitSet(_, requests, _) if requests > MOST_REQUESTS => {
                Err(format!("number of requests {requests} is too large: at most {MOST_REQUESTS}"))
            }
            Request::RateLimitSet(which, requests, window) => {
                cells_of(copy, which)?.limit = Some((requests, window));
                ok("RATELIMIT_OK")
            }
            Request::CircuitSet(which, threshold, timeout, half_open) => {
                cells_of(copy, which)?.breaker = Some((threshold, timeout, half_open));
                ok("CIRCUIT_OK")
            }
            other => unreachable!("{other:?} stages nothing"),
        }
    }

    fn add(
        &self,
        s: usize,
        copy: &mut Config,
        next: &mut u32,
        all: Vec<NewRoute>,
    ) -> Result<Vec<u32>, Refusal> {
        for new in &all {
            self.permit(s, &new.backend)?;
            self.check_domains(&new.domains)?;
        }
        let applied = &self.sessions[s].applied;
        let removed = applied.routes.iter().filter(|route| copy.route(route.id).is_none()).count();
        if copy.routes.len() + removed + all.len() > self.rules.max_routes {
            return Err("too many routes".to_owned());
        }
        let first = *next;
        for new in all {
            copy.routes.push(Route::new(*next, new));
            *next += 1;
        }
        Ok((first..*next).collect())
    }

    fn check_domains(&self, domains: &[String]) -> Result<(), Refusal> {
        if domains.len() > self.rules.max_domains { Err("too many domains".to_owned()) } else { Ok(()) }
    }

    fn check_headers(&self, copy: &Config) -> Result<(), Refusal> {
        let too_many = |cells: &Cells| cells.headers.len() > self.rules.max_headers;
        let any = too_many(&copy.defaults) || copy.routes.iter().any(|route| too_many(&route.cells));
        if any { Err("too many headers".to_owned()) } else { Ok(()) }
    }

    /// The peer's own address and private ranges; loopback only for peers on loopback; never link-local.
    pub(super) fn permit(&self, s: usize, url: &str) -> Result<(), Refusal> {
        let Ok(ip) = host_of(url).parse::<std::net::Ipv4Addr>() else { return Ok(()) };
        let peer = self.sessions[s].peer;
        let allowed = if ip.is_link_local() {
            false
        } else if ip.is_loopback() {
            peer.is_loopback()
        } else {
            ip == peer || ip.is_private()
        };
        if allowed { Ok(()) } else { Err(format!("not allowed: {url}")) }
    }

    /// Does something to the settings that a target means.
    fn each(
        &self,
        copy: &mut Config,
        target: &Target,
        mut act: impl FnMut(&mut Cells),
    ) -> Result<(), Refusal> {
        let Target::Some(items) = target else {
            act(&mut copy.defaults);
            return Ok(());
        };
        let mut ids = Vec::new();
        for item in items {
            // Other sessions have stages of their own.
            let found = if *item == Item::Service { Vec::new() } else { named_routes(copy, item) };
            if found.is_empty() {
                return Err(format!("unknown target: {item}"));
            }
            ids.extend(found);
        }
        for route in copy.routes.iter_mut().filter(|route| ids.contains(&route.id)) {
            act(&mut route.cells);
        }
        Ok(())
    }

    /// What an apply of these scopes would put in force, or why it may not.
    pub(super) fn validate(&self, s: usize, scopes: Option<&[String]>) -> Result<Config, Refusal> {
        let session = &self.sessions[s];
        let next = match scopes {
            None => session.staged().clone(),
            Some(scopes) => part(&session.applied, session.staged(), scopes),
        };
        for route in changed(&session.applied, &next) {
            for domain in &route.domains {
                let owner = self.living_owner(domain, &route.path, &session.service);
                if let Some(owner) = owner.or_else(|| self.owner_to_be(domain, &route.path, &session.service))
                {
                    let (id, path) = (route.id, &route.path);
                    return Err(format!("route r{id}: {domain}{path} belongs to service {owner}"));
                }
            }
        }
        Ok(next)
    }

    /// Who has given the store an apply that claims this.
    fn owner_to_be(&self, domain: &str, path: &str, service: &str) -> Option<&str> {
        let claims = |other: &&Session| match &other.pending {
            Some(Pending::Apply { next, .. }) => changed(&other.applied, next)
                .iter()
                .any(|route| route.path == path && route.domains.iter().any(|d| d == domain)),
            _ => false,
        };
        let mut others = self.sessions.iter().filter(|other| other.service != service);
        others.find(claims).map(|other| other.service.as_str())
    }

    pub(super) fn apply(&mut self, conn: usize, s: usize, scopes: Option<Vec<String>>) {
        match self.validate(s, scopes.as_deref()) {
            Ok(next) => {
                // The store hears of maintenance that is older than the first apply with that.
                let session = &self.sessions[s];
                let kept = if session.revision == 0 { &session.maintained } else { &session.kept }.clone();
                self.commit(s, conn, Pending::Apply { next, scopes, conn, kept });
            }
            Err(text) => self.error(conn, &text),
        }
    }

    /// Gives something to the store, and has the connection wait for its word.
    pub(super) fn commit(&mut self, s: usize, conn: usize, pending: Pending) {
        self.sessions[s].pending = Some(pending);
        self.give(Given::Session(s));
        let since = self.now;
        self.connection_mut(conn).expect("it is open").waiting = Some(Waiting::Store { session: s, since });
    }

    pub(super) fn give(&mut self, what: Given) {
        self.given_so_far += 1;
        if let Given::Session(s) = what {
            self.sessions[s].given = self.given_so_far;
        }
        if self.store == Store::Waits { self.given.push(what) } else { self.undecided.push(what) }
    }

    /// A store that does not wait answers when everything that led to its being asked is over.
    pub(super) fn hear_store(&mut self) {
        while !self.undecided.is_empty() {
            let what = self.undecided.remove(0);
            // What led to its being asked is over.
            self.tell_news();
            self.answer(what, self.store == Store::Holds);
        }
    }

    pub(super) fn answer(&mut self, what: Given, holds: bool) {
        match what {
            Given::Session(s) => self.decide(s, holds),
            Given::Remember(s, maintained) if holds => self.sessions[s].kept = maintained,
            Given::Remember(s, _) => self.sessions[s].remember_at = Some(self.now + STORE_RETRY),
        }
    }

    /// The store's word on what a session has given it.
    pub(super) fn decide(&mut self, s: usize, holds: bool) {
        let Some(pending) = self.sessions[s].pending.take() else { return };
        let turn = std::mem::take(&mut self.sessions[s].turn);
        match pending {
            Pending::Entering { conn, entering, kept } => {
                let waits = self.stop_waiting(conn, s);
                if holds {
                    self.is_kept(kept);
                    self.enter(Some(conn).filter(|_| waits), s, entering);
                } else if waits {
                    self.error(conn, "store unavailable");
                }
                self.proceed(conn);
            }
            Pending::Leaving { kept } => {
                if holds {
                    self.is_kept(kept);
                }
                self.left(s);
            }
            Pending::Apply { next, scopes, conn, kept } => {
                if holds {
                    self.put_in_force(s, next, scopes);
                    self.sessions[s].kept = kept;
                    self.keep_up(s);
                }
                let waits = self.stop_waiting(conn, s);
                match holds {
                    _ if !waits => {}
                    true => self.exactly(conn, "OK"),
                    false => self.error(conn, "store unavailable"),
                }
                self.proceed(conn);
            }
            Pending::ShutDown { conn } => {
                let waits = self.stop_waiting(conn, s);
                if holds {
                    self.shut_down(Some(conn).filter(|_| waits), s);
                } else if waits {
                    self.error(conn, "store unavailable");
                }
                self.proceed(conn);
            }
            Pending::Expiry => self.expiry_decided(s, holds),
        }
        if !self.sessions[s].ended {
            self.retire_if_idle(s);
            self.go_on_leaving(s);
        }
        for number in turn {
            let Some(connection) = self.connection_mut(number) else { continue };
            if let Some(Waiting::Turn { line, .. }) = &connection.waiting {
                let line = line.clone();
                connection.waiting = None;
                self.take(number, &line);
                self.proceed(number);
            }
        }
    }

    /// Ends a connection's wait for the store's word on this session, if it has not been answered already.
    fn stop_waiting(&mut self, conn: usize, s: usize) -> bool {
        let Some(connection) = self.connection_mut(conn) else { return false };
        let waits =
            |c: &Connection| matches!(c.waiting, Some(Waiting::Store { session, .. }) if session == s);
        let waited = waits(connection);
        if waited {
            connection.waiting = None;
        }
        waited
    }

    fn put_in_force(&mut self, s: usize, next: Config, scopes: Option<Vec<String>>) {
        let session = &mut self.sessions[s];
        // Which apply is the last is decided by the order in which they were asked for.
        let applied = session.given;
        session.revision += 1;
        session.last_apply = Some(self.now);
        let before = std::mem::replace(&mut session.applied, next);
        match scopes {
            None => session.stage = None,
            // A partial apply leaves the rest of the stage.
            Some(scopes) => {
                if let Some(stage) = &mut session.stage
                    && scopes.iter().any(|scope| scope == "routes")
                {
                    stage.touched.clear();
                }
                if session
                    .stage
                    .as_ref()
                    .is_some_and(|stage| stage.config == session.applied && stage.touched.is_empty())
                {
                    session.stage = None;
                }
            }
        }
        self.bring_into_force(s, &before, applied);
        self.settle_claims();
        self.tell_change(s, &before);
    }
}

/// The routes that an apply changes.
pub(crate) fn changed<'a>(before: &Config, next: &'a Config) -> Vec<&'a Route> {
    next.routes.iter().filter(|route| before.route(route.id) != Some(route)).collect()
}

fn cells_of(copy: &mut Config, which: Option<u32>) -> Result<&mut Cells, Refusal> {
    match which {
        None => Ok(&mut copy.defaults),
        Some(id) => Ok(&mut copy.route_mut(id).ok_or("route not found")?.cells),
    }
}

/// The routes of a configuration that one item of a target means.
pub(super) fn named_routes(config: &Config, item: &Item) -> Vec<u32> {
    let fits = |route: &&Route| match item {
        Item::Route(id) => route.id == *id,
        Item::Path(path) => route.path == *path,
        Item::Domain(domain) => route.domains.contains(domain),
        Item::Service => true,
    };
    config.routes.iter().filter(fits).map(|route| route.id).collect()
}

/// What is applied, with these scopes taken from the stage. Settings of routes that are not active stay there.
fn part(applied: &Config, staged: &Config, scopes: &[String]) -> Config {
    let has = |scope: &str| scopes.iter().any(|s| s == scope);
    let mut next = applied.clone();
    if has("routes") {
        next.routes = staged.routes.clone();
        for route in &mut next.routes {
            route.cells = applied.route(route.id).map(|old| old.cells.clone()).unwrap_or_default();
        }
    }
    let copy = |to: &mut Cells, from: &Cells| {
        if has("headers") {
            to.headers = from.headers.clone();
        }
        for (scope, of_health) in [("options", false), ("health", true)] {
            if has(scope) {
                to.options.retain(|(key, _)| is_health(key) != of_health);
                to.options
                    .extend(from.options.iter().filter(|(key, _)| is_health(key) == of_health).cloned());
                to.options.sort_by(|a, b| a.0.cmp(&b.0));
            }
        }
        if has("health") {
            to.health_path = from.health_path.clone();
            to.health_interval = from.health_interval;
            to.health_timeout = from.health_timeout;
        }
        if has("ratelimit") {
            to.limit = from.limit;
        }
        if has("circuit") {
            to.breaker = from.breaker;
        }
    };
    copy(&mut next.defaults, &staged.defaults);
    for route in &mut next.routes {
        if let Some(from) = staged.route(route.id) {
            copy(&mut route.cells, &from.cells);
        }
    }
    next
}

/// Whether an option belongs to the health check.
pub(super) fn is_health(key: &str) -> bool {
    key.starts_with("health_")
}
