//! The longer replies, and the commands that only ask (PROTOCOL section 3).

use serde_json::{Value, json};

use super::config::{Cells, Config, Route};
use super::staging::is_health;
use super::{Drain, Model, Unsaid, Waiting, Want};

/// A moment in a reply; none is an empty text.
pub(crate) fn moment(at: Option<u64>) -> Value {
    at.map_or_else(String::new, |at| format!("ms:{at}")).into()
}

/// The longest line, in bytes.
pub(super) const MAX_LINE: usize = 65_535;

fn id_text(route: &Route) -> String {
    format!("r{}", route.id)
}

impl Model {
    pub(super) fn session_info(&mut self, conn: usize, s: usize) {
        let session = &self.sessions[s];
        let mut metadata = session.metadata.clone();
        metadata.remove("token");
        metadata.remove("service_token");
        let staged = session.stage.as_ref().map_or(0, |stage| stage.touched.len());
        // Those of its service that live elsewhere; where there are none, there is no word of them.
        let siblings = self.siblings(s);
        let mut body = json!({
            "session_id": format!("@{s}"),
            "service_name": session.service,
            "instance_name": session.instance,
            "connected_at": moment(Some(session.connected_at)),
            "uptime_seconds": (self.now - session.connected_at) / 1000,
            "routes_active": session.applied.routes.len(),
            "routes_staged": staged,
            "last_activity": moment(Some(session.last_activity)),
            "last_apply": moment(session.last_apply),
            "metadata": metadata,
            "revision": session.revision,
            "server": "*",
            "cluster_id": "*",
            "capabilities": "*",
        });
        if siblings > 0 {
            body["siblings"] = siblings.into();
        }
        self.say(conn, Want::Json("SESSION_OK", body));
    }

    fn siblings(&self, s: usize) -> usize {
        let own = &self.sessions[s];
        let others = self.sessions.iter().filter(|other| other.lives() && other.service == own.service);
        others.filter(|other| other.peer != own.peer).count()
    }

    pub(super) fn route_list(&mut self, conn: usize, s: usize, compressed: bool, after: Option<u32>) {
        let session = &self.sessions[s];
        let staged = session.staged();
        let mut entries: Vec<(u32, Value)> = Vec::new();
        let entry = |route: &Route, status: &str| {
            (
                route.id,
                json!({
                    "route_id": id_text(route),
                    "domains": route.domains,
                    "path": route.path,
                    "backend": route.backend,
                    "priority": route.priority,
                    "status": status,
                }),
            )
        };
        for route in &session.applied.routes {
            let removed = staged.route(route.id).is_none();
            entries.push(entry(route, if removed { "pending_removal" } else { "active" }));
        }
        for route in &staged.routes {
            if session.applied.route(route.id).is_none() {
                entries.push(entry(route, "staged"));
            }
        }
        entries.sort_by_key(|(id, _)| *id);
        let mut body: Vec<Value> =
            entries.into_iter().filter(|(id, _)| after.is_none_or(|a| *id > a)).map(|(_, e)| e).collect();
        let line = |body: &[Value]| format!("ROUTE_LIST_OK|{}", Value::from(body.to_vec()));
        if !compressed && !fit(&mut body, after, line) {
            return self.error(conn, "response too large");
        }
        let want = if compressed { Want::Compressed } else { Want::Json };
        self.say(conn, want("ROUTE_LIST_OK", body.into()));
    }

    pub(super) fn diff(&mut self, conn: usize, s: usize) {
        let session = &self.sessions[s];
        let (old, new) = (&session.applied, session.staged());
        let ids = |routes: Vec<&Route>| routes.into_iter().map(id_text).collect::<Vec<_>>();
        let added = ids(new.routes.iter().filter(|r| old.route(r.id).is_none()).collect());
        let removed = ids(old.routes.iter().filter(|r| new.route(r.id).is_none()).collect());
        let modified = ids(new
            .routes
            .iter()
            .filter(|r| old.route(r.id).is_some_and(|was| !same_route(was, r)))
            .collect());
        let pairs = cells_in_pairs(old, new);
        let count = |f: &dyn Fn(&Cells, &Cells) -> usize| pairs.iter().map(|(a, b)| f(a, b)).sum::<usize>();
        let body = json!({
            "routes": { "added": added, "removed": removed, "modified": modified },
            "headers": {
                "added": count(&|a, b| b.headers.iter().filter(|h| !a.headers.contains(h)).count()),
                "removed": count(&|a, b| a.headers.iter().filter(|h| !b.headers.iter().any(|n| n.0 == h.0)).count()),
            },
            "options": { "modified": count(&changed_options) },
            "health": { "modified": count(&|a, b| usize::from(!same_check(a, b))) },
            "ratelimit": { "modified": count(&|a, b| usize::from(a.limit != b.limit)) },
            "circuit": { "modified": count(&|a, b| usize::from(a.breaker != b.breaker)) },
        });
        self.say(conn, Want::Json("DIFF_OK", body));
    }

    pub(super) fn circuit_status(&mut self, conn: usize, s: usize, id: u32) {
        if self.sessions[s].applied.route(id).is_none()
            && let Err(text) = self.breaker(s, id)
        {
            return self.error(conn, text);
        }
        let session = &self.sessions[s];
        let body = json!({
            "state": "closed",
            "failures": 0,
            "successes": 0,
            "last_failure": "",
            "next_attempt": "",
            "healthy": self.is_healthy(s, id),
            "in_maintenance": session.maintained.of(id).is_some(),
            "draining": session.drain.is_some(),
        });
        self.say(conn, Want::Json("CIRCUIT_STATUS_OK", body));
    }

    pub(super) fn circuit_reset(&mut self, conn: usize, s: usize, id: u32) {
        match self.breaker(s, id) {
            Ok(()) => self.exactly(conn, "CIRCUIT_OK"),
            Err(text) => self.error(conn, text),
        }
    }

    /// A breaker that is in force.
    fn breaker(&self, s: usize, id: u32) -> Result<(), &'static str> {
        let session = &self.sessions[s];
        let Some(route) = session.applied.route(id) else {
            let staged = session.staged().route(id).is_some();
            return Err(if staged { "circuit breaker not found" } else { "route not found" });
        };
        let breaker = session.applied.effective(route).breaker;
        breaker.map(|_| ()).ok_or("circuit breaker not found")
    }

    pub(super) fn drain_start(&mut self, conn: usize, s: usize, time: u64) {
        self.sessions[s].drain = Some(Drain { since: self.now, time, asked: time });
        self.say(conn, Want::DrainUntil(self.now + time));
    }

    pub(super) fn drain_status(&mut self, conn: usize, s: usize) {
        let now = self.now;
        let Some(drain) = &mut self.sessions[s].drain else {
            return self.error(conn, "no drain in progress");
        };
        // Nothing is ever in flight here, so that a drain is over as soon as somebody asks.
        let elapsed = now - drain.since;
        drain.time = drain.time.min(elapsed);
        let body = json!({
            "active": true,
            "started_at": moment(Some(drain.since)),
            "duration_seconds": drain.asked as f64 / 1000.0,
            "elapsed_seconds": elapsed as f64 / 1000.0,
            "remaining_seconds": 0.0,
            "traffic_percent": 0.0,
            "in_flight": 0,
            "upgraded": 0,
        });
        self.say(conn, Want::Json("DRAIN_STATUS_OK", body));
    }

    pub(super) fn drain_cancel(&mut self, conn: usize, s: usize) {
        match self.sessions[s].drain.take() {
            Some(_) => self.exactly(conn, "DRAIN_OK"),
            None => self.error(conn, "no drain in progress"),
        }
    }

    pub(super) fn stats(&mut self, conn: usize, s: usize, which: Option<u32>, after: Option<u32>) {
        let empty = |route: &Route| {
            json!({
                "route_id": id_text(route),
                "requests": 0,
                "errors": 0,
                "avg_latency_ms": 0.0,
                "p95_latency_ms": 0.0,
                "p99_latency_ms": 0.0,
                "bytes_sent": 0,
                "bytes_received": 0,
                "status_codes": {},
            })
        };
        let (applied, staged) = (&self.sessions[s].applied, self.sessions[s].staged());
        if let Some(id) = which {
            return match applied.route(id).or_else(|| staged.route(id)).map(empty) {
                Some(body) => self.say(conn, Want::Json("STATS_OK", body)),
                None => self.error(conn, "route not found"),
            };
        }
        let behind = applied.routes.iter().filter(|route| after.is_none_or(|after| route.id > after));
        let mut body: Vec<Value> = behind.map(empty).collect();
        if !fit(&mut body, after, |body| format!("STATS_OK|{}", Value::from(body.to_vec()))) {
            return self.error(conn, "response too large");
        }
        self.say(conn, Want::Json("STATS_OK", body.into()));
    }

    pub(super) fn backend_test(&mut self, conn: usize, s: usize, url: String) {
        if let Err(text) = self.permit(s, &url) {
            return self.error(conn, &text);
        }
        if !self.counts_test(s) {
            return self.error(conn, "too many backend tests");
        }
        self.tests += 1;
        let test = Unsaid::Test { number: self.tests, since: self.now };
        self.connection_mut(conn).expect("it is open").unsaid.push(test);
    }

    /// Whether a session may begin a test: five within a second, and twenty from its address.
    fn counts_test(&mut self, s: usize) -> bool {
        if self.tests_since.is_none_or(|since| self.now >= since + 1_000) {
            self.tests_since = Some(self.now);
            self.counted_tests.clear();
        }
        let peer = self.sessions[s].peer;
        let own = self.counted_tests.iter().filter(|(of, _)| *of == s).count();
        let from_there = self.counted_tests.iter().filter(|(_, from)| *from == peer).count();
        let may = own < 5 && (from_there < 20 || peer.is_loopback());
        if may {
            self.counted_tests.push((s, peer));
        }
        may
    }

    /// What a BACKEND_TEST saw, of all that ever were: a status, or why nothing was seen.
    pub(crate) fn tested(&mut self, number: u64, seen: Result<u16, &str>) {
        let is_it = |unsaid: &Unsaid| matches!(unsaid, Unsaid::Test { number: n, .. } if *n == number);
        let Some(conn) = self.connections.iter_mut().find(|c| c.unsaid.iter().any(is_it)) else { return };
        let at = conn.unsaid.iter().position(is_it).expect("it was found");
        let want = match seen {
            Ok(status) => Want::Json(
                "BACKEND_OK",
                json!({ "reachable": true, "response_time_ms": "*", "status_code": status, "tls_valid": "*" }),
            ),
            Err(why) => Want::Json("BACKEND_FAIL", json!({ "reachable": false, "error": why })),
        };
        conn.unsaid[at] = Unsaid::Line(want);
        let number = conn.number;
        self.say_on(number);
    }

    pub(super) fn give_up_tests(&mut self, conn: usize) {
        let tests = self.tests(|c| c.number == conn);
        tests.into_iter().for_each(|(number, _)| self.tested(number, Err("the connection ends")));
    }

    /// The tests that such connections wait for, and since when.
    fn tests(&self, of: impl Fn(&super::Connection) -> bool) -> Vec<(u64, u64)> {
        let unsaid = self.connections.iter().filter(|c| of(c)).flat_map(|c| &c.unsaid);
        let test = |unsaid: &Unsaid| match unsaid {
            Unsaid::Test { number, since } => Some((*number, *since)),
            Unsaid::Line(_) => None,
        };
        unsaid.filter_map(test).collect()
    }

    /// When the oldest test has taken as long as one may.
    pub(super) fn test_deadline(&self) -> Option<u64> {
        self.tests(|_| true).into_iter().map(|(_, since)| since + self.rules.longest_wait).min()
    }

    /// Every BACKEND_TEST is over.
    pub(crate) fn all_tests_end(&mut self, seen: Result<u16, &str>) {
        self.tests(|_| true).into_iter().for_each(|(number, _)| self.tested(number, seen));
    }

    /// A command that waits is answered within the longest wait, whatever comes of it.
    pub(super) fn pass_waits(&mut self) {
        let now = self.now;
        let limit = self.rules.longest_wait;
        let tests = self.tests(|_| true);
        for (number, _) in tests.into_iter().filter(|(_, since)| since + limit <= now) {
            self.tested(number, Err("no answer in time"));
        }
        let late = |c: &super::Connection| {
            let since = c.waiting.as_ref()?.since();
            (since + self.rules.longest_wait <= now).then_some((since, c.number))
        };
        let mut all: Vec<(u64, usize)> = self.connections.iter().filter_map(late).collect();
        all.sort_unstable();
        for (_, number) in all {
            let Some(waiting) = self.connection_mut(number).and_then(|c| c.waiting.take()) else { continue };
            if let Waiting::Resume { .. } = waiting {
                self.exactly(number, "REREGISTER");
                self.proceed(number);
            } else {
                self.error(number, "store unavailable");
                self.proceed(number);
            }
        }
    }
}

/// Makes a list as short as a line is long, where a page of it is asked for. False: it does not fit.
pub(super) fn fit<T>(list: &mut Vec<T>, after: Option<u32>, line: impl Fn(&[T]) -> String) -> bool {
    if after.is_some() {
        let counts: Vec<usize> = (1..=list.len()).collect();
        let most = counts.partition_point(|count| line(&list[..*count]).len() <= MAX_LINE);
        list.truncate(most);
    }
    line(list).len() <= MAX_LINE
}

fn same_route(a: &Route, b: &Route) -> bool {
    (&a.domains, &a.path, &a.backend, a.priority) == (&b.domains, &b.path, &b.backend, b.priority)
}

/// The settings of the defaults and of each route, before and after.
fn cells_in_pairs(old: &Config, new: &Config) -> Vec<(Cells, Cells)> {
    let mut pairs = vec![(old.defaults.clone(), new.defaults.clone())];
    for route in &new.routes {
        let before = old.route(route.id).map(|r| r.cells.clone()).unwrap_or_default();
        pairs.push((before, route.cells.clone()));
    }
    pairs
}

fn same_check(a: &Cells, b: &Cells) -> bool {
    (&a.health_path, a.health_interval, a.health_timeout)
        == (&b.health_path, b.health_interval, b.health_timeout)
        && differences(a, b, true) == 0
}

fn changed_options(a: &Cells, b: &Cells) -> usize {
    differences(a, b, false)
}

/// How many options differ: those of the check, or the others.
fn differences(a: &Cells, b: &Cells, of_health: bool) -> usize {
    let set =
        b.options.iter().filter(|option| is_health(&option.0) == of_health && !a.options.contains(option));
    let is_gone = |key: &String| is_health(key) == of_health && !b.options.iter().any(|(k, _)| k == key);
    set.count() + a.options.iter().filter(|(key, _)| is_gone(key)).count()
}
