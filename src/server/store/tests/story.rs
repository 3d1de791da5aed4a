//! Random stories: what a registry may ask of a store, in an order in which it may.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{maintenance, route, session};
use crate::server::registry::persist::{MaintenanceRecord, SessionMarks, StoreChange};
use crate::server::registry::{Delta, EndReason, Route, RouteSettings, SessionNo};
use registry_client::protocol::RouteId;

/// So many routes do not fit into one transaction of a shared store.
const MANY: u32 = 300;

pub(in crate::server::store) struct Story {
    random: fastrand::Rng,
    /// The revisions of the sessions that there are.
    sessions: BTreeMap<u64, u64>,
    last_session: u64,
    last_apply: u64,
}

impl Story {
    pub(in crate::server::store) fn new(seed: u64) -> Story {
        let random = fastrand::Rng::with_seed(seed);
        Story { random, sessions: BTreeMap::new(), last_session: 0, last_apply: 0 }
    }

    /// Changes that come at once. No two that wait for each other are about one session.
    pub(in crate::server::store) fn changes(&mut self) -> Vec<StoreChange> {
        let count = self.random.usize(1..8);
        (0..count).map(|_| self.change()).collect()
    }

    fn change(&mut self) -> StoreChange {
        let some = self.some();
        match (self.random.u8(..10), some) {
            (0..=2, _) | (_, None) => self.first_apply(),
            (3..=5, Some(no)) => self.apply(no, None),
            (6, Some(_)) => StoreChange::Maintenance(self.each(maintenance)),
            (7, Some(_)) => StoreChange::Marked(self.each(|| marks(1))),
            (_, Some(no)) => {
                self.sessions.remove(&no);
                // It is asked for twice where the first time was in vain.
                StoreChange::Ended(SessionNo(no), EndReason::Expired)
            }
        }
    }

    fn some(&mut self) -> Option<u64> {
        let count = self.sessions.len();
        (count > 0).then(|| *self.sessions.keys().nth(self.random.usize(..count)).unwrap())
    }

    /// Some sessions, and one that has ended, each with something or with nothing.
    fn each<T: Default>(&mut self, something: impl Fn() -> T) -> Vec<(SessionNo, T)> {
        let mut all: Vec<u64> = self.sessions.keys().copied().collect();
        all.retain(|_| self.random.bool());
        all.push(self.last_session + 1000);
        let value = |_: &u64| if self.random.bool() { something() } else { T::default() };
        let values: Vec<T> = all.iter().map(value).collect();
        all.into_iter().map(SessionNo).zip(values).collect()
    }

    fn first_apply(&mut self) -> StoreChange {
        self.last_session += 1;
        let first = self.random.bool().then(|| Box::new(maintenance()));
        self.apply(self.last_session, first)
    }

    fn apply(&mut self, no: u64, maintenance: Option<Box<MaintenanceRecord>>) -> StoreChange {
        self.last_apply += 1;
        let revision = self.sessions.entry(no).or_default();
        *revision += 1;
        let mut session = Box::new(session(no, *revision));
        let defaults = self.random.bool().then(|| self.settings());
        if let Some(defaults) = &defaults {
            session.defaults = defaults.clone();
            session.defaults_applied = self.last_apply;
        }
        let count = if self.random.u8(..8) == 0 { MANY } else { self.random.u32(..6) };
        let first = self.random.u32(1..6);
        let routes = (first..first + count).map(|id| (RouteId(id), self.route())).collect();
        let delta = Arc::new(Delta { routes, defaults });
        StoreChange::Applied { session, applied: self.last_apply, delta, maintenance }
    }

    fn route(&mut self) -> Option<Arc<Route>> {
        let number = self.random.u16(..);
        let record = self.random.bool().then(|| route(&format!("d{number}.example.com")))?;
        Some(Arc::new(Route::from(record)))
    }

    fn settings(&mut self) -> RouteSettings {
        let seconds = self.random.u8(1..60);
        serde_json::from_str(&format!(r#"{{"options":{{"timeout":"{seconds}s"}}}}"#)).unwrap()
    }
}

fn marks(second: u8) -> SessionMarks {
    serde_json::from_str(&format!(r#"{{"lost":{{"at":"2026-11-21T14:00:0{second}Z"}}}}"#)).unwrap()
}
