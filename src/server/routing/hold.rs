//! How requests wait for a claim that has lost its last usable member (SEMANTICS section 6).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Requests that wait for one claim; further ones are answered at once.
pub const MAX_WAITING: usize = 1_000;

/// A claim's readiness to let requests wait. Every snapshot of a claim counts the same requests, from the first one
/// on in which any waited.
#[derive(Debug, Clone, Default)]
pub struct Hold {
    /// Once there was a loss, which most claims never see.
    loss: OnceLock<Box<Loss>>,
}

#[derive(Debug, Clone, Default)]
struct Loss {
    until: Option<Instant>,
    waiting: Arc<AtomicUsize>,
}

impl Hold {
    /// Until when they wait: the claim has lost its last usable member and none has come since.
    pub fn until(&self) -> Option<Instant> {
        self.loss.get()?.until
    }

    /// The claim has lost its last usable member, or has one again.
    pub fn set_until(&mut self, until: Option<Instant>) {
        let waiting = self.loss.take().map(|loss| loss.waiting);
        if until.is_some() || waiting.is_some() {
            self.loss = OnceLock::from(Box::new(Loss { until, waiting: waiting.unwrap_or_default() }));
        }
    }

    /// Until when a request that comes at `now` may wait.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.until().filter(|until| *until > now)
    }

    /// A place for one more request; `None`: [`MAX_WAITING`] wait already.
    pub fn enter(&self) -> Option<Waiting> {
        let more = |count| (count < MAX_WAITING).then_some(count + 1);
        let waiting = &self.loss.get_or_init(Box::default).waiting;
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Waiting(Arc::clone(waiting)))
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.loss.get().map_or(0, |loss| loss.waiting.load(Ordering::Relaxed))
    }
}

/// A request that waits; it counts until this is dropped.
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
    fn so_many_wait_and_no_more_whichever_snapshot_they_came_by() {
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
    fn nobody_waits_before_a_loss_or_after_the_time() {
        let now = Instant::now();
        assert_eq!(Hold::default().deadline(now), None);
        let mut hold = Hold::default();
        hold.set_until(Some(now + Duration::from_secs(1)));
        assert_eq!(hold.deadline(now), hold.until());
        assert_eq!(hold.deadline(now + Duration::from_secs(1)), None);
    }
}
