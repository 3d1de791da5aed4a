//! How the places stand at which the application becomes ready: its ports, or the application as a whole. They are
//! known by their names only.

use std::collections::BTreeMap;

use tokio::sync::watch;

use super::DaemonState;

/// How one place stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PlaceStatus {
    /// It passes its checks.
    pub(crate) ready: bool,
    /// It passed them at some time.
    pub(crate) was_ready: bool,
    /// Why the last try failed; `None` after one that passed.
    pub(crate) problem: Option<String>,
}

/// The places by their names.
pub(crate) type Places = BTreeMap<String, PlaceStatus>;

impl DaemonState {
    /// How the places stand that have been tried.
    pub(crate) fn places(&self) -> Places {
        self.shared.places.borrow().clone()
    }

    /// Every change of the places.
    pub(crate) fn watch_places(&self) -> watch::Receiver<Places> {
        self.shared.places.subscribe()
    }

    /// A place was tried: whether it is ready now, and why the try failed. Returns whether any place is ready.
    pub(crate) fn set_place(&self, name: &str, ready: bool, problem: Option<String>) -> bool {
        self.shared.places.send_if_modified(|places| {
            let place = places.entry(name.to_owned()).or_default();
            let now = PlaceStatus { ready, was_ready: place.was_ready || ready, problem };
            let changed = *place != now;
            *place = now;
            changed
        });
        self.is_any_ready()
    }

    /// Forgets the places that are not wanted any more. Returns whether any place is ready.
    pub(crate) fn retain_places(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.shared.places.send_if_modified(|places| {
            let before = places.len();
            places.retain(|name, _| wanted(name));
            places.len() != before
        });
        self.is_any_ready()
    }

    fn is_any_ready(&self) -> bool {
        self.shared.places.borrow().values().any(|place| place.ready)
    }

    /// Why the application, or a part of it, is not ready: one line for each place that failed its last try.
    pub(crate) fn place_problems(&self) -> Vec<String> {
        self.shared.places.borrow().values().filter_map(|place| place.problem.clone()).collect()
    }
}
