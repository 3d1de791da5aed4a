//! Who serves what: claims, members, probes, drain and hold (SEMANTICS sections 1, 3, 4 and 6).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::steps::Answer;
use super::config::{Cells, Config, Route};
use super::staging::changed;
use super::text::host_of;
use super::{Drain, Model};

/// A domain and a path, and the service that owns the two.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(super) domain: String,
    pub(super) path: String,
    pub(super) service: String,
    /// In the order in which they joined.
    pub(super) members: Vec<Member>,
    /// Held until then.
    pub(super) until: Option<u64>,
    /// Whether people saw a backend or a page, when that was looked at last.
    was_shown: bool,
    pub(super) priority: i32,
    pub(super) limit: Option<(u32, u64)>,
    pub(super) hold: u64,
    pub(super) guards: (bool, [Option<String>; 3], Option<u64>),
}

/// A session with a backend, in a claim.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub session: usize,
    pub(crate) domain: String,
    pub(crate) path: String,
    pub(crate) backend: String,
    /// The proxy has reached it since it joined.
    answered: bool,
    /// It serves until it has: nobody else does.
    hopeful: bool,
    failures: u64,
    /// Passed probes in a row.
    passes: u64,
    /// One of its probes failed in another way than by being late.
    rejected: bool,
    /// Its last probe passed.
    passed: bool,
    /// As many failures in a row as take it out.
    sick: bool,
    /// It failed while its session was lost, or somebody else came to its address then.
    out: bool,
    /// It was the latter.
    suspended: bool,
    /// Which apply brought it last.
    applied: u64,
}

/// A question that is asked of a backend again and again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Watched {
    pub backend: String,
    pub peer: IpAddr,
    /// Path, Host and statuses of a GET. `None`: whether it accepts a connection.
    pub get: Option<(String, Option<String>, Option<String>)>,
    pub interval: u64,
    pub timeout: u64,
}

/// Every second while the answer decides whether a member serves.
pub(crate) const QUICK: u64 = 1_000;
/// How long a backend without a check has to accept a connection.
const CONNECT_TIMEOUT: u64 = 2_000;
/// What is said of a backend that refuses, and of one that is late.
pub(crate) const REFUSED: &str = "connection refused";
pub(crate) const SLOW: &str = "no answer within 5s";

impl Drain {
    fn is_over(self, now: u64) -> bool {
        now >= self.ends()
    }

    fn ends(self) -> u64 {
        self.since + self.time
    }
}

impl Member {
    fn is_at(&self, session: usize, domain: &str, path: &str, backend: &str) -> bool {
        self.session == session && self.domain == domain && self.path == path && self.backend == backend
    }

    fn returns(&mut self) {
        if self.out {
            (self.out, self.suspended, self.answered) = (false, false, false);
            (self.hopeful, self.sick) = (false, false);
        }
    }
}

impl Model {
    /// Makes the members of a session those that its routes say, all in one step.
    pub(super) fn bring_into_force(&mut self, s: usize, before: &Config, number: u64) {
        let new: Vec<Route> = changed(before, &self.sessions[s].applied).into_iter().cloned().collect();
        let places: Vec<(&Route, &String)> =
            new.iter().flat_map(|route| route.domains.iter().map(move |domain| (route, domain))).collect();
        for (route, domain) in &places {
            self.evict(s, domain, &route.path);
        }
        // A change of the defaults is one of every route.
        let all = before.defaults != self.sessions[s].applied.defaults;
        for member in self.claims.iter_mut().flat_map(|claim| &mut claim.members).filter(|m| m.session == s) {
            if all || places.iter().any(|(r, domain)| member.is_at(s, domain, &r.path, &r.backend)) {
                member.applied = number;
                member.returns();
            }
        }
        self.drop_unwanted(s);
        for (route, domain) in &places {
            self.join(s, route, domain, number);
        }
        let routes = &self.sessions[s].applied.routes;
        let has_left = |ip: &IpAddr| routes.iter().all(|route| host_of(&route.backend).parse() != Ok(*ip));
        self.kin.retain(|(ip, session), _| *session != s || !has_left(ip));
    }

    /// Another service's members leave a claim that `s` takes: their owner lives no more.
    fn evict(&mut self, s: usize, domain: &str, path: &str) {
        let service = self.sessions[s].service.clone();
        let other = |claim: &&Claim| claim.domain == domain && claim.path == path && claim.service != service;
        let Some(claim) = self.claims.iter().find(other).cloned() else { return };
        for member in &claim.members {
            self.sessions[member.session].robbed = true;
            // One that came back while the store was deciding is told by the end of its connection.
            let bound = self.connections.iter().find(|c| c.session == Some(member.session)).map(|c| c.number);
            if let Some(number) = bound {
                self.say_goodbye(number);
                self.connections.retain(|c| c.number != number);
                self.end_subscriptions(|s| s.conn == number);
                self.lose(member.session);
            }
        }
        if !claim.members.is_empty() {
            self.claims.retain(|c| c.domain != domain || c.path != path);
            for member in &claim.members {
                self.retire_if_idle(member.session);
            }
        }
    }

    /// Members that no route of their session leads to any more. Nobody wants their claims held.
    fn drop_unwanted(&mut self, s: usize) {
        let gone: Vec<Member> = self
            .claims
            .iter()
            .flat_map(|claim| &claim.members)
            .filter(|member| member.session == s && self.shown_route(member).is_none())
            .cloned()
            .collect();
        // All in one step, before anybody looks at who is left.
        for member in &gone {
            self.drop_members(|other| other.is_at(s, &member.domain, &member.path, &member.backend));
        }
        for member in &gone {
            self.hope(&member.domain, &member.path);
            // Whom it replaced only served there until it answered, which it never will.
            if self.sessions[s].answered {
                self.drop_predecessors(s, &member.domain, &member.path);
            }
        }
    }

    /// Where nobody serves any more, whoever has only just come does so at once, as the first of a claim does.
    fn hope(&mut self, domain: &str, path: &str) {
        let Some(at) = self.claims.iter().position(|c| c.domain == domain && c.path == path) else { return };
        let claim = &self.claims[at];
        if claim.members.iter().any(|member| self.usable(claim, member)) {
            return;
        }
        for member in 0..claim.members.len() {
            let m = &self.claims[at].members[member];
            let untried = m.failures == 0 && !self.sessions[m.session].lost;
            if untried && !m.answered && !m.out && !m.hopeful {
                self.claims[at].members[member].hopeful = true;
                let m = self.claims[at].members[member].clone();
                self.note(&m, true, "answered", None);
            }
        }
        self.settle_claims();
    }

    fn drop_predecessors(&mut self, s: usize, domain: &str, path: &str) {
        let older = self.predecessors(s);
        self.drop_members(|m| older.contains(&m.session) && m.domain == domain && m.path == path);
        for old in older {
            self.retire_if_idle(old);
        }
    }

    fn predecessors(&self, s: usize) -> Vec<usize> {
        (0..self.sessions.len()).filter(|old| self.sessions[*old].replaced_by == Some(s)).collect()
    }

    fn drop_members(&mut self, unwanted: impl Fn(&Member) -> bool) {
        for at in 0..self.claims.len() {
            let before = self.claims[at].members.len();
            self.claims[at].members.retain(|member| !unwanted(member));
            if self.claims[at].members.len() < before {
                let shown = self.is_shown(&self.claims[at]);
                self.claims[at].was_shown = shown;
                // Without any member it goes.
                if self.claims[at].members.is_empty() {
                    self.claims[at].until = None;
                }
            }
        }
        self.claims.retain(|claim| !claim.members.is_empty() || claim.until.is_some());
    }

    /// Adds a member, unless it is there. One where nobody else serves does so at once.
    fn join(&mut self, s: usize, route: &Route, domain: &str, number: u64) {
        let (service, path) = (self.sessions[s].service.clone(), &route.path);
        let found = self.claims.iter().position(|c| c.domain == domain && c.path == *path);
        let at = found.unwrap_or_else(|| {
            self.claims.push(Claim {
                domain: domain.to_owned(),
                path: path.clone(),
                service: String::new(),
                members: Vec::new(),
                until: None,
                was_shown: false,
                priority: 0,
                limit: None,
                hold: self.rules.hold,
                guards: Default::default(),
            });
            self.claims.len() - 1
        });
        let claim = &self.claims[at];
        if claim.members.iter().any(|m| m.is_at(s, domain, path, &route.backend)) {
            return;
        }
        let served = claim.members.iter().any(|member| self.usable(claim, member));
        let claim = &mut self.claims[at];
        // One that is held without members is anybody's.
        claim.service = service;
        claim.members.push(Member {
            session: s,
            domain: domain.to_owned(),
            path: path.clone(),
            backend: route.backend.clone(),
            answered: false,
            hopeful: !served,
            failures: 0,
            passes: 0,
            rejected: false,
            passed: false,
            sick: false,
            out: false,
            suspended: false,
            applied: number,
        });
    }

    /// A session is over, and its members with it. Whoever takes their place is waited for.
    pub(super) fn end_members(&mut self, s: usize) {
        for at in 0..self.claims.len() {
            while let Some(member) = self.claims[at].members.iter().position(|m| m.session == s) {
                self.claims[at].members.remove(member);
                self.settle_claim(at);
            }
        }
        self.settle_claims();
    }

    pub(super) fn has_members(&self, s: usize) -> bool {
        self.claims.iter().flat_map(|claim| &claim.members).any(|member| member.session == s)
    }

    /// The session lost its connection, or is back.
    pub(super) fn members_lost_or_back(&mut self, s: usize) {
        let lost = self.sessions[s].lost;
        for member in self.claims.iter_mut().flat_map(|c| &mut c.members).filter(|m| m.session == s) {
            (member.failures, member.passes, member.rejected) = (0, 0, false);
            if !lost {
                member.returns();
            }
        }
    }

    /// A session is connected from an address: lost sessions' members there are not trusted until they return.
    pub(super) fn suspend_at(&mut self, ip: IpAddr, by: usize) {
        self.settle_claims();
        if ip.is_loopback() || self.shared.contains(&ip) {
            return;
        }
        let mut kin = self.predecessors(by);
        kin.push(by);
        let met = |s: usize| self.kin.get(&(ip, s)).copied();
        let theirs: Vec<usize> = kin.iter().filter_map(|s| met(*s)).collect();
        kin.extend(
            (0..self.sessions.len()).filter(|s| met(*s).is_some_and(|oldest| theirs.contains(&oldest))),
        );
        let (mut out, mut taken) = (Vec::new(), Vec::new());
        for member in self.claims.iter_mut().flat_map(|c| &mut c.members) {
            // The same instance, registered from two addresses, is no stranger to itself.
            let (theirs, its) = (&self.sessions[member.session], &self.sessions[by]);
            let same = theirs.service == its.service && theirs.instance == its.instance;
            let other = !kin.contains(&member.session) && !same;
            let there = host_of(&member.backend).parse() == Ok(ip);
            if other && there && self.sessions[member.session].lost {
                if (member.answered || member.hopeful) && !member.sick && !member.out {
                    out.push(member.clone());
                }
                // One that failed before is not looked at again.
                member.suspended |= !member.out;
                member.out = true;
                taken.push(member.clone());
            }
        }
        for member in out {
            self.note(&member, false, "address_taken", None);
        }
        for member in taken {
            self.hope(&member.domain, &member.path);
        }
    }

    /// Whether one of a session's members was suspended at an address.
    pub(super) fn is_suspended_at(&self, s: usize, ip: IpAddr) -> bool {
        let mut members = self.claims.iter().flat_map(|claim| &claim.members);
        members.any(|m| m.session == s && m.suspended && host_of(&m.backend).parse() == Ok(ip))
    }

    /// Nobody answers for a session's members at an address any more.
    pub(super) fn fail_at(&mut self, s: usize, ip: IpAddr) {
        let mut failed = Vec::new();
        for member in self.claims.iter_mut().flat_map(|claim| &mut claim.members) {
            if member.session == s && !member.out && host_of(&member.backend).parse() == Ok(ip) {
                if (member.answered || member.hopeful) && !member.sick {
                    failed.push(member.clone());
                }
                member.out = true;
            }
        }
        for member in failed {
            self.note(&member, false, "failed_in_grace", None);
        }
        self.settle_claims();
    }

    /// Who owns a claim that `service` wants, if that is another one that lives.
    pub(super) fn living_owner(&self, domain: &str, path: &str, service: &str) -> Option<&str> {
        let claim =
            self.claims.iter().find(|c| c.domain == domain && c.path == path && c.service != service)?;
        let stays = |member: &Member| member.suspended && member.passed;
        let lives =
            |member: &Member| !self.sessions[member.session].lost || self.answers(member) || stays(member);
        claim.members.iter().any(lives).then_some(claim.service.as_str())
    }

    /// The route whose settings a member has: the last one that leads to it.
    pub(super) fn shown_route(&self, member: &Member) -> Option<&Route> {
        let leads = |route: &&Route| {
            route.path == member.path
                && route.backend == member.backend
                && route.domains.contains(&member.domain)
        };
        self.sessions[member.session].applied.routes.iter().rfind(leads)
    }

    pub(super) fn cells(&self, member: &Member) -> Cells {
        let route = self.shown_route(member);
        route.map(|route| self.sessions[member.session].applied.effective(route)).unwrap_or_default()
    }

    fn answers(&self, member: &Member) -> bool {
        (member.answered || member.hopeful) && !member.sick && !member.out
    }

    /// Whether a route leads to a member that answers.
    pub(super) fn is_healthy(&self, s: usize, id: u32) -> bool {
        let Some(route) = self.sessions[s].applied.route(id) else { return false };
        let mut all = self.claims.iter().flat_map(|claim| &claim.members);
        all.any(|m| {
            route.domains.iter().any(|domain| m.is_at(s, domain, &route.path, &route.backend))
                && m.answered
                && self.answers(m)
        })
    }

    /// Whether a member could serve if it were not drained.
    fn is_well(&self, member: &Member) -> bool {
        self.answers(member) && self.maintained(member).is_none()
    }

    pub(super) fn usable(&self, claim: &Claim, member: &Member) -> bool {
        let Some(drain) = self.sessions[member.session].drain else { return self.is_well(member) };
        let is_sibling = |other: &Member| self.is_well(other) && self.sessions[other.session].drain.is_none();
        self.is_well(member) && claim.members.iter().any(is_sibling) && !drain.is_over(self.now)
    }

    /// Whether people see a backend, or a page.
    fn is_shown(&self, claim: &Claim) -> bool {
        claim.members.iter().any(|member| self.usable(claim, member) || self.maintained(member).is_some())
    }

    /// What the probe of a member is, if there is one at all.
    fn watch(&self, member: &Member) -> Option<Watched> {
        let session = &self.sessions[member.session];
        if member.out && !member.suspended {
            return None;
        }
        let quick = session.lost || !member.answered;
        let check = self.cells(member).check();
        if check.is_none() && !quick && !member.sick {
            return None;
        }
        let (backend, peer) = (member.backend.clone(), session.peer);
        let Some((path, interval, timeout)) = check else {
            return Some(Watched { backend, peer, get: None, interval: QUICK, timeout: CONNECT_TIMEOUT });
        };
        let interval = if quick { interval.min(QUICK) } else { interval };
        let cells = self.cells(member);
        let host = cells.text("health_host").or_else(|| self.shown_route(member)?.host());
        let get = Some((path, host, cells.text("health_status")));
        Some(Watched { backend, peer, get, interval, timeout })
    }

    /// Everything that must be asked just now, each question once.
    pub(crate) fn watched(&self) -> Vec<Watched> {
        let members = self.claims.iter().flat_map(|claim| &claim.members).filter_map(|m| self.watch(m));
        let mut all: Vec<Watched> =
            members.chain(self.maintenance_probes()).chain(self.resume_probes()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// A backend answered, or did not.
    pub(crate) fn probed(&mut self, probe: &Watched, answer: Answer) {
        let passed = answer == Answer::Passes;
        let asked: Vec<Member> = self
            .claims
            .iter()
            .flat_map(|claim| &claim.members)
            .filter(|member| self.watch(member).as_ref() == Some(probe))
            .cloned()
            .collect();
        self.resume_probed(probe, passed);
        self.maintenance_probed(probe, passed);
        for member in &asked {
            self.member_probed(member, answer);
        }
        self.settle_claims();
        for member in asked.iter().filter(|member| passed && !member.answered && !member.out) {
            self.answered(member);
        }
        self.settle();
    }

    fn member_probed(&mut self, which: &Member, answer: Answer) {
        let error = if answer == Answer::IsSlow { SLOW } else { REFUSED };
        let waits_for_proven = self.has_proven(&which.domain, &which.path);
        let lost = self.sessions[which.session].lost;
        // Without a check nobody counts otherwise than by default.
        let cells = self.cells(which);
        let count = |key, default| cells.check().and_then(|_| cells.number(key)).unwrap_or(default);
        let (rise, fall) = (count("health_rise", 1), count("health_fall", 3));
        let mut all = self.claims.iter_mut().flat_map(|claim| &mut claim.members);
        let same = |m: &&mut Member| m.is_at(which.session, &which.domain, &which.path, &which.backend);
        let Some(member) = all.find(same) else { return };
        let before = (member.answered || member.hopeful) && !member.sick && !member.out;
        member.passed = answer == Answer::Passes;
        if member.passed {
            member.failures = 0;
            member.passes += 1;
            if !member.out && (!member.sick || member.passes >= rise) {
                (member.answered, member.sick) = (true, false);
            }
        } else if lost {
            member.out = true;
        } else {
            (member.failures, member.passes) = (member.failures + 1, 0);
            member.rejected |= answer == Answer::Refuses;
        }
        let asked = member.clone();
        let may_stay = self.is_merely_slow(&asked) && !waits_for_proven;
        if !asked.passed && !lost && asked.failures >= fall && !may_stay {
            let mut all = self.claims.iter_mut().flat_map(|claim| &mut claim.members);
            let same = |m: &&mut Member| m.is_at(which.session, &which.domain, &which.path, &which.backend);
            if let Some(member) = all.find(same) {
                (member.sick, member.hopeful) = (member.answered, false);
            }
        }
        let all = self.claims.iter().flat_map(|claim| &claim.members);
        let mut same = all.filter(|m| m.is_at(which.session, &which.domain, &which.path, &which.backend));
        let Some(member) = same.next().cloned() else { return };
        match (before, self.answers(&member)) {
            (false, true) => self.note(&member, true, "answered", None),
            (true, false) if lost => self.note(&member, false, "failed_in_grace", Some(error)),
            (true, false) => self.note(&member, false, "check_failed", Some(error)),
            _ => {}
        }
    }

    /// Whether requests go to somebody in a claim whose backend has answered.
    fn has_proven(&self, domain: &str, path: &str) -> bool {
        let found = self.claims.iter().find(|claim| claim.domain == domain && claim.path == path);
        let is_proven = |claim: &Claim, member: &Member| member.answered && self.usable(claim, member);
        found.is_some_and(|claim| claim.members.iter().any(|member| is_proven(claim, member)))
    }

    /// Whether all that speaks against somebody who came is that the answers to the probes come too late.
    fn is_merely_slow(&self, member: &Member) -> bool {
        let session = &self.sessions[member.session];
        let is_new = !member.answered && !member.out;
        let may_serve = !session.lost && session.drain.is_none() && self.maintained(member).is_none();
        is_new && member.failures > 0 && !member.rejected && may_serve
    }

    /// Where nobody serves and no page is asked for, those serve who are merely slow.
    fn let_slow_serve(&mut self, at: usize) {
        if self.is_shown(&self.claims[at]) {
            return;
        }
        for member in 0..self.claims[at].members.len() {
            let found = self.claims[at].members[member].clone();
            // Whoever goes with its session does not begin to serve meanwhile.
            let stays = !self.sessions[found.session].ended;
            if stays && !found.hopeful && self.is_merely_slow(&found) {
                self.claims[at].members[member].hopeful = true;
                self.note(&found, true, "answered", None);
            }
        }
    }

    /// Sessions that are connected and have backends at one address that have answered are kin there.
    fn note_kin(&mut self) {
        let mut met: BTreeMap<IpAddr, BTreeSet<usize>> = BTreeMap::new();
        for member in self.claims.iter().flat_map(|claim| &claim.members) {
            let is_proven =
                member.answered && !member.sick && !member.out && !self.sessions[member.session].lost;
            if let Ok(ip) = host_of(&member.backend).parse::<IpAddr>()
                && is_proven
                && !ip.is_loopback()
                && !self.shared.contains(&ip)
            {
                met.entry(ip).or_default().insert(member.session);
            }
        }
        for (ip, sessions) in met.into_iter().filter(|(_, sessions)| sessions.len() > 1) {
            let oldest = sessions.iter().map(|s| *self.kin.get(&(ip, *s)).unwrap_or(s)).min();
            self.kin.extend(
                sessions.iter().zip(oldest.into_iter().cycle()).map(|(s, oldest)| ((ip, *s), oldest)),
            );
        }
    }

    /// The proxy has reached a member for the first time: whom its session replaced is not needed any more where it
    /// serves now, nor, with the first answer of all, where it has nothing that is still to answer.
    fn answered(&mut self, member: &Member) {
        let s = member.session;
        let first = !std::mem::replace(&mut self.sessions[s].answered, true);
        let mut places = vec![(member.domain.clone(), member.path.clone())];
        if first {
            let awaits = |claim: &&Claim| claim.members.iter().any(|m| m.session == s && !m.answered);
            let over = self.claims.iter().filter(|claim| !awaits(claim));
            places.extend(over.map(|claim| (claim.domain.clone(), claim.path.clone())));
        }
        for (domain, path) in places {
            self.drop_predecessors(s, &domain, &path);
        }
    }

    /// What follows from what just happened: holds begin and end, verdicts go out, waiting connections go on.
    pub(super) fn settle(&mut self) {
        self.hear_store();
        self.settle_claims();
        loop {
            let free = |c: &&super::Connection| c.waiting.is_none() && !c.queue.is_empty();
            let Some(number) = self.connections.iter().find(free).map(|c| c.number) else { break };
            self.proceed(number);
            self.hear_store();
            self.settle_claims();
        }
        self.note_kin();
        self.tell_news();
    }

    pub(super) fn settle_claims(&mut self) {
        for at in 0..self.claims.len() {
            self.settle_claim(at);
        }
        self.claims.retain(|claim| !claim.members.is_empty() || claim.until.is_some());
    }

    fn settle_claim(&mut self, at: usize) {
        self.let_slow_serve(at);
        let claim = &self.claims[at];
        let shown = self.is_shown(claim);
        let last = claim.members.iter().max_by_key(|member| member.applied);
        let settings = last.map(|member| {
            let cells = self.cells(member);
            let priority = self.shown_route(member).map_or(0, |route| route.priority);
            let guards = (
                cells.flag("sticky", false),
                ["redirect", "allow_from", "auth"].map(|key| cells.text(key)),
                cells.number("body_limit").filter(|limit| *limit > 0),
            );
            (priority, cells.limit, cells.millis("hold").unwrap_or(self.rules.hold), guards)
        });
        let now = self.now;
        let claim = &mut self.claims[at];
        if let Some((priority, limit, hold, guards)) = settings {
            (claim.priority, claim.limit, claim.hold, claim.guards) = (priority, limit, hold, guards);
        }
        if shown {
            claim.until = None;
        } else if claim.was_shown && claim.hold > 0 {
            claim.until = Some(now + claim.hold);
        }
        claim.was_shown = shown;
        claim.until = claim.until.filter(|until| *until > now);
    }

    /// How many sessions live or still serve.
    pub(crate) fn session_count(&self) -> usize {
        self.sessions.iter().filter(|session| !session.ended).count()
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        let mut due = self.session_deadlines();
        due.extend(self.claims.iter().filter_map(|claim| claim.until));
        due.extend(self.sessions.iter().filter(|s| !s.ended).filter_map(|s| s.drain).map(Drain::ends));
        due.extend(self.verdict_deadlines());
        due.extend(self.test_deadline());
        for connection in &self.connections {
            due.extend(connection.waiting.as_ref().map(|waiting| waiting.since() + self.rules.longest_wait));
        }
        due.into_iter().filter(|due| *due > self.now).min()
    }

    pub(super) fn pass_deadlines(&mut self) {
        self.pass_session_deadlines();
        self.deliver_verdicts();
        self.pass_waits();
    }
}
