//! Holds requests for a claim that has lost its last usable member (SEMANTICS section 6).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// How many requests may wait for one claim; further ones are answered at once.
pub const MAX_WAITING: usize = 1_000;

/// Until when requests for a claim may wait, and how many do. All snapshots of a claim share the count, from the first
/// snapshot on in which a request waited.
#[derive(Debug, Clone, Default)]
pub struct Hold {
    /// Allocated at the first loss, which most claims never have.
    loss: OnceLock<Box<Loss>>,
}

#[derive(Debug, Clone, Default)]
struct Loss {
    until: Option<Instant>,
    waiting: Arc<AtomicUsize>,
}

impl Hold {
    /// Until when requests wait; `None`: the claim has a usable member.
    pub fn until(&self) -> Option<Instant> {
        self.loss.get()?.until
    }

    /// Sets the time when the claim loses its last usable member, and clears it when it has one again.
    pub fn set_until(&mut self, until: Option<Instant>) {
        let waiting = self.loss.take().map(|loss| loss.waiting);
        if until.is_some() || waiting.is_some() {
            self.loss = OnceLock::from(Box::new(Loss { until, waiting: waiting.unwrap_or_default() }));
        }
    }

    /// Until when a request that arrives at `now` may wait.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.until().filter(|until| *until > now)
    }

    /// Counts one more waiting request; `None`: [`MAX_WAITING`] wait already.
    pub fn enter(&self) -> Option<Waiting> {
        let more = |count| (count < MAX_WAITING).then_some(count + 1);
        let waiting = &self.loss.get_or_init(Box::default).waiting;
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Waiting(Arc::clone(waiting)))
    }

    /// The number of waiting requests.
    pub fn waiting(&self) -> usize {
        self.loss.get().map_or(0, |loss| loss.waiting.load(Ordering::Relaxed))
    }
}

/// A waiting request, counted until this is dropped.
#[derive(Debug)]
pub struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn all_snapshots_share_the_limit() {
        let mut hold = Hold::default();
        hold.set_until(Some(Instant::now()));
        let mut all: Vec<_> = (0..MAX_WAITING).map(|_| hold.clone().enter()).collect();
        assert!(all.iter().all(Option::is_some));
        assert!(hold.enter().is_none());
        all.pop();
        assert_eq!(hold.waiting(), MAX_WAITING - 1);
        hold.set_until(None);
        assert!(hold.clone().enter().is_some());
        assert_eq!(hold.waiting(), MAX_WAITING - 1, "whoever does not wait does not count");
    }

    #[test]
    fn no_request_waits_before_a_loss_or_after_the_time() {
        let now = Instant::now();
        assert_eq!(Hold::default().deadline(now), None);
        let mut hold = Hold::default();
        hold.set_until(Some(now + Duration::from_secs(1)));
        assert_eq!(hold.deadline(now), hold.until());
        assert_eq!(hold.deadline(now + Duration::from_secs(1)), None);
    }
}
