//! What people see of the routes: drain and maintenance, in this session and again in the next
//! (PROTOCOL section 6, SEMANTICS sections 5 and 6).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Expect, Session, State};
use crate::event::{Cause, Event};
use crate::intent::{
    Goal, MaintenanceAction as Action, MaintenanceTarget, Route, RouteKey, Routes, Visibility,
};
use crate::maintenance::{Confirmation, LOCAL_AFTER, covers_all_routes};
use crate::plan::{Batch, Dialect, MAX_TARGETS};
use crate::protocol::{
    BackendUrl, GoDuration, Push, Refusal, Reply, Request, RouteChange, RouteId, Target, TargetItem,
};

/// Whether the session is drained, as far as we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    Off,
    On,
    /// It was, or was about to be, when the connection ended: a restarted server has forgotten it.
    Unknown,
}

/// A route that the registry was told to keep in maintenance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MaintainedRoute {
    page: Option<BackendUrl>,
    confirmed: bool,
    /// It must be told once more, whatever it was told before: the page did not answer, or the maintenance is left over
    /// from what we do not know.
    again: bool,
}

impl MaintainedRoute {
    /// Maintenance that is in force and that we know nothing more of.
    const LEFT_OVER: MaintainedRoute = MaintainedRoute { page: None, confirmed: true, again: true };
}

/// The maintenance request whose verdict is due.
#[derive(Debug, Clone)]
pub(super) struct PendingMaintenance {
    /// `None`: it is left.
    page: Option<Option<BackendUrl>>,
    ids: Vec<RouteId>,
    sent: Instant,
    /// It was staged, and comes into force with the apply.
    staged: bool,
    /// The verdict came before the apply was answered.
    confirmed: bool,
}

/// How long a verdict is waited for where nothing else is wanted. A reference server takes 60 s for each page
/// that it cannot reach, one after the other.
const VERDICT_LIMIT: Duration = Duration::from_secs(120);
/// Between a refusal, or a backend that could not be reached, and the next try.
const PAUSE: Duration = Duration::from_secs(30);
/// How many routes a reference server is asked about in one look.
const MAX_WATCHED: usize = 16;
/// How long a session is young: a reference server loses routes when it ends the session of an instance's predecessor.
const YOUNG: Duration = Duration::from_secs(60);
/// From one look at a reference server's routes to the next in a young session, and later.
const WATCH_YOUNG: Duration = Duration::from_secs(1);
const WATCH: Duration = Duration::from_secs(3);
/// How many backends are remembered that a reference server may keep in maintenance.
const MAX_STUCK: usize = 1_000;
/// What a reference server says of a route that it has lost ([PROTOCOL section 8](crate::spec::protocol#8-what-our-client-bears-from-the-reference-server), 7).
const LOST_ENTRY: &str = "backend status unavailable";

static NOTHING: Routes = Routes::new();

impl Session {
    /// The routes that are to be in force. Where nothing is to be seen of them none is registered, but what
    /// is there stays.
    pub(super) fn desired(&self) -> &Routes {
        let none_yet = self.known.as_ref().is_none_or(|known| known.applied.len() == 0);
        match self.visibility {
            Visibility::Absent => &NOTHING,
            Visibility::Draining if none_yet => &NOTHING,
            _ => &self.wanted,
        }
    }

    /// What people see, as far as the registry has confirmed it.
    pub(super) fn shown(&self) -> Visibility {
        let known = self.known.as_ref().filter(|known| known.applied.len() > 0 && !self.replaced);
        let Some(known) = known else { return Visibility::Absent };
        let held = |(id, ..): (RouteId, _, _)| known.maintained.get(&id).is_some_and(|held| held.confirmed);
        match known.drain {
            Drain::On => Visibility::Draining,
            _ if known.applied.known().all(held) => Visibility::Maintenance,
            _ => Visibility::Live,
        }
    }

    /// Whether the registry has confirmed the drain and the maintenance that are wanted, and no others.
    pub(super) fn visibility_is_as_wanted(&self) -> bool {
        let Some(known) = self.known.as_ref().filter(|known| !known.is_uncertain) else { return false };
        let drain = match self.visibility {
            Visibility::Draining => Drain::On,
            _ => Drain::Off,
        };
        let is_drain_right = !self.can_drain() || known.applied.len() == 0 || known.drain == drain;
        let is_maintenance_right = |(id, key, route): (RouteId, &RouteKey, &Route)| {
            let held = known.maintained.get(&id);
            match self.maintenance.page(key, route) {
                Some(page) => held.is_some_and(|held| held.confirmed && !held.again && held.page == *page),
                None => held.is_none(),
            }
        };
        is_drain_right
            && self.pending_maintenance.is_none()
            && known.applied.known().all(is_maintenance_right)
    }

    /// Whether DRAIN_START is no outage here: the registry announces it and has not refused it.
    pub(super) fn can_drain(&self) -> bool {
        self.dialect().has("drain") && !self.dialect().lacks("DRAIN_START")
    }

    pub(super) fn maintenance_status(&self) -> BTreeMap<RouteKey, bool> {
        let Some(known) = &self.known else { return BTreeMap::new() };
        let held = |(id, key, _): (RouteId, &RouteKey, _)| {
            known.maintained.get(&id).map(|held| (key.clone(), held.confirmed))
        };
        known.applied.known().filter_map(held).collect()
    }

    /// Takes over the requests that are new; those that are known may have another page.
    pub(super) fn take_maintenance_requests(&mut self, goal: &Goal, now: Instant) {
        let heard = std::mem::replace(&mut self.requests_seen, goal.requests);
        for asked in &goal.maintenance {
            let request = &asked.request;
            if asked.number > heard {
                self.maintain(request.target.clone(), request.action.clone(), now);
            } else {
                self.maintenance.turn_page(&request.target, &request.action);
            }
        }
    }

    /// A client that starts with a request to leave maintenance has entered it in a former process: a reference server may
    /// still keep its backends there.
    pub(super) fn assume_left_over_maintenance(&mut self, goal: &Goal) {
        for asked in goal.maintenance.iter().filter(|asked| asked.request.action == Action::Exit) {
            let target = &asked.request.target;
            let routes = self.wanted.iter().filter(|(key, route)| target.fits(key, route));
            self.stuck.extend(routes.map(|(_, route)| route.backend.clone()));
        }
    }

    /// Maintenance is wanted of this, or no longer.
    pub(crate) fn maintain(&mut self, target: MaintenanceTarget, action: Action, now: Instant) {
        let event = self.maintenance.push(target, action, now);
        self.emit(event);
        self.maintenance_changed(now);
    }

    /// The visibility that is wanted, or the dialect that decides what it means, may have changed.
    pub(super) fn update_visibility(&mut self, now: Instant) {
        let is_reference = self.known.as_ref().is_some_and(|known| known.dialect == Some(Dialect::Reference));
        let whole = covers_all_routes(self.visibility, self.page.is_some(), is_reference);
        let page = whole.then(|| self.page.clone());
        if let Some(event) = self.maintenance.set_all(page, now) {
            self.emit(event);
            self.maintenance_changed(now);
        }
    }

    fn maintenance_changed(&mut self, now: Instant) {
        (self.maintenance_retry_at, self.maintenance_refusal) = (None, None);
        self.version += 1;
        self.report_maintenance(now);
        self.pump(now);
    }

    /// The next command that is neither configuration nor a call.
    pub(super) fn next_chore(&mut self, now: Instant) -> Option<(Request, Expect)> {
        self.next_maintenance_status()
            .or_else(|| self.next_drain())
            .or_else(|| self.next_maintenance(now))
            .or_else(|| self.next_subscription())
    }

    pub(super) fn next_drain(&mut self) -> Option<(Request, Expect)> {
        let wanted = self.visibility == Visibility::Draining;
        if !self.can_drain() {
            return None;
        }
        let known = self.known.as_mut().filter(|known| known.applied.len() > 0)?;
        let request = match (wanted, known.drain) {
            (true, Drain::Off | Drain::Unknown) => Request::DrainStart(GoDuration::ZERO),
            (false, Drain::On | Drain::Unknown) => Request::DrainCancel,
            _ => return None,
        };
        // Until the answer is here, either may be true.
        known.drain = Drain::Unknown;
        Some((request, Expect::Drain(wanted)))
    }

    pub(super) fn drain_answered(&mut self, on: bool, command: &'static str, reply: &Reply, now: Instant) {
        let Some(known) = &mut self.known else { return };
        match reply {
            Reply::DrainStarted(_) | Reply::DrainOk => {
                known.drain = if on { Drain::On } else { Drain::Off };
                self.emit(Event::Drained(on));
            }
            Reply::Error(Refusal::NoDrain) => known.drain = Drain::Off,
            Reply::Error(refusal) => {
                known.drain = Drain::Off;
                if let Some(dialect) = &mut known.dialect {
                    dialect.learn_lack("DRAIN_START");
                }
                let cause = Cause::Refused { command, refusal: refusal.clone() };
                self.emit(Event::Error { registry: self.registry(), cause });
            }
            reply => return self.lose(Cause::Unexpected { command, reply: reply.redacted() }, now),
        }
        self.version += 1;
        self.pump(now);
    }

    fn next_maintenance(&mut self, now: Instant) -> Option<(Request, Expect)> {
        let may_ask = self.maintenance_retry_at.is_none_or(|at| at <= now);
        if self.pending_maintenance.is_some() || !may_ask || self.dialect().lacks("MAINT_ENTER") {
            return None;
        }
        let (page, ids) = self.different()?;
        if page.is_none() {
            self.mark_uncertain(&ids);
        }
        let target = Target::Some(ids.iter().copied().map(TargetItem::Route).collect());
        let request = match &page {
            Some(page) => Request::MaintEnter { target, page: page.clone() },
            None => Request::MaintExit(target),
        };
        self.pending_maintenance =
            Some(PendingMaintenance { page, ids, sent: now, staged: false, confirmed: false });
        Some((request, Expect::Maintain))
    }

    /// Routes that are in maintenance and should not be, or the other way round: the first of those that one
    /// command can change together.
    fn different(&self) -> Option<(Option<Option<BackendUrl>>, Vec<RouteId>)> {
        let known = self.known.as_ref()?;
        let mut found: Option<(Option<Option<BackendUrl>>, Vec<RouteId>)> = None;
        for (id, key, route) in known.applied.known().filter(|(id, ..)| !known.applied.is_provisional(*id)) {
            let wanted = self.maintenance.page(key, route).cloned();
            let held = known.maintained.get(&id);
            if held.map(|held| &held.page) == wanted.as_ref() && held.is_none_or(|held| !held.again) {
                continue;
            }
            let (page, ids) = found.get_or_insert_with(|| (wanted.clone(), Vec::new()));
            if *page == wanted && ids.len() < MAX_TARGETS {
                ids.push(id);
            }
        }
        found
    }

    /// The answer to MAINT_ENTER or MAINT_EXIT; the verdict comes later.
    pub(super) fn maintenance_answered(&mut self, command: &'static str, reply: &Reply, now: Instant) {
        match reply {
            Reply::MaintenanceAck => {
                if let Some(verdict) = &self.pending_maintenance {
                    let (page, ids) = (verdict.page.clone(), verdict.ids.clone());
                    self.mark_maintained(&ids, page, false);
                }
            }
            Reply::Error(refusal) => {
                self.pending_maintenance = None;
                self.maintenance_retry_at = Some(now + PAUSE);
                let known = self.known.as_mut().and_then(|known| known.dialect.as_mut());
                if matches!(refusal, Refusal::UnknownCommand(_)) {
                    known.map(|dialect| dialect.learn_lack("MAINT_ENTER"));
                }
                self.maintenance_failed(command == "MAINT_ENTER", refusal.to_string());
            }
            reply => return self.lose(Cause::Unexpected { command, reply: reply.redacted() }, now),
        }
        self.report_maintenance(now);
        self.pump(now);
    }

    fn maintenance_failed(&mut self, entering: bool, refusal: String) {
        self.maintenance_refusal = Some(refusal.clone());
        self.emit(Event::MaintenanceFailed { entering, refusal });
    }

    fn mark_maintained(&mut self, ids: &[RouteId], page: Option<Option<BackendUrl>>, confirmed: bool) {
        let Some(known) = &mut self.known else { return };
        self.version += 1;
        for id in ids {
            match &page {
                Some(page) => {
                    let held = MaintainedRoute { page: page.clone(), confirmed, again: false };
                    drop(known.maintained.insert(*id, held));
                }
                None if confirmed => drop(known.maintained.remove(id)),
                None => {}
            }
        }
    }

    /// Leaving is on the wire. From now on it may come into force at any moment, so whoever wants maintenance again before
    /// that is known must ask for it again.
    fn mark_uncertain(&mut self, ids: &[RouteId]) {
        let Some(known) = &mut self.known else { return };
        for id in ids {
            known.maintained.entry(*id).and_modify(|held| held.again = true);
        }
    }

    /// A verdict arrives. It does not say which request it answers, so at most one is outstanding.
    pub(super) fn verdict_received(&mut self, verdict: &Push, now: Instant) {
        if self.verdicts_to_ignore > 0 {
            self.verdicts_to_ignore -= 1;
            return;
        }
        let Some(mut due) = self.pending_maintenance.take() else { return };
        let target = Target::Some(due.ids.iter().copied().map(TargetItem::Route).collect());
        let failure = match verdict {
            Push::MaintenanceOk(answered) if *answered == target && due.staged => {
                due.confirmed = true;
                self.pending_maintenance = Some(due);
                return;
            }
            Push::MaintenanceOk(answered) if *answered == target => {
                self.mark_maintained(&due.ids, due.page, true);
                None
            }
            Push::PageTimeout if due.page.is_some() => {
                self.repeat_later(&due.ids, now);
                Some((true, "timeout waiting for maintenance page to become reachable"))
            }
            // It is left all the same.
            Push::BackendTimeout if due.page.is_none() => {
                self.mark_maintained(&due.ids, None, true);
                Some((false, "timeout waiting for backend to become reachable"))
            }
            // Of a request that we have given up.
            _ => {
                self.pending_maintenance = Some(due);
                return;
            }
        };
        if let Some((entering, refusal)) = failure {
            self.maintenance_failed(entering, refusal.to_owned());
        }
        self.report_maintenance(now);
        self.pump(now);
    }

    /// The page did not answer, so that nobody has confirmed the maintenance. A reference server is not asked
    /// again: pages that it cannot reach hold up the verdicts of every other service ([PROTOCOL section 8](crate::spec::protocol#8-what-our-client-bears-from-the-reference-server), 2).
    fn repeat_later(&mut self, ids: &[RouteId], now: Instant) {
        let is_reference = *self.dialect() == Dialect::Reference;
        let Some(known) = self.known.as_mut().filter(|_| !is_reference) else { return };
        self.maintenance_retry_at = Some(now + PAUSE);
        for id in ids {
            known.maintained.entry(*id).and_modify(|held| held.again = true);
        }
    }

    /// Routes that are to be in maintenance never start without it, on a server of ours.
    pub(super) fn start_in_maintenance(&self, batch: &mut Option<Batch>) {
        let able = matches!(self.dialect(), Dialect::Ours { .. }) && !self.dialect().lacks("MAINT_ENTER");
        if let Some(batch) = batch.as_mut().filter(|_| able && self.pending_maintenance.is_none()) {
            batch.maintain(|key, route| self.maintenance.page(key, route).cloned());
        }
    }

    pub(super) fn staged_maintenance(
        &mut self,
        started: Option<(Vec<RouteId>, Option<BackendUrl>)>,
        now: Instant,
    ) {
        if let Some((ids, page)) = started {
            self.pending_maintenance =
                Some(PendingMaintenance { page: Some(page), ids, sent: now, staged: true, confirmed: false });
        }
    }

    /// What was staged is in force.
    pub(super) fn committed_maintenance(&mut self) {
        self.adopt_stuck_maintenance();
        let Some(mut verdict) = self.pending_maintenance.take_if(|verdict| verdict.staged) else { return };
        self.mark_maintained(&verdict.ids, verdict.page.clone(), verdict.confirmed);
        if !verdict.confirmed {
            verdict.staged = false;
            self.pending_maintenance = Some(verdict);
        }
    }

    /// Whatever was staged is gone.
    pub(super) fn rolled_back_maintenance(&mut self) {
        self.pending_maintenance.take_if(|verdict| verdict.staged);
    }

    /// The connection on which verdicts would come is gone; what was not confirmed is asked for again.
    pub(super) fn forget_requests(&mut self) {
        self.maintenance_retry_at = None;
        self.watched.clear();
        self.watch_at = None;
        self.verdicts_to_ignore = 0;
        let verdict = self.pending_maintenance.take();
        let is_reference = *self.dialect() == Dialect::Reference;
        let Some(known) = &mut self.known else { return };
        if is_reference {
            let was_told = |id: &RouteId| {
                let entering = verdict.as_ref().is_some_and(|due| due.page.is_some() && due.ids.contains(id));
                entering || known.maintained.contains_key(id)
            };
            let routes = known.applied.known().filter(|(id, ..)| was_told(id));
            self.stuck.extend(routes.map(|(_, _, route)| route.backend.clone()).take(MAX_STUCK));
        }
        // A request whose verdict did not come may be in force or not.
        known.is_uncertain |= verdict.is_some() || !known.maintained.is_empty();
        known.maintained.retain(|_, held| held.confirmed);
    }

    /// At a reference server maintenance sticks to the backend's URL, across sessions ([PROTOCOL section 8](crate::spec::protocol#8-what-our-client-bears-from-the-reference-server), 8).
    fn adopt_stuck_maintenance(&mut self) {
        if *self.dialect() != Dialect::Reference {
            return self.stuck.clear();
        }
        let Some(known) = self.known.as_mut().filter(|_| !self.stuck.is_empty()) else { return };
        let found = known.applied.known().filter(|(id, ..)| !known.applied.is_provisional(*id));
        for (id, _, route) in found {
            if self.stuck.remove(&route.backend) {
                known.maintained.entry(id).or_insert(MaintainedRoute::LEFT_OVER);
            }
        }
    }

    /// A session that is resumed may have been kept by a server that was restarted meanwhile.
    pub(super) fn mark_volatile_state_unknown(&mut self) {
        if let Some(known) = &mut self.known {
            known.subscribed.clear();
            if known.drain == Drain::On {
                known.drain = Drain::Unknown;
            }
        }
    }

    fn next_maintenance_status(&mut self) -> Option<(Request, Expect)> {
        let ours = matches!(self.dialect(), Dialect::Ours { .. });
        let known = self.known.as_mut().filter(|known| known.is_uncertain)?;
        // The answer ends the doubt; a reference server resumes no session.
        known.is_uncertain = ours;
        ours.then_some((Request::MaintStatus, Expect::Maintained))
    }

    /// What the registry keeps in maintenance, where we were not sure.
    pub(super) fn maintenance_status_answered(&mut self, reply: &Reply, now: Instant) {
        let Some(known) = &mut self.known else { return };
        known.is_uncertain = false;
        if let Reply::MaintenanceStatus(status) = reply {
            let ids: BTreeSet<RouteId> =
                status.in_maintenance.iter().filter_map(|id| id.parse().ok()).collect();
            known.maintained.retain(|id, _| ids.contains(id));
            for id in ids.into_iter().filter(|id| known.applied.has(*id)) {
                known.maintained.entry(id).or_insert(MaintainedRoute::LEFT_OVER);
            }
            self.version += 1;
        }
        self.report_maintenance(now);
        self.pump(now);
    }

    /// Tells what has become of the maintenance that was asked for, and gives up what is overdue.
    pub(super) fn report_maintenance(&mut self, now: Instant) {
        if let Some(verdict) = self.pending_maintenance.take_if(|verdict| verdict.is_overdue(now))
            && verdict.page.is_none()
        {
            self.maintenance_retry_at = Some(now + PAUSE);
        }
        let overtaken = self.pending_maintenance.as_ref().is_some_and(|due| now >= due.sent + LOCAL_AFTER);
        if overtaken && self.different().is_some_and(|(page, _)| Some(&page) != self.verdict_page()) {
            self.pending_maintenance = None;
            // Ours answers every request, in their order; a reference server forgets the one before.
            self.verdicts_to_ignore += u32::from(matches!(self.dialect(), Dialect::Ours { .. }));
        }
        let hopeless = self.dialect().lacks("MAINT_ENTER");
        let known = self.known.as_ref().filter(|_| self.is_certain());
        let confirmation = |about: &dyn Fn(&RouteKey, &crate::Route) -> bool, enters: bool| {
            let Some(known) = known else { return Confirmation::Pending };
            let concerned: Vec<_> =
                known.applied.known().filter(|(_, key, route)| about(key, route)).collect();
            let mut wanted = self.wanted.iter();
            let stuck = wanted.any(|(key, route)| about(key, route) && self.stuck.contains(&route.backend));
            let confirmed = !stuck
                && concerned.iter().all(|(id, key, route)| {
                    let held = known.maintained.get(id);
                    match enters {
                        true => held.is_some_and(|held| held.confirmed && !held.again),
                        // Another request may want it in maintenance.
                        false => held.is_none() || self.maintenance.page(key, route).is_some(),
                    }
                });
            match confirmed && (!enters || !concerned.is_empty()) {
                true => Confirmation::Confirmed,
                false if hopeless => Confirmation::Impossible,
                false => Confirmation::Pending,
            }
        };
        let mut maintenance = self.maintenance.clone();
        let events = maintenance.report_maintenance(now, confirmation);
        self.maintenance = maintenance;
        events.into_iter().for_each(|event| self.emit(event));
    }

    fn verdict_page(&self) -> Option<&Option<Option<BackendUrl>>> {
        self.pending_maintenance.as_ref().map(|verdict| &verdict.page)
    }

    /// Whether what is known of the session is true at this moment.
    fn is_certain(&self) -> bool {
        let is_uncertain = self.known.as_ref().is_some_and(|known| known.is_uncertain);
        matches!(self.state, State::Live { .. } | State::Syncing(_)) && !is_uncertain
    }

    /// When [`Session::report_maintenance`] has something to do, or a maintenance request may be repeated.
    pub(super) fn maintenance_deadline(&self) -> Option<Instant> {
        let connected = self.is_certain();
        let repeat = self.maintenance_retry_at.filter(|_| connected && self.pending_maintenance.is_none());
        let differs = || self.different().is_some_and(|(page, _)| Some(&page) != self.verdict_page());
        let overdue = self.pending_maintenance.as_ref().map(|verdict| match connected && differs() {
            true => verdict.sent + LOCAL_AFTER,
            false => verdict.sent + VERDICT_LIMIT,
        });
        self.maintenance.deadline().into_iter().chain(repeat).chain(overdue).min()
    }

    /// A reference server may lose a route that it still lists ([PROTOCOL section 8](crate::spec::protocol#8-what-our-client-bears-from-the-reference-server), 7): ask about each.
    /// Of more than [`MAX_WATCHED`] the next ones at each look.
    pub(super) fn next_watch(&mut self, now: Instant) -> Option<(Request, Expect)> {
        if *self.dialect() != Dialect::Reference {
            return None;
        }
        let at = self.watch_at.unwrap_or_else(|| now + self.watch_interval(now));
        self.watch_at = Some(at);
        if self.watched.is_empty() && at <= now {
            self.watch_at = Some(now + self.watch_interval(now));
            let ids: Vec<RouteId> = self.known.as_ref()?.applied.known().map(|(id, ..)| id).collect();
            let is_next = |id: &RouteId| self.watched_up_to.is_some_and(|last| *id > last);
            let next = ids.iter().position(is_next).unwrap_or(0);
            self.watched = ids[next..].iter().chain(&ids[..next]).take(MAX_WATCHED).copied().collect();
            self.watched_up_to = self.watched.last().copied();
            self.watched.reverse();
        }
        let id = self.watched.pop()?;
        Some((Request::CircuitBreakerStatus(id), Expect::Watch(id)))
    }

    fn watch_interval(&self, now: Instant) -> Duration {
        let since = self.link.as_ref().and_then(|link| link.bound_since);
        let is_young = since.is_some_and(|since| now.saturating_duration_since(since) < YOUNG);
        self.timing.route_watch.unwrap_or(if is_young { WATCH_YOUNG } else { WATCH })
    }

    pub(super) fn watch_answered(&mut self, id: RouteId, reply: &Reply, now: Instant) {
        let lost = matches!(reply, Reply::Error(Refusal::Other(text)) if text == LOST_ENTRY);
        let shows_page = matches!(reply, Reply::CircuitStatus(status) if status.in_maintenance);
        let route =
            self.known.as_ref().and_then(|known| known.applied.known().find(|(known, ..)| *known == id));
        if let Some((_, _, route)) = route.filter(|_| lost) {
            let change = RouteChange::Priority(route.priority);
            self.send(Request::RouteUpdate { route: id, change }, Expect::Repair, now);
            self.send(Request::ConfigApply, Expect::Repair, now);
        }
        if let Some(known) = self.known.as_mut().filter(|known| shows_page && known.applied.has(id)) {
            // Of a session that was before ours.
            known.maintained.entry(id).or_insert(MaintainedRoute::LEFT_OVER);
        }
        self.pump(now);
    }
}

impl PendingMaintenance {
    fn is_overdue(&self, now: Instant) -> bool {
        now >= self.sent + VERDICT_LIMIT
    }
}
