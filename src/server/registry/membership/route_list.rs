//! The routes of a session that lead to one member. Nearly always there is one.

use registry_client::protocol::RouteId;

/// The routes before the last, in order. The last one is kept beside this by the owner, where it takes four bytes.
#[derive(Debug, Default)]
pub(crate) struct EarlierRoutes(Option<Box<List>>);

#[derive(Debug, Default)]
struct List(Vec<RouteId>);

/// What was removed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// Nothing: it is the only one.
    Only,
    /// The last one. `before` is the last from now on.
    Last { before: RouteId },
    /// One of the others, or none at all.
    Earlier,
}

impl EarlierRoutes {
    pub(crate) fn contains(&self, route: RouteId) -> bool {
        self.0.as_ref().is_some_and(|earlier| earlier.0.contains(&route))
    }

    /// Adds a route, unless it is there already.
    pub(crate) fn insert(&mut self, last: &mut RouteId, route: RouteId) {
        if *last != route && !self.contains(route) {
            let List(all) = &mut **self.0.get_or_insert_default();
            all.push(route.min(*last));
            all.sort_unstable();
            *last = route.max(*last);
        }
    }

    pub(crate) fn remove(&mut self, last: &mut RouteId, route: RouteId) -> Removed {
        let Some(List(all)) = self.0.as_deref_mut() else {
            return if *last == route { Removed::Only } else { Removed::Earlier };
        };
        let mut removed = Removed::Earlier;
        if *last != route {
            all.retain(|other| *other != route);
        } else if let Some(before) = all.pop() {
            *last = before;
            removed = Removed::Last { before };
        }
        if all.is_empty() {
            self.0 = None;
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: &[u32]) -> (EarlierRoutes, RouteId) {
        let (mut earlier, mut last) = (EarlierRoutes::default(), RouteId(ids[0]));
        ids.iter().for_each(|id| earlier.insert(&mut last, RouteId(*id)));
        (earlier, last)
    }

    #[test]
    fn the_last_is_the_one_with_the_greatest_id_in_whatever_order_they_came() {
        for ids in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [2, 1, 3]] {
            let (mut earlier, mut last) = of(&ids);
            assert_eq!(last, RouteId(3));
            assert_eq!(earlier.remove(&mut last, RouteId(3)), Removed::Last { before: RouteId(2) });
            assert_eq!(last, RouteId(2));
            assert!(earlier.contains(RouteId(1)) && !earlier.contains(RouteId(3)));
            assert_eq!(earlier.remove(&mut last, RouteId(1)), Removed::Earlier);
            assert_eq!(earlier.remove(&mut last, RouteId(1)), Removed::Earlier, "it is not there any more");
            assert_eq!((earlier.remove(&mut last, RouteId(2)), last), (Removed::Only, RouteId(2)));
        }
    }

    #[test]
    fn one_that_leads_there_twice_leads_there_once() {
        let (mut earlier, mut last) = of(&[1, 2, 2, 1]);
        assert_eq!(earlier.remove(&mut last, RouteId(2)), Removed::Last { before: RouteId(1) });
        assert_eq!(earlier.remove(&mut last, RouteId(1)), Removed::Only);
    }
}
