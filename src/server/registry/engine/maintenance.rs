//! Maintenance requests on their way to a verdict (PROTOCOL section 6, SEMANTICS section 5).
//!
//! Entering is in force before the ACK, and the store holds it by then. Leaving is in force before the verdict, and the
//! store was told of it by then. A request waits in a queue of its session until it may have its verdict.

use std::collections::BTreeSet;
use std::sync::Arc;

use registry_client::protocol::RouteOrAll;
use registry_client::protocol::{BackendUrl, Reply, RouteId, ServiceName, Target};

use crate::server::registry::model::{Applied, ConnId, Now, SessionNo, Tx, host_of_checks, page_probe};
use crate::server::registry::persist::StoreChange;
use crate::server::registry::session::{
    ActiveMaintenance, ExitProgress, MaintenanceRequest, PendingEntry, Place, Session,
};
use crate::server::routing::{Maintenance, MemberId, Probe};

use super::Engine;
use super::connections::Wait;
use super::pending_commits::Pending;
use super::queue::Outcome;
use super::timers::Timer;

/// How many backends a MAINT_EXIT waits for at most; of more, the first ones.
const MAX_BACKENDS: usize = 64;

impl Engine {
    /// How many verdicts the connection has not been sent.
    pub(crate) fn verdicts_due_to(&self, conn: ConnId) -> usize {
        self.connections.verdicts(conn)
    }

    /// Forgets the maintenance of routes that do not exist any more.
    pub(crate) fn forget_unknown_maintenance(&mut self, no: SessionNo) {
        if let Some(session) = self.sessions.get_mut(no) {
            session.forget_unknown_maintenance();
        }
    }

    /// MAINT_ENTER: puts it in force, sends the ACK and waits for the page to answer. If the store has to hold it first, all
    /// of that happens when it does.
    pub(crate) fn enter_maintenance(
        &mut self,
        now: Now,
        conn: ConnId,
        no: SessionNo,
        target: Target,
        page: Option<BackendUrl>,
        places: Vec<Place>,
    ) -> Outcome {
        let of = self.sessions.get(no).map(|session| (session.label(), session.peer));
        let page = page.zip(of).map(|(url, (who, peer))| self.membership.page(url, &who, peer));
        let entered = ActiveMaintenance::new(Arc::new(Maintenance { page }), now.wall, no);
        let stored = self.stored_after(&places, Some(&entered));
        let entering = PendingEntry { target, places, entered };
        if stored.is_empty() {
            self.enter(now, no, Some(conn), entering);
            return Outcome::Done;
        }
        let change = StoreChange::Maintenance(stored.clone());
        let pending = Pending::Entering { session: no, conn, entering: Box::new(entering), stored };
        Outcome::Wait(Wait::Store(self.commit(no, change, pending)))
    }

    /// MAINT_EXIT: sends the ACK and waits for the backends. Leaving is in force when they have answered or their time is
    /// over.
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
        let waiters = probes.into_iter().map(|probe| self.wait_for_probe(no, probe)).collect();
        self.acknowledge(now, conn, no, MaintenanceRequest::new(target, conn, false, places, waiters, now));
        Outcome::Done
    }

    /// The store holds a MAINT_ENTER. If the command was refused meanwhile because the store took too long, it gets no
    /// verdict.
    pub(crate) fn entered(
        &mut self,
        now: Now,
        no: SessionNo,
        (conn, tx): (ConnId, Tx),
        entering: PendingEntry,
    ) {
        let waiters = self.stop_waiting_for_store(conn, tx);
        self.enter(now, no, waiters.then_some(conn), entering);
        if waiters {
            self.resume(now, conn);
        }
    }

    fn enter(&mut self, now: Now, no: SessionNo, conn: Option<ConnId>, entering: PendingEntry) {
        let PendingEntry { target, places, entered } = entering;
        self.supersede(no, &places);
        self.change_maintenance(&places, Some(&entered));
        let Some(conn) = conn else { return };
        let mut waiters = BTreeSet::new();
        if let Some(page) = &entered.shown.page {
            waiters.insert(self.wait_for_probe(no, page_probe(&page.backend, page.terms.peer, None)));
        }
        self.acknowledge(now, conn, no, MaintenanceRequest::new(target, conn, true, places, waiters, now));
    }

    /// A probe passed for which maintenance requests wait under these ids. Some may have their verdict now.
    pub(super) fn maintenance_probe_passed(&mut self, now: Now, waiting: Vec<MemberId>) {
        for waiter in waiting {
            let Some(no) = self.verdicts.get(&waiter).copied() else { continue };
            self.stop_waiting_for_probe(waiter);
            let Some(session) = self.sessions.get_mut(no) else { continue };
            session.maintenance.probe_passed(waiter);
            self.decide(now, no);
        }
    }

    /// The time of a request of this session is over.
    pub(super) fn verdict_due(&mut self, now: Now, no: SessionNo) {
        self.decide(now, no);
    }

    /// Drops the session's requests. Nobody gets a verdict on them.
    pub(super) fn drop_verdicts(&mut self, no: SessionNo) {
        self.timers.cancel(Timer::Verdict(no));
        let Some(session) = self.sessions.get_mut(no) else { return };
        for (conn, waiters) in session.maintenance.drop_requests() {
            self.connections.count_verdicts(conn, -1);
            waiters.into_iter().for_each(|waiter| self.stop_waiting_for_probe(waiter));
        }
    }

    /// Ends earlier requests that this one makes pointless.
    fn supersede(&mut self, no: SessionNo, places: &[Place]) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let done = session.maintenance.supersede(places);
        done.into_iter().for_each(|waiter| self.stop_waiting_for_probe(waiter));
    }

    fn acknowledge(&mut self, now: Now, conn: ConnId, no: SessionNo, request: MaintenanceRequest) {
        if let Some(session) = self.sessions.get_mut(no) {
            session.maintenance.add_request(request);
            self.connections.count_verdicts(conn, 1);
        }
        self.send(conn, Reply::MaintenanceAck);
        self.decide(now, no);
    }

    /// Ends the requests that can be decided on, and sends the verdicts that may be sent.
    fn decide(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let done = session.maintenance.decide(now.mono);
        done.into_iter().for_each(|waiter| self.stop_waiting_for_probe(waiter));
        self.go_on_leaving(now, no);
        self.conclude(now, no);
    }

    /// Tells the store what is being left, unless another change of the session is with it.
    pub(super) fn go_on_leaving(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get(no).filter(|session| session.pending.is_none()) else { return };
        let places = session.maintenance.places(ExitProgress::Due);
        if places.is_empty() {
            return;
        }
        let stored = self.stored_after(&places, None);
        if let Some(session) = self.sessions.get_mut(no) {
            session.maintenance.step(ExitProgress::Due, ExitProgress::WithStore);
        }
        if stored.is_empty() {
            return self.left(now, no);
        }
        self.commit(no, StoreChange::Maintenance(stored.clone()), Pending::Leaving { session: no, stored });
    }

    /// Puts leaving in force, whether or not the store holds it: people want to see the backend.
    pub(crate) fn left(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        let places = session.maintenance.places(ExitProgress::WithStore);
        session.maintenance.step(ExitProgress::WithStore, ExitProgress::NotDue);
        self.change_maintenance(&places, None);
        self.conclude(now, no);
    }

    /// Sends the verdicts that may be sent, and sets the deadline of the others.
    fn conclude(&mut self, now: Now, no: SessionNo) {
        self.give_verdicts(no);
        let due = self.sessions.get(no).and_then(|session| session.maintenance.next_deadline());
        match due {
            Some(due) => self.timers.set(Timer::Verdict(no), due.max(now.mono)),
            None => self.timers.cancel(Timer::Verdict(no)),
        }
    }

    /// Sends verdicts in the order of the requests.
    fn give_verdicts(&mut self, no: SessionNo) {
        let next = |session: &mut Session| session.maintenance.next_verdict();
        while let Some((conn, verdict)) = self.sessions.get_mut(no).and_then(next) {
            self.connections.count_verdicts(conn, -1);
            if self.connections.contains(conn) {
                self.send(conn, verdict);
            }
        }
    }

    fn change_maintenance(&mut self, places: &[Place], entered: Option<&ActiveMaintenance>) {
        for (session, target) in places {
            self.set_maintenance(*session, *target, entered.map(|entered| entered.of(*session)));
        }
        let setter = entered.and_then(|entered| entered.by);
        if let Some(session) = setter.and_then(|setter| self.sessions.get_mut(setter)) {
            session.keeps_others_in_maintenance |= places.iter().any(|(no, _)| Some(*no) != setter);
        }
        let sessions: BTreeSet<SessionNo> = places.iter().map(|(no, _)| *no).collect();
        sessions.into_iter().for_each(|no| self.store_maintenance_if_changed(no));
    }

    fn set_maintenance(&mut self, no: SessionNo, target: RouteOrAll, entered: Option<ActiveMaintenance>) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        session.maintenance.set(target, entered);
        self.show_maintenance(no, target);
    }

    /// Gives the members of all routes of a session, or of one, the maintenance that these are in.
    pub(super) fn show_maintenance(&mut self, no: SessionNo, target: RouteOrAll) {
        let Some(session) = self.sessions.get(no) else { return };
        let touched = session
            .applied
            .iter()
            .filter(|(id, _)| target == RouteOrAll::All || target == RouteOrAll::Route(**id));
        for (id, applied) in touched {
            let (plan, spec) = (session.plan(*id, applied), &applied.route.spec);
            for domain in spec.domains.as_slice() {
                self.membership.replan(no, *id, (domain, &spec.path), &plan);
            }
        }
    }

    /// A session is over. What it entered for other sessions of its service ends with it, and so does its page.
    pub(super) fn end_maintenance_by(&mut self, setter: SessionNo, service: &ServiceName) {
        for no in self.sessions.of_service(service) {
            let Some(session) = self.sessions.get_mut(no) else { continue };
            if session.maintenance.end_of(setter) {
                self.show_maintenance(no, RouteOrAll::All);
                self.store_maintenance_if_changed(no);
            }
        }
    }

    /// Ends what sessions entered for others that are not known any more: the former leader ended them, and nothing else.
    pub(super) fn end_maintenance_of_the_gone(&mut self) {
        for no in self.sessions.numbers() {
            let Some(session) = self.sessions.get(no) else { continue };
            let service = session.registration.service.clone();
            let setters = session.maintenance.entered_by().into_iter();
            for setter in setters.filter(|setter| self.sessions.get(*setter).is_none()).collect::<Vec<_>>() {
                self.end_maintenance_by(setter, &service);
            }
        }
    }

    /// The probes that must pass before people see the backends again. There are none where no page was given.
    fn probes_on_exit(&self, (no, target): Place) -> Vec<Probe> {
        let Some(session) = self.sessions.get(no) else { return Vec::new() };
        let has_page =
            |id| session.maintenance.entered(id).is_some_and(|entered| entered.shown.page.is_some());
        let touched = session
            .applied
            .iter()
            .filter(|(id, _)| target == RouteOrAll::All || target == RouteOrAll::Route(**id));
        let probe = |(_, Applied { route, .. }): (&RouteId, &Applied)| {
            let host = host_of_checks(route, &session.defaults);
            page_probe(&route.spec.backend, session.peer, host.as_ref())
        };
        touched.filter(|(id, _)| has_page(**id)).map(probe).collect()
    }

    fn wait_for_probe(&mut self, no: SessionNo, probe: Probe) -> MemberId {
        let waiter = self.membership.wait_for(probe);
        self.verdicts.insert(waiter, no);
        waiter
    }

    fn stop_waiting_for_probe(&mut self, waiter: MemberId) {
        self.verdicts.remove(&waiter);
        self.membership.stop_waiting(waiter);
    }
}
