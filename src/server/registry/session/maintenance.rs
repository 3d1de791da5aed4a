//! The state of a session's maintenance, and the requests that have had no verdict (SEMANTICS section 5).
//!
//! Entering is in force from the ACK on, leaving from the verdict on, so that nobody sees the error of a backend that is
//! not up yet. Verdicts are sent in the order of the requests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use registry_client::protocol::RouteOrAll;
use registry_client::protocol::{BackendUrl, Push, RouteId, Target};

use crate::server::registry::model::{ConnId, Now, SessionNo};
use crate::server::registry::persist::{EnteredRecord, MaintenanceRecord, PageRecord};
use crate::server::routing::{Maintenance, Member, MemberId};

/// How long a page or a backend has to answer (PROTOCOL section 6).
const VERDICT_TIMEOUT: Duration = Duration::from_secs(60);

/// Which of a session's routes are in maintenance, and the open requests about it.
#[derive(Debug, Default)]
pub(crate) struct MaintenanceState {
    /// The maintenance of all routes, later ones included (`ALL`).
    all: Option<ActiveMaintenance>,
    /// Routes for which something else holds than for all; `None`: the route is not in maintenance.
    routes: BTreeMap<RouteId, Option<ActiveMaintenance>>,
    /// The requests that have had no verdict, oldest first.
    requests: VecDeque<MaintenanceRequest>,
    /// What the store holds of it, as far as is known.
    stored: MaintenanceRecord,
}

/// A maintenance that is in force.
#[derive(Debug, Clone)]
pub(crate) struct ActiveMaintenance {
    pub(crate) shown: Arc<Maintenance>,
    pub(crate) at: SystemTime,
    /// The session that entered it, if it is another one's: it ends with that session.
    pub(crate) by: Option<SessionNo>,
}

/// What can be in maintenance: a route of a session, or all of its routes.
pub(crate) type Place = (SessionNo, RouteOrAll);

/// The maintenance of sessions, as a store is asked to hold it.
pub(crate) type StoredMaintenance = Vec<(SessionNo, MaintenanceRecord)>;

/// A request that has had no verdict.
#[derive(Debug)]
pub(crate) struct MaintenanceRequest {
    target: Target,
    conn: ConnId,
    enters: bool,
    places: Vec<Place>,
    /// The ids of the probes that have not passed yet.
    waiters: BTreeSet<MemberId>,
    until: Instant,
    verdict: Option<Push>,
    exit: ExitProgress,
}

/// How far a MAINT_EXIT is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitProgress {
    /// There is nothing to leave, or it has been left.
    NotDue,
    /// The verdict is ready. The store is to be told.
    Due,
    /// The store has been told and has not decided.
    WithStore,
}

/// A MAINT_ENTER that waits until the store holds it.
pub(crate) struct PendingEntry {
    pub(crate) target: Target,
    pub(crate) places: Vec<Place>,
    pub(crate) entered: ActiveMaintenance,
}

impl MaintenanceState {
    /// The maintenance that a route is in, as the data plane sees it.
    pub(crate) fn of(&self, id: RouteId) -> Option<Arc<Maintenance>> {
        self.entered(id).map(|entered| entered.shown.clone())
    }

    /// The maintenance that a route is in.
    pub(crate) fn entered(&self, id: RouteId) -> Option<&ActiveMaintenance> {
        self.routes.get(&id).map_or(self.all.as_ref(), Option::as_ref)
    }

    /// Puts all routes, or one, into a maintenance or takes them out of it.
    pub(crate) fn set(&mut self, target: RouteOrAll, entered: Option<ActiveMaintenance>) {
        match target {
            RouteOrAll::All => {
                self.routes.clear();
                self.all = entered;
            }
            RouteOrAll::Route(id) => {
                self.routes.insert(id, entered);
            }
        }
    }

    /// Leaves what was entered by another session that is over. Returns whether that was anything.
    pub(crate) fn end_of(&mut self, other: SessionNo) -> bool {
        let all = self.all.take_if(|entered| entered.by == Some(other));
        let before = self.routes.len();
        self.routes.retain(|_, entered| entered.as_ref().is_none_or(|entered| entered.by != Some(other)));
        all.is_some() || self.routes.len() != before
    }

    /// The other sessions that entered something here.
    pub(crate) fn entered_by(&self) -> BTreeSet<SessionNo> {
        let all = self.all.iter().chain(self.routes.values().flatten());
        all.filter_map(|entered| entered.by).collect()
    }

    /// Forgets the maintenance of routes that do not exist.
    pub(super) fn retain_routes(&mut self, exists: impl Fn(RouteId) -> bool) {
        self.routes.retain(|id, _| exists(*id));
    }

    /// How many requests have had no verdict yet.
    pub(crate) fn requests(&self) -> usize {
        self.requests.len()
    }

    /// Adds the newest request.
    pub(crate) fn add_request(&mut self, request: MaintenanceRequest) {
        self.requests.push_back(request);
    }

    /// Ends the requests that a newer one for `places` makes pointless: they get a verdict and have no effect. Returns the
    /// ids of the probes that they waited for.
    pub(crate) fn supersede(&mut self, places: &[Place]) -> BTreeSet<MemberId> {
        let covered = |(session, target): &Place| {
            places.contains(&(*session, *target)) || places.contains(&(*session, RouteOrAll::All))
        };
        let mut done = BTreeSet::new();
        for request in self.requests.iter_mut().filter(|request| request.verdict.is_none()) {
            if request.places.iter().all(covered) {
                request.verdict = Some(Push::MaintenanceSuperseded);
                done.append(&mut request.waiters);
            }
        }
        done
    }

    /// Ends the requests whose probes have passed or whose time is over. Returns the ids of the probes that they waited for.
    pub(crate) fn decide(&mut self, now: Instant) -> BTreeSet<MemberId> {
        let mut done = BTreeSet::new();
        for request in self.requests.iter_mut().filter(|request| request.verdict.is_none()) {
            let Some(verdict) = request.judge(now) else { continue };
            request.verdict = Some(verdict);
            if !request.enters {
                request.exit = ExitProgress::Due;
            }
            done.append(&mut request.waiters);
        }
        done
    }

    /// The probe of this id has passed.
    pub(crate) fn probe_passed(&mut self, waiter: MemberId) {
        for request in &mut self.requests {
            request.waiters.remove(&waiter);
        }
    }

    /// When the time of the next request is over.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.requests.iter().filter(|request| request.verdict.is_none()).map(|request| request.until).min()
    }

    /// Takes out the oldest request if it has a verdict that may be sent. Returns the verdict and the connection that gets it.
    pub(crate) fn next_verdict(&mut self) -> Option<(ConnId, Push)> {
        let verdict =
            self.requests.front().filter(|request| request.exit == ExitProgress::NotDue)?.verdict.clone()?;
        self.requests.pop_front().map(|request| (request.conn, verdict))
    }

    /// Drops all requests. Returns the connection of each, which gets no verdict, and the ids of the probes it waited for.
    pub(crate) fn drop_requests(&mut self) -> Vec<(ConnId, BTreeSet<MemberId>)> {
        std::mem::take(&mut self.requests)
            .into_iter()
            .map(|request| (request.conn, request.waiters))
            .collect()
    }

    /// What the requests are about whose exit is at this point.
    pub(crate) fn places(&self, exit: ExitProgress) -> Vec<Place> {
        self.requests
            .iter()
            .filter(|request| request.exit == exit)
            .flat_map(|request| request.places.clone())
            .collect()
    }

    /// Moves all exits on that are at this point.
    pub(crate) fn step(&mut self, from: ExitProgress, to: ExitProgress) {
        self.requests.iter_mut().filter(|request| request.exit == from).for_each(|request| request.exit = to);
    }

    /// A copy without requests, to find out what a change would leave.
    pub(crate) fn without_requests(&self) -> Self {
        MaintenanceState { all: self.all.clone(), routes: self.routes.clone(), ..MaintenanceState::default() }
    }

    /// Its record.
    pub(crate) fn record(&self) -> MaintenanceRecord {
        let routes =
            self.routes.iter().map(|(id, entered)| (*id, entered.as_ref().map(ActiveMaintenance::record)));
        MaintenanceRecord { all: self.all.as_ref().map(ActiveMaintenance::record), routes: routes.collect() }
    }

    /// What the store holds of it, as far as is known.
    pub(crate) fn stored(&self) -> &MaintenanceRecord {
        &self.stored
    }

    /// The store holds this.
    pub(crate) fn set_stored(&mut self, record: &MaintenanceRecord) {
        self.stored.clone_from(record);
    }

    /// The maintenance of a record, for a session that has these routes. `page` makes the member that serves a page, from
    /// the page's URL and the address of the session that asked for it.
    pub(crate) fn restore(
        record: MaintenanceRecord,
        has: impl Fn(RouteId) -> bool,
        mut page: impl FnMut(BackendUrl, IpAddr) -> Arc<Member>,
    ) -> Self {
        let mut entered = |record: &EnteredRecord| {
            let page = record.page.as_ref().map(|record| page(record.url.clone(), record.peer));
            ActiveMaintenance {
                shown: Arc::new(Maintenance { page }),
                at: record.at,
                by: record.by.map(SessionNo),
            }
        };
        let all = record.all.as_ref().map(&mut entered);
        let of_routes = record.routes.iter().filter(|(id, _)| has(**id));
        let routes: BTreeMap<_, _> =
            of_routes.map(|(id, record)| (*id, record.as_ref().map(&mut entered))).collect();
        MaintenanceState { all, routes, stored: record, ..MaintenanceState::default() }
    }
}

impl ActiveMaintenance {
    /// What a session has entered.
    pub(crate) fn new(shown: Arc<Maintenance>, at: SystemTime, by: SessionNo) -> Self {
        ActiveMaintenance { shown, at, by: Some(by) }
    }

    /// As it is for this session.
    pub(crate) fn of(&self, no: SessionNo) -> Self {
        ActiveMaintenance { by: self.by.filter(|by| *by != no), ..self.clone() }
    }

    fn record(&self) -> EnteredRecord {
        let page = self.shown.page.as_ref();
        EnteredRecord {
            at: self.at,
            page: page.map(|page| PageRecord { url: page.backend.clone(), peer: page.terms.peer }),
            by: self.by.map(|by| by.0),
        }
    }
}

impl MaintenanceRequest {
    /// A request that waits until the probes with the ids `waiters` have passed, or its time is over.
    pub(crate) fn new(
        target: Target,
        conn: ConnId,
        enters: bool,
        places: Vec<Place>,
        waiters: BTreeSet<MemberId>,
        now: Now,
    ) -> Self {
        MaintenanceRequest {
            target,
            conn,
            enters,
            places,
            waiters,
            until: now.mono + VERDICT_TIMEOUT,
            verdict: None,
            exit: ExitProgress::NotDue,
        }
    }

    fn judge(&self, now: Instant) -> Option<Push> {
        match self.enters {
            _ if self.waiters.is_empty() => Some(Push::MaintenanceOk(self.target.clone())),
            _ if now < self.until => None,
            true => Some(Push::PageTimeout),
            false => Some(Push::BackendTimeout),
        }
    }
}
