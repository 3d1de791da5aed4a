//! One timer for all the waits of a client's connection, which come one after another.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// Goes off when a wait has taken too long. Putting it off costs nothing: the timer behind it is left as it is,
/// and set anew only when it goes off too early, which is once a minute and not twice a request.
#[derive(Default)]
pub(super) struct Alarm {
    due: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Goes off at `due` from now on, and no longer when it would have.
    pub(super) fn set(&mut self, due: Instant) {
        self.due = Some(due);
    }

    /// Ready once it has gone off, and never while it is not set.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due.map(tokio::time::Instant::from_std) else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if due < sleep.deadline() {
            sleep.as_mut().reset(due);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if due <= sleep.deadline() {
                self.due = None;
                return Poll::Ready(());
            }
            // That was for a wait which is over.
            sleep.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::time::Instant as Clock;

    use super::*;

    async fn rings(alarm: &mut Alarm) -> Duration {
        let begun = Clock::now();
        poll_fn(|cx| alarm.poll(cx)).await;
        begun.elapsed()
    }

    fn within(millis: u64) -> Instant {
        Clock::now().into_std() + Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_off_when_it_was_set_for_last_be_that_earlier_or_later() {
        let mut alarm = Alarm::default();
        for millis in [100, 5_000, 20, 20, 700] {
            alarm.set(within(60_000));
            assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx))).await.is_pending());
            alarm.set(within(millis));
            let rang = rings(&mut alarm).await;
            assert!(rang.as_millis().abs_diff(millis.into()) <= 1, "{millis}: {rang:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_put_off_again_and_again_does_not_end() {
        let mut alarm = Alarm::default();
        alarm.set(within(100));
        for _ in 0..50 {
            assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx))).await.is_pending());
            tokio::time::advance(Duration::from_millis(90)).await;
            alarm.set(within(100));
        }
        assert!(rings(&mut alarm).await.as_millis().abs_diff(100) <= 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_off_once() {
        let mut alarm = Alarm::default();
        alarm.set(within(10));
        rings(&mut alarm).await;
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx))).await.is_pending());
    }
}
