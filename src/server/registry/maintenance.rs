//! MAINT_ENTER, MAINT_EXIT and MAINT_STATUS (PROTOCOL sections 3 and 6, SEMANTICS section 5).
//!
//! Entering is in force from the ACK on, leaving from the verdict on, so that nobody sees the error of a backend
//! that is not up yet. A request waits for its verdict in a queue of its session, in the order of the requests.
//!
//! What the store holds it holds before the ACK of entering, and before the verdict on leaving (`kept`).

mod kept;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::protocol::report::MaintenanceStatus;
use crate::protocol::{BackendUrl, Push, Refusal, Reply, RouteId, Target, TargetItem};
use crate::server::routing::{Maintenance, MemberId, Probe};

use super::apply::Pending;
use super::command::slots;
use super::io::{Change, ConnId, Now, SessionNo, Tx};
use super::persist::MaintenanceRecord;
use super::report::{bounded, rfc3339, room, take};
use super::route::page_probe;
use super::session::{Applied, Session};
use super::stage::Slot;
use super::timers::Timer;
use super::{Outcome, Registry, Wait};

pub(super) use kept::Kept;

/// How long a page or a backend has to answer (PROTOCOL section 6).
const VERDICT_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests of a session, or of a connection, that are without a verdict: beyond it they are refused.
const MAX_WITHOUT_VERDICT: usize = 64;
/// Backends that one MAINT_EXIT waits for; of more, the first ones.
const MAX_BACKENDS: usize = 64;

/// Where a session's routes are, as far as maintenance goes.
#[derive(Debug, Default)]
pub(super) struct Maintained {
    /// `ALL`: routes that are added later too.
    all: Option<Entered>,
    /// Those for which something else holds than for all.
    routes: BTreeMap<RouteId, Option<Entered>>,
    asked: VecDeque<Asked>,
    /// What the store is known to hold of it.
    kept: MaintenanceRecord,
}

/// A maintenance that was entered.
#[derive(Debug, Clone)]
struct Entered {
    shown: Arc<Maintenance>,
    at: SystemTime,
}

/// Whose maintenance: a route's of a session, or everything of it.
type Place = (SessionNo, Slot);

/// A request whose verdict has not been given.
#[derive(Debug)]
struct Asked {
    target: Target,
    conn: ConnId,
    enters: bool,
    places: Vec<Place>,
    /// Questions that have not been answered well.
    waits: BTreeSet<MemberId>,
    until: Instant,
    verdict: Option<Push>,
    leaving: Leaving,
}

/// How far a request is that leaves, once that is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// There is nothing to leave, or it has been left.
    No,
    /// The store is to be told.
    Due,
    /// The store has been told, and has not answered.
    Asked,
}

/// A MAINT_ENTER that the store is to hold first.
pub(super) struct Entering {
    target: Target,
    places: Vec<Place>,
    entered: Entered,
}

impl Maintained {
    /// The maintenance that a route is in.
    pub(super) fn of(&self, id: RouteId) -> Option<Arc<Maintenance>> {
        self.entered(id).map(|entered| entered.shown.clone())
    }

    fn entered(&self, id: RouteId) -> Option<&Entered> {
        self.routes.get(&id).map_or(self.all.as_ref(), Option::as_ref)
    }

    fn places(&self, leaving: Leaving) -> Vec<Place> {
        self.asked
            .iter()
            .filter(|asked| asked.leaving == leaving)
            .flat_map(|asked| asked.places.clone())
            .collect()
    }

    fn step(&mut self, from: Leaving, to: Leaving) {
        self.asked.iter_mut().filter(|asked| asked.leaving == from).for_each(|asked| asked.leaving = to);
    }

    fn set(&mut self, slot: Slot, entered: Option<Entered>) {
        match slot {
            Slot::All => {
                self.routes.clear();
                self.all = entered;
            }
            Slot::Route(id) => {
                self.routes.insert(id, entered);
            }
        }
    }
}

impl Registry {
    /// MAINT_ENTER: in force before the ACK is sent. The verdict comes when the page answers.
    pub(super) fn maint_enter(
        &mut self,
        now: Now,
        conn: ConnId,
        no: SessionNo,
        target: Target,
        page: Option<BackendUrl>,
    ) -> Outcome {
        let places = match self.check_request(conn, no, &target, page.as_ref()) {
            Ok(places) => places,
            Err(refusal) => return Err(refusal).into(),
        };
        let of = self.sessions.get(no).map(|session| (session.who(), session.peer));
        let page = page.zip(of).map(|(url, (who, peer))| self.pools.page(url, &who, peer));
        let entered = Entered { shown: Arc::new(Maintenance { page }), at: now.wall };
        let kept = self.kept_after(&places, Some(&entered));
        let entering = Entering { target, places, entered };
        if kept.is_empty() {
            self.enter(now, no, Some(conn), entering);
            return Outcome::Done;
        }
        let change = Change::Maintained(kept.clone());
        let pending = Pending::Entering { session: no, conn, entering: Box::new(entering), kept };
        Outcome::Wait(Wait::Store(self.commit(no, change, pending)))
    }

    /// The store holds it. Somebody whose wait is over has heard that it is unavailable, and gets no verdict.
    pub(super) fn entered(&mut self, now: Now, no: SessionNo, (conn, tx): (ConnId, Tx), entering: Entering) {
        let waits = self.stop_waiting(conn, |wait| matches!(wait, Wait::Store(of) if *of == tx));
        self.enter(now, no, waits.as_ref().map(|_| conn), entering);
        if waits.is_some() {
            self.resume(now, conn);
        }
    }

    fn enter(&mut self, now: Now, no: SessionNo, conn: Option<ConnId>, entering: Entering) {
        let Entering { target, places, entered } = entering;
        self.supersede(no, &places);
        self.change_maintenance(&places, Some(&entered));
        let Some(conn) = conn else { return };
        let mut waits = BTreeSet::new();
        if let Some(page) = &entered.shown.page {
            waits.insert(self.ask_for(no, page_probe(&page.backend, page.terms.peer, None)));
        }
        self.acknowledge(now, conn, no, Asked::new(target, conn, true, places, waits, now));
    }

    /// MAINT_EXIT: in force when the backends have answered, or their time is over.
    pub(super) fn maint_exit(&mut self, now: Now, conn: ConnId, no: SessionNo, target: Target) -> Outcome {
        let places = match self.check_request(conn, no, &target, None) {
            Ok(places) => places,
            Err(refusal) => return Err(refusal).into(),
        };
        self.supersede(no, &places);
        let mut probes = Vec::new();
        for probe in places.iter().flat_map(|place| self.probes_on_exit(*place)) {
            if probes.len() < MAX_BACKENDS && !probes.contains(&probe) {
                probes.push(probe);
            }
        }
        let waits = probes.into_iter().map(|probe| self.ask_for(no, probe)).collect();
        self.acknowledge(now, conn, no, Asked::new(target, conn, false, places, waits, now));
        Outcome::Done
    }

    /// MAINT_STATUS: of all routes, or of those behind `after`, as many as a line holds.
    pub(super) fn maint_status(&self, no: SessionNo, after: Option<RouteId>) -> Result<Reply, Refusal> {
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        let entered = session.route_ids().filter_map(|id| Some((id, session.maintained.entered(id)?)));
        let first = entered.clone().next().map(|(_, entered)| entered);
        let page = first.and_then(|entered| entered.shown.page.as_ref());
        let status = MaintenanceStatus {
            in_maintenance: Vec::new(),
            maintenance_backend: page.map(|page| page.backend.to_string()).unwrap_or_default(),
            entered_at: first.map(|entered| rfc3339(entered.at)).unwrap_or_default(),
        };
        let room = room(&Reply::MaintenanceStatus(status.clone()));
        let ids = entered.map(|(id, _)| id).filter(|id| after.is_none_or(|after| *id > after));
        let in_maintenance = take(ids.map(|id| id.to_string()), room, after.is_some())?;
        bounded(Reply::MaintenanceStatus(MaintenanceStatus { in_maintenance, ..status }))
    }

    /// A probe of somebody's passed: verdicts may come of it.
    pub(super) fn page_answered(&mut self, now: Now, waiting: Vec<MemberId>) {
        for token in waiting {
            let Some(no) = self.verdicts.get(&token).copied() else { continue };
            self.stop_asking_for(token);
            let Some(session) = self.sessions.get_mut(no) else { continue };
            for asked in &mut session.maintained.asked {
                asked.waits.remove(&token);
            }
            self.decide(now, no);
        }
    }

    /// Time is over for a request of this session.
    pub(super) fn verdict_due(&mut self, now: Now, no: SessionNo) {
        self.decide(now, no);
    }

    /// Nobody waits for this session's verdicts any more.
    pub(super) fn drop_verdicts(&mut self, no: SessionNo) {
        self.timers.cancel(Timer::Verdict(no));
        let Some(session) = self.sessions.get_mut(no) else { return };
        for asked in std::mem::take(&mut session.maintained.asked) {
            self.owe_verdict(asked.conn, -1);
            asked.waits.into_iter().for_each(|token| self.stop_asking_for(token));
        }
    }

    /// Counts the verdicts that are still to be given on a connection.
    fn owe_verdict(&mut self, conn: ConnId, more: isize) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.verdicts = connection.verdicts.saturating_add_signed(more);
        }
    }

    /// Whether a request may be made, and for what it is.
    fn check_request(
        &mut self,
        conn: ConnId,
        no: SessionNo,
        target: &Target,
        page: Option<&BackendUrl>,
    ) -> Result<Vec<Place>, Refusal> {
        if let Some(page) = page {
            self.check_backend(no, page)?;
        }
        let session = self.sessions.get_mut(no).ok_or(Refusal::SessionNotFound)?;
        let of_connection = self.connections.get(&conn).map_or(0, |connection| connection.verdicts);
        if session.maintained.asked.len().max(of_connection) >= MAX_WITHOUT_VERDICT {
            return Err(Refusal::Other("too many maintenance requests".to_owned()));
        }
        // What was entered for routes that were never applied goes with them.
        let mut routes = std::mem::take(&mut session.maintained.routes);
        routes.retain(|id, _| session.spec(*id).is_some() || session.applied.contains_key(id));
        session.maintained.routes = routes;
        self.places(no, target)
    }

    fn places(&self, no: SessionNo, target: &Target) -> Result<Vec<Place>, Refusal> {
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        let Target::Some(items) = target else { return Ok(vec![(no, Slot::All)]) };
        let mut places = Vec::new();
        for item in items {
            if *item == TargetItem::Service {
                let all = self.sessions.of_service(&session.registration.service);
                places.extend(all.into_iter().map(|no| (no, Slot::All)));
            } else {
                let slots = slots(session, &Target::Some(vec![item.clone()]))?;
                places.extend(slots.into_iter().map(|slot| (no, slot)));
            }
        }
        Ok(places)
    }

    /// Earlier requests that this one makes pointless get their verdict, and have no effect any more.
    fn supersede(&mut self, no: SessionNo, places: &[Place]) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let covered = |(session, slot): &Place| {
            places.contains(&(*session, *slot)) || places.contains(&(*session, Slot::All))
        };
        let mut done = BTreeSet::new();
        for asked in session.maintained.asked.iter_mut().filter(|asked| asked.verdict.is_none()) {
            if asked.places.iter().all(covered) {
                asked.verdict = Some(Push::MaintenanceSuperseded);
                done.append(&mut asked.waits);
            }
        }
        done.into_iter().for_each(|token| self.stop_asking_for(token));
    }

    fn acknowledge(&mut self, now: Now, conn: ConnId, no: SessionNo, asked: Asked) {
        if let Some(session) = self.sessions.get_mut(no) {
            session.maintained.asked.push_back(asked);
            self.owe_verdict(conn, 1);
        }
        self.send(conn, Reply::MaintenanceAck);
        self.decide(now, no);
    }

    /// Decides on what can be decided. Leaving is in force when the store holds it, as far as it takes it.
    fn decide(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let mut done = BTreeSet::new();
        for asked in session.maintained.asked.iter_mut().filter(|asked| asked.verdict.is_none()) {
            let Some(verdict) = asked.judge(now.mono) else { continue };
            asked.verdict = Some(verdict);
            if !asked.enters {
                asked.leaving = Leaving::Due;
            }
            done.append(&mut asked.waits);
        }
        done.into_iter().for_each(|token| self.stop_asking_for(token));
        self.go_on_leaving(now, no);
        self.conclude(now, no);
    }

    /// Asks the store about what is left, unless another change of the session is on its way there.
    pub(super) fn go_on_leaving(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get(no).filter(|session| session.pending.is_none()) else { return };
        let places = session.maintained.places(Leaving::Due);
        if places.is_empty() {
            return;
        }
        let kept = self.kept_after(&places, None);
        if let Some(session) = self.sessions.get_mut(no) {
            session.maintained.step(Leaving::Due, Leaving::Asked);
        }
        if kept.is_empty() {
            return self.left(now, no);
        }
        self.commit(no, Change::Maintained(kept.clone()), Pending::Leaving { session: no, kept });
    }

    /// What was to be left is left, whether or not the store could be told: people want to see the backend.
    pub(super) fn left(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let places = session.maintained.places(Leaving::Asked);
        session.maintained.step(Leaving::Asked, Leaving::No);
        self.change_maintenance(&places, None);
        self.conclude(now, no);
    }

    /// Gives the verdicts that are due, and waits for those that are not.
    fn conclude(&mut self, now: Now, no: SessionNo) {
        self.give_verdicts(no);
        let asked = self.sessions.get(no).map(|session| &session.maintained.asked);
        let due = asked.and_then(|asked| asked.iter().filter(|a| a.verdict.is_none()).map(|a| a.until).min());
        match due {
            Some(due) => self.timers.set(Timer::Verdict(no), due.max(now.mono)),
            None => self.timers.cancel(Timer::Verdict(no)),
        }
    }

    /// In the order of the requests.
    fn give_verdicts(&mut self, no: SessionNo) {
        while let Some((conn, verdict)) = self.sessions.get_mut(no).and_then(next_verdict) {
            self.owe_verdict(conn, -1);
            if self.connections.contains_key(&conn) {
                self.send(conn, verdict);
            }
        }
    }

    fn change_maintenance(&mut self, places: &[Place], entered: Option<&Entered>) {
        for (session, slot) in places {
            self.set_maintenance(*session, *slot, entered.cloned());
        }
        let sessions: BTreeSet<SessionNo> = places.iter().map(|(no, _)| *no).collect();
        sessions.into_iter().for_each(|no| self.keep_up(no));
    }

    fn set_maintenance(&mut self, no: SessionNo, slot: Slot, entered: Option<Entered>) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        session.maintained.set(slot, entered);
        let session = &*session;
        let touched = session.applied.iter().filter(|(id, _)| slot == Slot::All || slot == Slot::Route(**id));
        for (id, applied) in touched {
            let (plan, spec) = (session.plan(*id, applied), &applied.route.spec);
            for domain in spec.domains.as_slice() {
                self.pools.replan(no, *id, (domain, &spec.path), &plan);
            }
        }
    }

    /// What is asked before people see the backends again: none where no page was given.
    fn probes_on_exit(&self, (no, slot): Place) -> Vec<Probe> {
        let Some(session) = self.sessions.get(no) else { return Vec::new() };
        let has_page =
            |id| session.maintained.entered(id).is_some_and(|entered| entered.shown.page.is_some());
        let touched = session.applied.iter().filter(|(id, _)| slot == Slot::All || slot == Slot::Route(**id));
        let probe = |(_, Applied { route, .. }): (&RouteId, &Applied)| {
            page_probe(&route.spec.backend, session.peer, route.spec.domains.first_exact())
        };
        touched.filter(|(id, _)| has_page(**id)).map(probe).collect()
    }

    fn ask_for(&mut self, no: SessionNo, probe: Probe) -> MemberId {
        let token = self.pools.ask_once_for(probe);
        self.verdicts.insert(token, no);
        token
    }

    fn stop_asking_for(&mut self, token: MemberId) {
        self.verdicts.remove(&token);
        self.pools.answer_for(token);
    }
}

impl Asked {
    fn new(
        target: Target,
        conn: ConnId,
        enters: bool,
        places: Vec<Place>,
        waits: BTreeSet<MemberId>,
        now: Now,
    ) -> Self {
        Asked {
            target,
            conn,
            enters,
            places,
            waits,
            until: now.mono + VERDICT_TIMEOUT,
            verdict: None,
            leaving: Leaving::No,
        }
    }

    fn judge(&self, now: Instant) -> Option<Push> {
        match self.enters {
            _ if self.waits.is_empty() => Some(Push::MaintenanceOk(self.target.clone())),
            _ if now < self.until => None,
            true => Some(Push::PageTimeout),
            false => Some(Push::BackendTimeout),
        }
    }
}

/// The oldest request's verdict, once there is one.
fn next_verdict(session: &mut Session) -> Option<(ConnId, Push)> {
    let asked = &mut session.maintained.asked;
    let verdict = asked.front().filter(|asked| asked.leaving == Leaving::No)?.verdict.clone()?;
    asked.pop_front().map(|asked| (asked.conn, verdict))
}
