//! The counter of a session's route ids: none is given out twice, restarts included (PROTOCOL section 3).
//!
//! An apply tells the store how many ids were given out. A restored session skips [`RESERVED`] ids behind those, and no
//! session gives out more than these without asking the store first.

use registry_client::protocol::{MAX_BULK_ROUTES, RouteId};

/// How many route ids a session may give out beyond those that the store knows of: at least as many as one command
/// may add.
const RESERVED: u32 = 10_000;

const _: () = assert!(MAX_BULK_ROUTES <= RESERVED as usize);

/// How many route ids were given out.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RouteIds {
    given: u32,
    /// How many of those the store knows of.
    stored: u32,
}

impl RouteIds {
    /// The counter of a restored session, of whose ids the store knew the first `stored`.
    pub(super) fn restore(stored: u32) -> Self {
        RouteIds { given: stored.saturating_add(RESERVED), stored }
    }

    /// Gives out so many ids. `None`: there are not as many left.
    pub(crate) fn give(&mut self, count: usize) -> Option<Vec<RouteId>> {
        let last = self.given.checked_add(u32::try_from(count).ok()?)?;
        let ids = (self.given + 1..=last).map(RouteId).collect();
        self.given = last;
        Some(ids)
    }

    /// How many were given out.
    pub(crate) fn given(self) -> u32 {
        self.given
    }

    /// Whether the store has to know of those that were given out before `count` more are.
    pub(crate) fn must_reserve(self, count: u32) -> bool {
        self.given.saturating_add(count) > self.stored.saturating_add(RESERVED)
    }

    /// The store knows of the first `given` ids.
    pub(crate) fn set_stored(&mut self, given: u32) {
        self.stored = given;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_session_goes_on_behind_everything_that_may_have_been_given_out() {
        let mut ids = RouteIds::default();
        ids.give(5);
        ids.set_stored(ids.given());
        assert!(!ids.must_reserve(RESERVED));
        assert!(ids.must_reserve(RESERVED + 1));
        let before = ids.give(RESERVED as usize).and_then(|ids| ids.last().copied());
        let after = RouteIds::restore(5).give(1).and_then(|ids| ids.first().copied());
        assert!(after > before, "{after:?} {before:?}");
    }

    #[test]
    fn a_counter_that_is_at_its_end_gives_nothing_out() {
        let mut ids = RouteIds { given: u32::MAX - 1, stored: 0 };
        assert_eq!(ids.give(2), None);
        assert_eq!(ids.give(1), Some(vec![RouteId(u32::MAX)]));
        assert_eq!(ids.give(1), None);
    }
}
