//! MAINTENANCE

use super::Engine;
use super::commits::Pending;
use super::connections::Wait;
use super::queue::Outcome;
use super::timers::Timer;
use crate::server::registry::api::Change;
use crate::server::registry::model::{Applied, ConnId, Now, SessionNo, Slot, Tx, page_probe};
use crate::server::registry::session::{Asked, Entered, Entering, ExitState, Place, Session};
use crate::server::routing::{Maintenance, MemberId, Probe};
use registry_client::protocol::{BackendUrl, Reply, RouteId, Target};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Backends that one MAINT_EXIT waits for; of more, the first ones.
const MAX_BACKENDS: usize = 64;

impl Engine {
    /// How many verdicts a connection is still to be sent.
    pub(crate) fn verdicts_due_to(&self, conn: ConnId) -> usize {
        self.connections.verdicts(conn)
    }

    /// Forgets what was entered for routes that do not exist any more.
    pub(crate) fn forget_unknown_maintenance(&mut self, no: SessionNo) {
        if let Some(session) = self.sessions.get_mut(no) {
            session.forget_unknown_maintenance();
        }
    }

    /// MAINT_ENTER: in force before the ACK is sent. The verdict comes when the page answers.
    pub(crate) fn enter_maintenance(
        &mut self,
        now: Now,
        conn: ConnId,
        no: SessionNo,
        target: Target,
        page: Option<BackendUrl>,
        places: Vec<Place>,
    ) -> Outcome {
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

    /// MAINT_EXIT: in force when the backends have answered, or their time is over.
    pub(crate) fn leave_maintenance(
        &mut self,
        now: Now,
        conn: ConnId,
        no: SessionNo,
        target: Target,
        places: Vec<Place>,
    ) -> Outcome {
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

    /// The store holds it. Somebody whose wait is over has heard that it is unavailable, and gets no verdict.
    pub(crate) fn entered(&mut self, now: Now, no: SessionNo, (conn, tx): (ConnId, Tx), entering: Entering) {
        let waits = self.stop_waiting_for_store(conn, tx);
        self.enter(now, no, waits.then_some(conn), entering);
        if waits {
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

    /// A probe of somebody's passed: verdicts may come of it.
    pub(super) fn page_answered(&mut self, now: Now, waiting: Vec<MemberId>) {
        for token in waiting {
            let Some(no) = self.verdicts.get(&token).copied() else { continue };
            self.stop_asking_for(token);
            let Some(session) = self.sessions.get_mut(no) else { continue };
            session.maintained.probe_passed(token);
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
        for (conn, waits) in session.maintained.drop_requests() {
            self.connections.count_verdicts(conn, -1);
            waits.into_iter().for_each(|token| self.stop_asking_for(token));
        }
    }

    /// Earlier requests that this one makes pointless get their verdict, and have no effect any more.
    fn supersede(&mut self, no: SessionNo, places: &[Place]) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let done = session.maintained.supersede(places);
        done.into_iter().for_each(|token| self.stop_asking_for(token));
    }

    fn acknowledge(&mut self, now: Now, conn: ConnId, no: SessionNo, asked: Asked) {
        if let Some(session) = self.sessions.get_mut(no) {
            session.maintained.add_request(asked);
            self.connections.count_verdicts(conn, 1);
        }
        self.send(conn, Reply::MaintenanceAck);
        self.decide(now, no);
    }

    /// Decides on what can be decided. Leaving is in force when the store holds it, as far as it takes it.
    fn decide(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let done = session.maintained.decide(now.mono);
        done.into_iter().for_each(|token| self.stop_asking_for(token));
        self.go_on_leaving(now, no);
        self.conclude(now, no);
    }

    /// Asks the store about what is left, unless another change of the session is on its way there.
    pub(super) fn go_on_leaving(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get(no).filter(|session| session.pending.is_none()) else { return };
        let places = session.maintained.places(ExitState::Due);
        if places.is_empty() {
            return;
        }
        let kept = self.kept_after(&places, None);
        if let Some(session) = self.sessions.get_mut(no) {
            session.maintained.step(ExitState::Due, ExitState::Asked);
        }
        if kept.is_empty() {
            return self.left(now, no);
        }
        self.commit(no, Change::Maintained(kept.clone()), Pending::Leaving { session: no, kept });
    }

    /// What was to be left is left, whether or not the store could be told: people want to see the backend.
    pub(crate) fn left(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let places = session.maintained.places(ExitState::Asked);
        session.maintained.step(ExitState::Asked, ExitState::No);
        self.change_maintenance(&places, None);
        self.conclude(now, no);
    }

    /// Gives the verdicts that are due, and waits for those that are not.
    fn conclude(&mut self, now: Now, no: SessionNo) {
        self.give_verdicts(no);
        let due = self.sessions.get(no).and_then(|session| session.maintained.next_deadline());
        match due {
            Some(due) => self.timers.set(Timer::Verdict(no), due.max(now.mono)),
            None => self.timers.cancel(Timer::Verdict(no)),
        }
    }

    /// In the order of the requests.
    fn give_verdicts(&mut self, no: SessionNo) {
        let next = |session: &mut Session| session.maintained.next_verdict();
        while let Some((conn, verdict)) = self.sessions.get_mut(no).and_then(next) {
            self.connections.count_verdicts(conn, -1);
            if self.connections.contains(conn) {
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
        let token = self.pools.wait_for(probe);
        self.verdicts.insert(token, no);
        token
    }

    fn stop_asking_for(&mut self, token: MemberId) {
        self.verdicts.remove(&token);
        self.pools.stop_waiting(token);
    }
}
