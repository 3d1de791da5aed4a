//! One revision: from the keys that it changed to the changes of the store that made it.

use std::collections::BTreeMap;
use std::sync::Arc;

use registry_nodes::kv::{Entry, Event};

use crate::server::registry::persist::{MaintenanceRecord, RouteRecord, SessionMarks, StoreChange};
use crate::server::registry::{Delta, EndReason, Route, SessionNo};
use registry_client::protocol::RouteId;

use crate::server::store::etcd::layout::Key;
use crate::server::store::etcd::values::{CommitValue, SessionValue, Step};

use super::{Image, Written};

/// What a revision says of sessions.
#[derive(Debug, Default)]
pub(super) struct Touched {
    sessions: BTreeMap<SessionNo, TouchedSession>,
    /// The order of the changes; empty: whoever wrote the revision told none.
    order: Vec<Step>,
}

#[derive(Debug, Default)]
struct TouchedSession {
    session: Option<Put<Box<SessionValue>>>,
    /// `None`: the route is gone.
    routes: BTreeMap<RouteId, Option<RouteRecord>>,
    maintenance: Option<MaintenanceRecord>,
    marks: Option<SessionMarks>,
    /// Something of it cannot be read. What was read last stays.
    is_unreadable: bool,
}

#[derive(Debug)]
enum Put<T> {
    Value(T),
    Deleted,
}

/// The changes of one revision before they are in order.
#[derive(Debug, Default)]
struct Changes {
    applied: BTreeMap<SessionNo, StoreChange>,
    maintenance: BTreeMap<SessionNo, MaintenanceRecord>,
    marked: BTreeMap<SessionNo, SessionMarks>,
    ended: BTreeMap<SessionNo, EndReason>,
}

impl Image {
    pub(super) fn note_all(&mut self, events: &[Event]) -> Touched {
        let mut touched = Touched::default();
        for event in events {
            let (Event::Put(Entry { key, .. }) | Event::Deleted { key }) = event;
            match self.layout.parse(key) {
                Some(parsed) => self.note(parsed, event, &mut touched),
                None if matches!(event, Event::Put(_)) => self.note_unknown(key),
                None => drop(self.unreadable.remove(key)),
            }
        }
        touched
    }

    fn note(&mut self, key: Key, event: &Event, touched: &mut Touched) {
        let entry = match event {
            Event::Put(entry) => entry,
            Event::Deleted { key: text } => {
                self.unreadable.remove(text);
                return self.note_deleted(key, touched);
            }
        };
        match key {
            Key::Part(no, id, part) => self.put_part(no, id, part, entry),
            Key::Session(no) => {
                let value = self.read(entry);
                touched.of(no).set(value, |session, value| session.session = Some(Put::Value(value)));
            }
            Key::Route(no, id) => {
                let value = self.read(entry);
                touched.of(no).set(value, |session, route| drop(session.routes.insert(id, route)));
            }
            Key::Maintenance(no) => {
                let value = self.read(entry);
                touched.of(no).set(value, |session, record| session.maintenance = Some(record));
            }
            Key::Marks(no) => {
                let value = self.read(entry);
                touched.of(no).set(value, |session, record| session.marks = Some(record));
            }
            Key::Commits(_) => {
                // What it says orders changes. Without it they are made all the same.
                touched.order = self.read(entry).map(|CommitValue { changes }| changes).unwrap_or_default();
                self.put_common(key, entry);
            }
            other => self.put_common(other, entry),
        }
    }

    fn note_deleted(&mut self, key: Key, touched: &mut Touched) {
        match key {
            Key::Part(no, id, _) => drop(self.loose.remove(&(no, id))),
            Key::Session(no) => touched.of(no).session = Some(Put::Deleted),
            Key::Route(no, id) => drop(touched.of(no).routes.insert(id, None)),
            Key::Maintenance(no) => touched.of(no).maintenance = Some(MaintenanceRecord::default()),
            Key::Marks(no) => touched.of(no).marks = Some(SessionMarks::default()),
            other => self.delete_common(&other),
        }
    }

    /// The changes that a revision made, in their order. The image knows what it has to know to see what the next one
    /// changes; [`Image::take`] applies them.
    pub(super) fn changes(&mut self, touched: Touched) -> Vec<StoreChange> {
        if self.is_newer() {
            return Vec::new();
        }
        let mut changes = Changes::default();
        for (no, session) in touched.sessions {
            if !session.is_unreadable {
                self.session_changes(no, session, &mut changes);
            }
        }
        changes.in_order(&touched.order)
    }

    fn session_changes(&mut self, no: SessionNo, touched: TouchedSession, changes: &mut Changes) {
        let TouchedSession { session, routes, mut maintenance, marks, .. } = touched;
        let is_known = self.written.contains_key(&no);
        match session {
            Some(Put::Deleted) => {
                if self.written.remove(&no).is_some() {
                    changes.ended.insert(no, EndReason::ShutDown);
                }
                return;
            }
            Some(Put::Value(value)) => {
                let first = if is_known { None } else { maintenance.take().map(Box::new) };
                let Some(change) = self.applied(no, *value, routes, first) else { return };
                changes.applied.insert(no, change);
            }
            None if !is_known => return,
            None if routes.is_empty() => {}
            // Somebody else than a server changed routes.
            None => drop(self.edited(no, routes).map(|change| changes.applied.insert(no, change))),
        }
        changes.maintenance.extend(maintenance.map(|record| (no, record)));
        changes.marked.extend(marks.map(|record| (no, record)));
    }

    /// The apply that has left a session like this.
    fn applied(
        &mut self,
        no: SessionNo,
        value: SessionValue,
        touched: BTreeMap<RouteId, Option<RouteRecord>>,
        maintenance: Option<Box<MaintenanceRecord>>,
    ) -> Option<StoreChange> {
        let SessionValue { session, applied, parts } = value;
        let before = self.written.get(&no).copied();
        let routes = match parts.filter(|parts| before.and_then(|before| before.parts) != Some(*parts)) {
            Some(pointer) => {
                let after = self.assemble(no, pointer)?;
                difference(self.session(no).map(|saved| &saved.routes), after)
            }
            None => touched,
        };
        let old = self.session(no).map(|saved| &saved.session);
        let has_new_defaults = match old {
            Some(old) => {
                (&old.defaults, old.defaults_applied) != (&session.defaults, session.defaults_applied)
            }
            None => !session.defaults.is_empty(),
        };
        let defaults = has_new_defaults.then(|| session.defaults.clone());
        self.written.insert(no, Written { applied, parts });
        let delta = Arc::new(Delta { routes: in_delta(routes), defaults });
        Some(StoreChange::Applied { session: Box::new(session), applied, delta, maintenance })
    }

    fn edited(&self, no: SessionNo, routes: BTreeMap<RouteId, Option<RouteRecord>>) -> Option<StoreChange> {
        let saved = self.session(no)?;
        let newest = routes.values().flatten().map(|route| route.applied).max();
        let applied = newest.or_else(|| self.written.get(&no).map(|written| written.applied))?;
        let delta = Arc::new(Delta { routes: in_delta(routes), defaults: None });
        let session = Box::new(saved.session.clone());
        Some(StoreChange::Applied { session, applied, delta, maintenance: None })
    }
}

impl Touched {
    fn of(&mut self, no: SessionNo) -> &mut TouchedSession {
        self.sessions.entry(no).or_default()
    }
}

impl TouchedSession {
    fn set<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => put(self, value),
            None => self.is_unreadable = true,
        }
    }
}

impl Changes {
    /// In the order that the commit told; what it did not tell comes after that, applies in the order of their numbers.
    fn in_order(mut self, order: &[Step]) -> Vec<StoreChange> {
        let mut ordered: Vec<StoreChange> = order.iter().filter_map(|step| self.take(step)).collect();
        let mut applied: Vec<_> = self.applied.into_values().collect();
        applied.sort_by_key(|change| match change {
            StoreChange::Applied { applied, .. } => *applied,
            _ => 0,
        });
        ordered.extend(applied);
        if !self.maintenance.is_empty() {
            ordered.push(StoreChange::Maintenance(self.maintenance.into_iter().collect()));
        }
        if !self.marked.is_empty() {
            ordered.push(StoreChange::Marked(self.marked.into_iter().collect()));
        }
        ordered.extend(self.ended.into_iter().map(|(no, reason)| StoreChange::Ended(no, reason)));
        ordered
    }

    fn take(&mut self, step: &Step) -> Option<StoreChange> {
        match step {
            Step::Applied(no) => self.applied.remove(&SessionNo(*no)),
            Step::Maintenance(_) => {
                let all =
                    step.sessions().filter_map(|no| self.maintenance.remove_entry(&no)).collect::<Vec<_>>();
                (!all.is_empty()).then_some(StoreChange::Maintenance(all))
            }
            Step::Marked(_) => {
                let all = step.sessions().filter_map(|no| self.marked.remove_entry(&no)).collect::<Vec<_>>();
                (!all.is_empty()).then_some(StoreChange::Marked(all))
            }
            Step::Ended(no, reason) => {
                let no = SessionNo(*no);
                self.ended.remove(&no).map(|_| StoreChange::Ended(no, *reason))
            }
        }
    }
}

/// What has to be changed in `before` to have `after`.
fn difference(
    before: Option<&BTreeMap<RouteId, RouteRecord>>,
    after: BTreeMap<RouteId, RouteRecord>,
) -> BTreeMap<RouteId, Option<RouteRecord>> {
    let Some(before) = before else {
        return after.into_iter().map(|(id, route)| (id, Some(route))).collect();
    };
    let gone: Vec<_> = before.keys().filter(|id| !after.contains_key(id)).map(|id| (*id, None)).collect();
    let put = after.into_iter().filter(|(id, route)| before.get(id) != Some(route));
    put.map(|(id, route)| (id, Some(route))).chain(gone).collect()
}

fn in_delta(routes: BTreeMap<RouteId, Option<RouteRecord>>) -> Vec<(RouteId, Option<Arc<Route>>)> {
    let route = |record: Option<RouteRecord>| record.map(|record| Arc::new(Route::from(record)));
    routes.into_iter().map(|(id, record)| (id, route(record))).collect()
}
