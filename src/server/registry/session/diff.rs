//! CONFIG_DIFF's body: what an apply would change (PROTOCOL section 4).

use std::collections::BTreeMap;
use std::sync::Arc;

use registry_client::protocol::report::{Diff, HeaderDiff, Modified, RouteDiff};
use registry_client::protocol::{OptionKey, RouteId};

use crate::server::registry::model::{Applied, Route, RouteSettings};

use super::stage::Stage;

impl Stage {
    /// CONFIG_DIFF's body.
    pub(crate) fn diff(&self, applied: &BTreeMap<RouteId, Applied>, defaults: &RouteSettings) -> Diff {
        let delta = self.delta(applied, defaults);
        let ids = |wanted: fn(bool, bool) -> bool| {
            let is = |(id, after): &(RouteId, Option<Arc<Route>>)| {
                wanted(applied.contains_key(id), after.is_some())
            };
            delta.routes.iter().filter(|route| is(route)).map(|(id, _)| *id).collect()
        };
        let changed = delta.routes.iter().filter(|(id, after)| {
            let specs = applied.get(id).zip(after.as_ref());
            specs.is_some_and(|(before, after)| before.route.spec != after.spec)
        });
        let routes = RouteDiff {
            added: ids(|before, after| !before && after),
            removed: ids(|before, after| before && !after),
            modified: changed.map(|(id, _)| *id).collect(),
        };
        let none = RouteSettings::default();
        let before = |id| applied.get(id).map_or(&none, |applied| &*applied.route.settings);
        let after =
            delta.routes.iter().filter_map(|(id, after)| Some((before(id), &*after.as_ref()?.settings)));
        let settings = after.chain(delta.defaults.iter().map(|after| (defaults, after)));
        let mut diff = Diff { routes, ..Diff::default() };
        for (before, after) in settings {
            count_changes(&mut diff, before, after);
        }
        diff
    }
}

/// Adds the differences between settings before and after an apply.
fn count_changes(diff: &mut Diff, before: &RouteSettings, after: &RouteSettings) {
    let changed = |key: &OptionKey| before.options.get(key) != after.options.get(key);
    let (checks, plain): (Vec<_>, Vec<_>) =
        OptionKey::ALL.into_iter().filter(changed).partition(|key| key.is_health());
    let set = after.headers.iter().filter(|(name, value)| before.headers.get(*name) != Some(*value));
    let gone = before.headers.keys().filter(|name| !after.headers.contains_key(*name));
    let add = |counter: &mut Modified, count: usize| counter.modified += count as u64;
    add(&mut diff.options, plain.len());
    add(&mut diff.health, usize::from(!checks.is_empty() || before.health_path != after.health_path));
    add(&mut diff.ratelimit, usize::from(before.limit != after.limit));
    add(&mut diff.circuit, usize::from(before.breaker != after.breaker));
    diff.headers = HeaderDiff {
        added: diff.headers.added + set.count() as u64,
        removed: diff.headers.removed + gone.count() as u64,
    };
}
