//! The state of a session's maintenance, and the requests whose verdict is still to come (SEMANTICS section 5).
//!
//! Entering is in force from the ACK on, leaving from the verdict on, so that nobody sees the error of a backend that is
//! not up yet. Requests get their verdicts in the order in which they came.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::server::registry::model::{ConnId, Now, SessionNo, Slot};
use crate::server::registry::persist::{EnteredRecord, MaintenanceRecord, PageRecord};
use crate::server::routing::{Maintenance, Member, MemberId};
use registry_client::protocol::{BackendUrl, Push, RouteId, Target};

/// How long a page or a backend has to answer (PROTOCOL section 6).
const VERDICT_TIMEOUT: Duration = Duration::from_secs(60);

/// Which of a session's routes are in maintenance, and what was asked about it.
#[derive(Debug, Default)]
pub(crate) struct Maintained {
    /// `ALL`: of all routes, those that are added later too.
    all: Option<Entered>,
    /// Of routes for which something else holds than for all; `None`: they are in none.
    routes: BTreeMap<RouteId, Option<Entered>>,
    /// The requests that have had no verdict, in order.
    asked: VecDeque<Asked>,
    /// What the store is known to hold of it.
    kept: MaintenanceRecord,
}

/// A maintenance that was entered.
#[derive(Debug, Clone)]
pub(crate) struct Entered {
    pub(crate) shown: Arc<Maintenance>,
    pub(crate) at: SystemTime,
}

/// What a maintenance is for: a route of a session, or all of its routes.
pub(crate) type Place = (SessionNo, Slot);

/// The maintenance of sessions as a store is to hold it.
pub(crate) type Kept = Vec<(SessionNo, MaintenanceRecord)>;

/// A request that has had no verdict.
#[derive(Debug)]
pub(crate) struct Asked {
    target: Target,
    conn: ConnId,
    enters: bool,
    places: Vec<Place>,
    /// Whose probes have not passed yet.
    waits: BTreeSet<MemberId>,
    until: Instant,
    verdict: Option<Push>,
    exit: ExitState,
}

/// How far a MAINT_EXIT is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitState {
    /// There is nothing to leave, or it has been left.
    No,
    /// The verdict is ready. The store is to be told.
    Due,
    /// The store has been told and has not decided.
    Asked,
}

/// A MAINT_ENTER that the store is to hold first.
pub(crate) struct Entering {
    pub(crate) target: Target,
    pub(crate) places: Vec<Place>,
    pub(crate) entered: Entered,
}

impl Maintained {
    /// The maintenance that a route is in, as the data plane sees it.
    pub(crate) fn of(&self, id: RouteId) -> Option<Arc<Maintenance>> {
        self.entered(id).map(|entered| entered.shown.clone())
    }

    /// The maintenance that a route is in.
    pub(crate) fn entered(&self, id: RouteId) -> Option<&Entered> {
        self.routes.get(&id).map_or(self.all.as_ref(), Option::as_ref)
    }

    /// Puts all routes, or one, into a maintenance or out of it.
    pub(crate) fn set(&mut self, slot: Slot, entered: Option<Entered>) {
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

    /// Forgets what was entered for routes that do not exist.
    pub(super) fn retain_routes(&mut self, exists: impl Fn(RouteId) -> bool) {
        self.routes.retain(|id, _| exists(*id));
    }

    /// How many requests have had no verdict.
    pub(crate) fn requests(&self) -> usize {
        self.asked.len()
    }

    /// Adds a request behind those that there are.
    pub(crate) fn add_request(&mut self, asked: Asked) {
        self.asked.push_back(asked);
    }

    /// Decides on requests that a newer one for `places` makes pointless: they have no effect any more. Returns whose
    /// probes need not be asked for them.
    pub(crate) fn supersede(&mut self, places: &[Place]) -> BTreeSet<MemberId> {
        let covered = |(session, slot): &Place| {
            places.contains(&(*session, *slot)) || places.contains(&(*session, Slot::All))
        };
        let mut done = BTreeSet::new();
        for asked in self.asked.iter_mut().filter(|asked| asked.verdict.is_none()) {
            if asked.places.iter().all(covered) {
                asked.verdict = Some(Push::MaintenanceSuperseded);
                done.append(&mut asked.waits);
            }
        }
        done
    }

    /// Decides on the requests on which that is possible by now. Returns whose probes need not be asked for them any
    /// more.
    pub(crate) fn decide(&mut self, now: Instant) -> BTreeSet<MemberId> {
        let mut done = BTreeSet::new();
        for asked in self.asked.iter_mut().filter(|asked| asked.verdict.is_none()) {
            let Some(verdict) = asked.judge(now) else { continue };
            asked.verdict = Some(verdict);
            if !asked.enters {
                asked.exit = ExitState::Due;
            }
            done.append(&mut asked.waits);
        }
        done
    }

    /// A probe passed for which requests waited.
    pub(crate) fn probe_passed(&mut self, waiter: MemberId) {
        for asked in &mut self.asked {
            asked.waits.remove(&waiter);
        }
    }

    /// When the next request is decided on at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.asked.iter().filter(|asked| asked.verdict.is_none()).map(|asked| asked.until).min()
    }

    /// The oldest request's verdict, once there is one, and the connection that gets it.
    pub(crate) fn next_verdict(&mut self) -> Option<(ConnId, Push)> {
        let verdict = self.asked.front().filter(|asked| asked.exit == ExitState::No)?.verdict.clone()?;
        self.asked.pop_front().map(|asked| (asked.conn, verdict))
    }

    /// Drops all requests. Returns for each the connection that gets no verdict, and whose probes it waited for.
    pub(crate) fn drop_requests(&mut self) -> Vec<(ConnId, BTreeSet<MemberId>)> {
        std::mem::take(&mut self.asked).into_iter().map(|asked| (asked.conn, asked.waits)).collect()
    }

    /// What the requests are for whose exit is that far.
    pub(crate) fn places(&self, exit: ExitState) -> Vec<Place> {
        self.asked.iter().filter(|asked| asked.exit == exit).flat_map(|asked| asked.places.clone()).collect()
    }

    /// Moves all exits on that are that far.
    pub(crate) fn step(&mut self, from: ExitState, to: ExitState) {
        self.asked.iter_mut().filter(|asked| asked.exit == from).for_each(|asked| asked.exit = to);
    }

    /// The same without requests, to try out what a change would leave.
    pub(crate) fn without_requests(&self) -> Self {
        Maintained { all: self.all.clone(), routes: self.routes.clone(), ..Maintained::default() }
    }

    /// What a store is to hold of it.
    pub(crate) fn record(&self) -> MaintenanceRecord {
        let routes = self.routes.iter().map(|(id, entered)| (*id, entered.as_ref().map(Entered::record)));
        MaintenanceRecord { all: self.all.as_ref().map(Entered::record), routes: routes.collect() }
    }

    /// What the store is known to hold of it.
    pub(crate) fn kept(&self) -> &MaintenanceRecord {
        &self.kept
    }

    /// The store holds this.
    pub(crate) fn set_kept(&mut self, record: &MaintenanceRecord) {
        self.kept.clone_from(record);
    }

    /// As a store held it, for a session that has these routes. `page` makes the member that serves a page, from its
    /// URL and the address from which it was asked for.
    pub(crate) fn restore(
        record: MaintenanceRecord,
        has: impl Fn(RouteId) -> bool,
        mut page: impl FnMut(BackendUrl, IpAddr) -> Arc<Member>,
    ) -> Self {
        let mut entered = |record: &EnteredRecord| {
            let page = record.page.as_ref().map(|record| page(record.url.clone(), record.peer));
            Entered { shown: Arc::new(Maintenance { page }), at: record.at }
        };
        let all = record.all.as_ref().map(&mut entered);
        let of_routes = record.routes.iter().filter(|(id, _)| has(**id));
        let routes: BTreeMap<_, _> =
            of_routes.map(|(id, record)| (*id, record.as_ref().map(&mut entered))).collect();
        Maintained { all, routes, kept: record, ..Maintained::default() }
    }
}

impl Entered {
    fn record(&self) -> EnteredRecord {
        let page = self.shown.page.as_ref();
        EnteredRecord {
            at: self.at,
            page: page.map(|page| PageRecord { url: page.backend.clone(), peer: page.terms.peer }),
        }
    }
}

impl Asked {
    /// A request that waits until the probes of `waits` have passed, or its time is over.
    pub(crate) fn new(
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
            exit: ExitState::No,
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
