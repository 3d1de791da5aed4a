//! Follows a file of the operator's as it changes. It knows nothing of what is in it.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// What `look` finds in a file, now and later. An error is text for people.
pub(super) struct FollowedFile<T, L> {
    look: L,
    ticks: Interval,
    /// What was found last.
    last: Result<T, String>,
    /// What was told last.
    told: Result<T, String>,
}

impl<T, L> FollowedFile<T, L>
where
    T: Clone + PartialEq + Send + 'static,
    L: Fn() -> Result<T, String> + Clone + Send + 'static,
{
    /// Follows a file in which `known` was found. Needs a runtime.
    pub(super) fn new(known: T, look: L) -> Self {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        FollowedFile { look, ticks, last: Ok(known.clone()), told: Ok(known) }
    }

    /// What is found next, once: a mistake that stays is told once as well. Cancel-safe.
    pub(super) async fn changed(&mut self) -> Result<T, String> {
        loop {
            self.ticks.tick().await;
            let looking = tokio::task::spawn_blocking(self.look.clone());
            let found = looking.await.unwrap_or_else(|_| Err("reading it broke off".to_owned()));
            // The file may be half written: use its content only when two looks have found the same.
            let is_steady = self.last == found;
            self.last.clone_from(&found);
            if is_steady && self.told != found {
                self.told.clone_from(&found);
                return found;
            }
        }
    }
}
