//! Pages instead of members, and the verdicts on them (PROTOCOL section 6, SEMANTICS section 5).

use std::net::IpAddr;

use serde_json::{Value, json};

use super::report::{fit, moment};
use super::serving::{Member, QUICK, Watched};
use super::staging::Given;
use super::staging::Pending;
use super::staging::named_routes;
use super::text::{Item, Target};
use super::{Model, Want};

/// A maintenance that was entered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entered {
    pub page: Option<String>,
    pub since: u64,
    /// The other session that entered it.
    pub by: Option<usize>,
}

impl Entered {
    /// As it is for this session.
    fn of(&self, s: usize) -> Entered {
        Entered { by: self.by.filter(|by| *by != s), ..self.clone() }
    }
}

/// Where a session's routes are, as far as maintenance goes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Maintained {
    /// `ALL`: those that are added later too.
    all: Option<Entered>,
    /// Those that were named since.
    routes: Vec<(u32, Option<Entered>)>,
}

/// A session's routes: all of them, or one.
pub(crate) type Place = (usize, Option<u32>);

/// A request to enter that the store is to hold first.
#[derive(Debug, Clone)]
pub(crate) struct Entering {
    target: Target,
    places: Vec<Place>,
    entered: Entered,
    /// Where the session was when it asked: the page is its.
    peer: IpAddr,
}

/// How far a request is that leaves, once that is decided.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Leaving {
    No,
    Due,
    Asked,
}

/// A request whose verdict is still owed.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    conn: usize,
    target: Target,
    enter: bool,
    places: Vec<Place>,
    /// Who has yet to answer.
    waits_for: Vec<Watched>,
    deadline: u64,
    leaving: Leaving,
    verdict: Option<String>,
}

const MOST_REQUESTS: usize = 64;
const PATIENCE: u64 = 60_000;

impl Maintained {
    pub(crate) fn of(&self, route: u32) -> Option<&Entered> {
        match self.routes.iter().find(|(id, _)| *id == route) {
            Some((_, own)) => own.as_ref(),
            None => self.all.as_ref(),
        }
    }

    fn set(&mut self, place: Option<u32>, entered: Option<Entered>) {
        match place {
            None => *self = Maintained { all: entered, routes: Vec::new() },
            Some(id) => {
                self.routes.retain(|(known, _)| *known != id);
                self.routes.push((id, entered));
                self.routes.sort_by_key(|(id, _)| *id);
            }
        }
    }
}

impl Model {
    /// Entering with this page (`Some`), or leaving (`None`).
    pub(super) fn maintenance(
        &mut self,
        conn: usize,
        s: usize,
        target: &Target,
        enter: Option<Option<String>>,
    ) {
        let places = match self.check_maintenance(s, target, &enter) {
            Ok(places) => places,
            Err(text) => return self.error(conn, &text),
        };
        let Some(page) = enter else { return self.exit(conn, s, target, places) };
        let entered = Entered { page, since: self.now, by: Some(s) };
        let kept = self.kept_after(&places, Some(&entered));
        let peer = self.sessions[s].peer;
        let entering = Entering { target: target.clone(), places, entered, peer };
        if kept.is_empty() {
            self.enter(Some(conn), s, entering);
        } else {
            self.commit(s, conn, Pending::Entering { conn, entering, kept });
        }
    }

    /// In force from the ACK on. Whoever was told that the store is unavailable gets no verdict.
    pub(super) fn enter(&mut self, conn: Option<usize>, s: usize, entering: Entering) {
        let Entering { target, places, entered, peer } = entering;
        self.supersede(s, &places);
        self.change_maintenance(&places, Some(&entered));
        let Some(conn) = conn else { return };
        let waits_for = entered.page.iter().map(|page| question(peer, page, None)).collect();
        self.acknowledge(conn, s, target, true, places, waits_for);
    }

    fn exit(&mut self, conn: usize, s: usize, target: &Target, places: Vec<Place>) {
        self.supersede(s, &places);
        let waits_for = self.backends_behind_pages(&places);
        self.acknowledge(conn, s, target.clone(), false, places, waits_for);
    }

    fn supersede(&mut self, s: usize, places: &[Place]) {
        let covered = |place: &Place| places.contains(place) || places.contains(&(place.0, None));
        for request in self.sessions[s].requests.iter_mut().filter(|r| r.verdict.is_none()) {
            if request.places.iter().all(covered) {
                request.verdict = Some("ERROR|maintenance request superseded".to_owned());
            }
        }
    }

    fn acknowledge(
        &mut self,
        conn: usize,
        s: usize,
        target: Target,
        enter: bool,
        places: Vec<Place>,
        waits_for: Vec<Watched>,
    ) {
        let (deadline, leaving, verdict) = (self.now + PATIENCE, Leaving::No, None);
        let asked = Asked { conn, target, enter, places, waits_for, deadline, leaving, verdict };
        self.sessions[s].requests.push(asked);
        self.exactly(conn, "ACK");
        self.judge(s);
    }

    /// What the store is to hold of which sessions after a change; those of which it holds it already left out.
    fn kept_after(&self, places: &[Place], entered: Option<&Entered>) -> Vec<(usize, Maintained)> {
        let mut all: Vec<(usize, Maintained)> = Vec::new();
        for (s, place) in places.iter().filter(|(s, _)| self.is_held(*s)) {
            if !all.iter().any(|(known, _)| known == s) {
                all.push((*s, self.sessions[*s].maintained.clone()));
            }
            if let Some((_, after)) = all.iter_mut().find(|(known, _)| known == s) {
                after.set(*place, entered.map(|entered| entered.of(*s)));
            }
        }
        all.retain(|(s, after)| self.sessions[*s].kept != *after);
        all
    }

    /// The store knows a session from its first apply on.
    fn is_held(&self, s: usize) -> bool {
        self.sessions[s].revision > 0 && !self.sessions[s].ended
    }

    pub(super) fn is_kept(&mut self, kept: Vec<(usize, Maintained)>) {
        for (s, maintained) in kept {
            self.sessions[s].kept = maintained;
        }
    }

    fn change_maintenance(&mut self, places: &[Place], entered: Option<&Entered>) {
        for (s, place) in places {
            self.sessions[*s].maintained.set(*place, entered.map(|entered| entered.of(*s)));
        }
        let mut sessions: Vec<usize> = places.iter().map(|(s, _)| *s).collect();
        sessions.sort_unstable();
        sessions.dedup();
        sessions.into_iter().for_each(|s| self.keep_up(s));
    }

    /// Lets the store know if it holds something else.
    pub(super) fn keep_up(&mut self, s: usize) {
        if self.is_held(s) && self.sessions[s].maintained != self.sessions[s].kept {
            self.remember(s);
        }
    }

    pub(super) fn remember(&mut self, s: usize) {
        self.sessions[s].remember_at = None;
        if self.is_held(s) {
            let maintained = self.sessions[s].maintained.clone();
            self.give(Given::Remember(s, maintained));
        }
    }

    /// Tells the store what is left, unless another change of the session is on its way there.
    pub(super) fn go_on_leaving(&mut self, s: usize) {
        let due: Vec<Place> = self.places_of(s, Leaving::Due);
        if self.sessions[s].pending.is_some() || due.is_empty() {
            return;
        }
        let kept = self.kept_after(&due, None);
        self.step_leaving(s, Leaving::Due, Leaving::Asked);
        if kept.is_empty() {
            return self.left(s);
        }
        self.sessions[s].pending = Some(Pending::Leaving { kept });
        self.give(Given::Session(s));
    }

    /// It is left, whether or not the store could be told.
    pub(super) fn left(&mut self, s: usize) {
        let places = self.places_of(s, Leaving::Asked);
        self.step_leaving(s, Leaving::Asked, Leaving::No);
        self.change_maintenance(&places, None);
        self.give_verdicts(s);
    }

    fn places_of(&self, s: usize, leaving: Leaving) -> Vec<Place> {
        let requests = self.sessions[s].requests.iter().filter(|request| request.leaving == leaving);
        requests.flat_map(|request| request.places.clone()).collect()
    }

    fn step_leaving(&mut self, s: usize, from: Leaving, to: Leaving) {
        for request in self.sessions[s].requests.iter_mut().filter(|request| request.leaving == from) {
            request.leaving = to;
        }
    }

    fn check_maintenance(
        &mut self,
        s: usize,
        target: &Target,
        enter: &Option<Option<String>>,
    ) -> Result<Vec<Place>, String> {
        let names_service = matches!(target, Target::Some(items) if items.contains(&Item::Service));
        if enter.is_some() && names_service && self.sessions[s].applied.routes.is_empty() {
            return Err("not allowed: SERVICE for a session without an applied route".to_owned());
        }
        if let Some(Some(page)) = enter {
            self.permit(s, page)?;
        }
        if self.sessions[s].requests.len() >= MOST_REQUESTS {
            return Err("too many maintenance requests".to_owned());
        }
        // What was entered for routes that were never applied goes with them.
        let session = &mut self.sessions[s];
        let (applied, staged) =
            (&session.applied, session.stage.as_ref().map_or(&session.applied, |st| &st.config));
        let is_there = |id: u32| applied.route(id).is_some() || staged.route(id).is_some();
        session.maintained.routes.retain(|(id, _)| is_there(*id));
        let Target::Some(items) = target else { return Ok(vec![(s, None)]) };
        let session = &self.sessions[s];
        let mut places = Vec::new();
        for item in items {
            let found: Vec<Place> = if *item == Item::Service {
                let all = self.sessions.iter().enumerate();
                all.filter(|(_, other)| !other.ended && other.service == session.service)
                    .map(|(at, _)| (at, None))
                    .collect()
            } else {
                named_routes(session.staged(), item).into_iter().map(|id| (s, Some(id))).collect()
            };
            if found.is_empty() {
                return Err(format!("unknown target: {item}"));
            }
            places.extend(found);
        }
        Ok(places)
    }

    /// What a session entered for others ends with it.
    pub(super) fn end_maintenance_by(&mut self, setter: usize) {
        for s in 0..self.sessions.len() {
            if s == setter || self.sessions[s].ended {
                continue;
            }
            let is_its = |entered: &Entered| entered.by == Some(setter);
            let maintained = &mut self.sessions[s].maintained;
            let before = maintained.clone();
            maintained.all = maintained.all.take().filter(|entered| !is_its(entered));
            maintained.routes.retain(|(_, entered)| !entered.as_ref().is_some_and(is_its));
            if *maintained != before {
                self.keep_up(s);
            }
        }
        self.settle_claims();
    }

    /// What is asked before people see the backends again: nothing where no page was given.
    fn backends_behind_pages(&self, places: &[Place]) -> Vec<Watched> {
        let mut all = Vec::new();
        for &(s, place) in places {
            let session = &self.sessions[s];
            for route in session.applied.routes.iter().filter(|route| place.is_none_or(|id| id == route.id)) {
                let has_page = session.maintained.of(route.id).is_some_and(|entered| entered.page.is_some());
                let host = session.applied.effective(route).text("health_host").or_else(|| route.host());
                let question = question(session.peer, &route.backend, host);
                if has_page && !all.contains(&question) {
                    all.push(question);
                }
            }
        }
        all
    }

    /// Whether a member shows a page.
    pub(super) fn maintained(&self, member: &Member) -> Option<&Entered> {
        self.sessions[member.session].maintained.of(self.shown_route(member)?.id)
    }

    pub(super) fn maintenance_probes(&self) -> Vec<Watched> {
        let open = self.sessions.iter().flat_map(|s| &s.requests).filter(|r| r.verdict.is_none());
        open.flat_map(|request| request.waits_for.clone()).collect()
    }

    pub(super) fn maintenance_probed(&mut self, probe: &Watched, passed: bool) {
        if passed {
            for request in self.sessions.iter_mut().flat_map(|s| &mut s.requests) {
                request.waits_for.retain(|question| question != probe);
            }
            self.deliver_verdicts();
        }
    }

    pub(super) fn deliver_verdicts(&mut self) {
        for s in 0..self.sessions.len() {
            self.judge(s);
        }
    }

    /// Decides what can be decided.
    fn judge(&mut self, s: usize) {
        for request in self.sessions[s].requests.iter_mut().filter(|r| r.verdict.is_none()) {
            if request.waits_for.is_empty() {
                request.verdict = Some(format!("MAINT_OK|{}", request.target));
            } else if request.deadline <= self.now {
                let what = if request.enter { "maintenance page" } else { "backend" };
                request.verdict = Some(format!("ERROR|timeout waiting for {what} to become reachable"));
            } else {
                continue;
            }
            if !request.enter {
                request.leaving = Leaving::Due;
            }
        }
        self.go_on_leaving(s);
        self.give_verdicts(s);
    }

    /// In the order of the requests. Leaving is in force before its verdict goes out, be that good or bad.
    fn give_verdicts(&mut self, s: usize) {
        let is_due = |r: &Asked| r.verdict.is_some() && r.leaving == Leaving::No;
        while self.sessions[s].requests.first().is_some_and(is_due) {
            let request = self.sessions[s].requests.remove(0);
            if self.connection(request.conn).is_some() {
                let text = request.verdict.expect("just seen");
                self.say(request.conn, Want::Exactly(text));
            }
        }
    }

    pub(super) fn verdict_deadlines(&self) -> Vec<u64> {
        let open = self.sessions.iter().flat_map(|s| &s.requests).filter(|r| r.verdict.is_none());
        open.map(|request| request.deadline).collect()
    }

    pub(super) fn maintenance_status(&mut self, conn: usize, s: usize, after: Option<u32>) {
        let session = &self.sessions[s];
        let mut ids: Vec<u32> =
            session.applied.routes.iter().chain(&session.staged().routes).map(|route| route.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| session.maintained.of(*id).is_some());
        let first = ids.first().and_then(|id| session.maintained.of(*id));
        let page = first.and_then(|entered| entered.page.clone()).unwrap_or_default();
        let since = first.map(|entered| entered.since);
        let body = |ids: &[u32], entered_at: Value| {
            json!({
                "in_maintenance": ids.iter().map(|id| format!("r{id}")).collect::<Vec<_>>(),
                "maintenance_backend": page,
                "entered_at": entered_at,
            })
        };
        ids.retain(|id| after.is_none_or(|after| *id > after));
        // Every moment is as long as this one.
        let at = || since.map_or("", |_| "2023-11-14T22:13:20Z");
        if !fit(&mut ids, after, |ids| format!("MAINT_STATUS_OK|{}", body(ids, at().into()))) {
            return self.error(conn, "response too large");
        }
        let body = body(&ids, moment(since));
        self.say(conn, Want::Json("MAINT_STATUS_OK", body));
    }
}

fn question(peer: IpAddr, url: &str, host: Option<String>) -> Watched {
    // A page that is a file has nothing below it.
    let after = url.find("://").map_or(0, |at| at + 3);
    let (root, path) = url.split_at(url[after..].find('/').map_or(url.len(), |at| after + at));
    let is_file = !path.ends_with('/');
    Watched {
        backend: if is_file { format!("{root}/") } else { url.to_owned() },
        peer,
        get: Some((if is_file { path } else { "/" }.to_owned(), host, None)),
        interval: QUICK,
        timeout: 5_000,
    }
}
