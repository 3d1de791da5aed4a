//! Which of a session's routes lead to one member: one, nearly always.

use crate::protocol::RouteId;

/// At least one route, each once.
#[derive(Debug)]
pub(super) struct Routes {
    last: RouteId,
    /// Those before the last, in order.
    earlier: Option<Box<Earlier>>,
}

#[derive(Debug)]
struct Earlier(Vec<RouteId>);

/// What was taken away.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Removed {
    /// The only one; it is still there.
    Only,
    /// The last; `before` is that from now on.
    Last { before: RouteId },
    /// One of the others, or none at all.
    Earlier,
}

impl Routes {
    pub(super) fn new(only: RouteId) -> Self {
        Routes { last: only, earlier: None }
    }

    pub(super) fn last(&self) -> RouteId {
        self.last
    }

    pub(super) fn contains(&self, route: RouteId) -> bool {
        self.last == route || self.earlier.as_ref().is_some_and(|earlier| earlier.0.contains(&route))
    }

    pub(super) fn insert(&mut self, route: RouteId) {
        if !self.contains(route) {
            let mut all = self.take_earlier();
            all.push(self.last.min(route));
            all.sort_unstable();
            self.last = self.last.max(route);
            self.set_earlier(all);
        }
    }

    pub(super) fn remove(&mut self, route: RouteId) -> Removed {
        let mut all = self.take_earlier();
        let removed = if self.last != route {
            all.retain(|other| *other != route);
            Removed::Earlier
        } else if let Some(before) = all.pop() {
            self.last = before;
            Removed::Last { before }
        } else {
            Removed::Only
        };
        self.set_earlier(all);
        removed
    }

    fn take_earlier(&mut self) -> Vec<RouteId> {
        self.earlier.take().map(|earlier| earlier.0).unwrap_or_default()
    }

    fn set_earlier(&mut self, all: Vec<RouteId>) {
        self.earlier = (!all.is_empty()).then(|| Box::new(Earlier(all)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: &[u32]) -> Routes {
        let mut routes = Routes::new(RouteId(ids[0]));
        ids.iter().for_each(|id| routes.insert(RouteId(*id)));
        routes
    }

    #[test]
    fn the_last_is_the_one_with_the_greatest_id_in_whatever_order_they_came() {
        for ids in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [2, 1, 3]] {
            let mut routes = of(&ids);
            assert_eq!(routes.last(), RouteId(3));
            assert_eq!(routes.remove(RouteId(3)), Removed::Last { before: RouteId(2) });
            assert!(
                routes.contains(RouteId(2)) && routes.contains(RouteId(1)) && !routes.contains(RouteId(3))
            );
            assert_eq!(routes.remove(RouteId(1)), Removed::Earlier);
            assert_eq!(routes.remove(RouteId(1)), Removed::Earlier, "it is not there any more");
            assert_eq!((routes.remove(RouteId(2)), routes.last()), (Removed::Only, RouteId(2)));
        }
    }

    #[test]
    fn one_that_leads_there_twice_leads_there_once() {
        let mut routes = of(&[1, 2, 2, 1]);
        assert_eq!(routes.remove(RouteId(2)), Removed::Last { before: RouteId(1) });
        assert_eq!(routes.remove(RouteId(1)), Removed::Only);
    }
}
