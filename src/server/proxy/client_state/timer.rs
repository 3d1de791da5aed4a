//! One timer for all waits of a client's connection, which come one after another.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// A timer that is cheap to postpone: [`Timer::set`] only stores the deadline. The runtime's timer behind it is moved
/// when it fires too early, which is about once a minute instead of twice a request.
#[derive(Default)]
pub(crate) struct Timer {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Replaces the deadline.
    pub(crate) fn set(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// Ready once when the deadline has passed. Pending forever while no deadline is set.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline.map(tokio::time::Instant::from_std) else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if deadline <= sleep.deadline() {
                self.deadline = None;
                return Poll::Ready(());
            }
            // It fired for an earlier wait.
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::time::Instant as Clock;

    use super::*;

    async fn time_to_fire(timer: &mut Timer) -> Duration {
        let begun = Clock::now();
        poll_fn(|cx| timer.poll(cx)).await;
        begun.elapsed()
    }

    fn within(millis: u64) -> Instant {
        Clock::now().into_std() + Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn it_fires_at_the_deadline_set_last_whether_earlier_or_later() {
        let mut timer = Timer::default();
        for millis in [100, 5_000, 20, 20, 700] {
            timer.set(within(60_000));
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
            timer.set(within(millis));
            let fired = time_to_fire(&mut timer).await;
            assert!(fired.as_millis().abs_diff(millis.into()) <= 1, "{millis}: {fired:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_fire_while_it_is_postponed() {
        let mut timer = Timer::default();
        timer.set(within(100));
        for _ in 0..50 {
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
            tokio::time::advance(Duration::from_millis(90)).await;
            timer.set(within(100));
        }
        assert!(time_to_fire(&mut timer).await.as_millis().abs_diff(100) <= 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_fires_once() {
        let mut timer = Timer::default();
        timer.set(within(10));
        time_to_fire(&mut timer).await;
        assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
    }
}
