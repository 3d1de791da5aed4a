//! Plans for the reference server, and what it does not understand (PROTOCOL section 8).

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{Applied, Batch, Dialect, Unsupported, claims, set_header, set_option};
use crate::intent::{Headers, Options, Route, RouteKey, Routes};
use crate::protocol::{RouteId, RouteOption, Scheme, is_field_safe};

/// Old before new: removal is by domain and path and takes every entry, and removing and adding one of them
/// in a single apply leaves nothing. Options and headers only work for all routes of an apply.
///
/// Entries of former sessions leak, and take the traffic below the exact path. So what has not been cleaned by
/// a removal yet is added provisionally, removed, and added for good, with an apply after each.
pub(super) fn plan(wanted: &Routes, applied: &Applied, held: &BTreeSet<RouteKey>) -> Vec<Batch> {
    let surplus = surplus(wanted);
    let can = |key: &RouteKey, route: &Route| !needs_h2c(route) && !surplus.contains(key);
    let candidates = || wanted.iter().filter(|(key, route)| !held.contains(*key) && can(key, route));
    let mut kept: BTreeSet<RouteId> = candidates()
        .filter_map(|(key, route)| {
            let same = |(id, old): &(RouteId, &Route)| same(old, route) && !applied.is_provisional(*id);
            applied.best_match(key, route).filter(same)
        })
        .map(|(id, _)| id)
        .collect();
    let mut removals = Batch::default();
    loop {
        let gone: Vec<_> = applied.others(&kept, held).collect();
        let torn = kept.iter().copied().find(|id| gone.iter().any(|(_, old)| applied.share_claim(*id, old)));
        let Some(torn) = torn else {
            gone.iter().for_each(|(id, _)| removals.remove(*id));
            break;
        };
        kept.remove(&torn);
    }
    let mut provisional = Batch::default();
    let mut groups: Vec<(Options, Headers, Batch)> = Vec::new();
    for (key, route) in candidates().filter(|(key, _)| !applied.holds(key, &kept)) {
        if !applied.is_clean(route) {
            provisional.put(key, route, true);
            continue;
        }
        let batch = group(&mut groups, route);
        let at = batch.add(key, route);
        batch.set_health(&at, route);
        batch.set_limits(&at, route);
    }
    let with_settings = |(options, headers, mut batch): (Options, Headers, Batch)| {
        batch.steps.extend(options.iter().map(|option| set_option(None, option)));
        batch.steps.extend(headers.iter().map(|(name, value)| set_header(None, name, value)));
        batch
    };
    [removals, provisional].into_iter().chain(groups.into_iter().map(with_settings)).collect()
}

/// The batch of the routes with the same options and headers.
fn group<'a>(groups: &'a mut Vec<(Options, Headers, Batch)>, route: &Route) -> &'a mut Batch {
    let same = |(options, headers, _): &(Options, Headers, Batch)| {
        (options, headers) == (&route.options, &route.headers)
    };
    let index = groups.iter().position(same).unwrap_or_else(|| {
        groups.push((route.options.clone(), route.headers.clone(), Batch::default()));
        groups.len() - 1
    });
    &mut groups[index].2
}

/// It ignores priorities, and the options of a backend that it knows never change.
pub(super) fn same(old: &Route, new: &Route) -> bool {
    let settings = |route: &Route| (route.headers.clone(), route.rate_limit, route.circuit_breaker);
    (&old.domains, &old.path, &old.backend, &old.health)
        == (&new.domains, &new.path, &new.backend, &new.health)
        && settings(old) == settings(new)
}

/// Without the options of ours, and without header values that hold a separator: it reads only up to that.
pub(super) fn understood(route: &Route) -> Cow<'_, Route> {
    let is_known = |option: &&RouteOption| Dialect::Reference.understands(option);
    if route.options.iter().all(|option| is_known(&option)) && !has_split_header(route) {
        return Cow::Borrowed(route);
    }
    let mut understood = route.clone();
    understood.options = route.options.iter().filter(is_known).cloned().collect();
    let whole = route.headers.iter().filter(|(_, value)| is_field_safe(value.as_str()));
    understood.headers = whole.map(|(name, value)| (name.clone(), value.clone())).collect();
    Cow::Owned(understood)
}

fn has_split_header(route: &Route) -> bool {
    route.headers.iter().any(|(_, value)| !is_field_safe(value.as_str()))
}

/// The routes that are left out because another one has exactly their claims: it has one backend for a domain and path.
/// The first of them by key stays.
pub(super) fn surplus(wanted: &Routes) -> BTreeSet<RouteKey> {
    let mut taken: BTreeSet<BTreeSet<_>> = BTreeSet::new();
    let candidates = wanted.iter().filter(|(_, route)| !needs_h2c(route));
    candidates
        .filter(|(_, route)| !taken.insert(claims(route).collect()))
        .map(|(key, _)| key.clone())
        .collect()
}

fn needs_h2c(route: &Route) -> bool {
    route.backend.scheme() == Scheme::H2c
}

pub(super) fn unsupported(wanted: &Routes) -> Vec<Unsupported> {
    let surplus = surplus(wanted);
    let notes = wanted.iter().flat_map(|(key, route)| {
        let cases = [
            (
                surplus.contains(key),
                "one backend for a domain and path is understood, and another route has it: the route is left out",
            ),
            (needs_h2c(route), "h2c backends are not understood: the route is left out"),
            (has_split_header(route), "a header value with '|' is not understood: the route goes without it"),
        ];
        let met = cases.into_iter().filter(|(met, _)| *met);
        let met = met.map(|(_, what)| Unsupported { key: key.clone(), what: what.to_owned() });
        met.chain(Dialect::Reference.options_left_out(key, route))
    });
    notes.collect()
}
