//! Being asked to stop: signals in, one watchable state out. Used by all, uses none.
//!
//! The first request asks for the orderly stop, the second for the immediate one. A daemon that was asked to
//! stop and did exits with 0; one that is stopped at once exits with 128+n, n being the second signal (143
//! for SIGTERM, 130 for SIGINT).
//!
//! Two signals of one kind that arrive before the first has been looked at count as one, as everywhere
//! in Unix.

use std::io;

use futures_util::StreamExt;
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::sync::watch;
use tracing::{info, warn};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Requested,
    Forced { signal: i32 },
}

/// Whether and how the process has been asked to stop; cheap to clone, one for each task that cares.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<State>);

/// Asks for the stop.
#[derive(Debug, Clone)]
pub struct ShutdownTrigger(watch::Sender<State>);

/// A trigger and what it triggers.
pub fn shutdown() -> (ShutdownTrigger, Shutdown) {
    let (sender, receiver) = watch::channel(State::Running);
    (ShutdownTrigger(sender), Shutdown(receiver))
}

impl Shutdown {
    /// Listens to SIGTERM and SIGINT from now on, in a task of the present runtime. Call it first of all: at
    /// PID 1 a signal that nobody listens to is lost.
    ///
    /// # Errors
    /// Where the handlers cannot be installed.
    pub fn on_signals() -> io::Result<Shutdown> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let (trigger, shutdown) = shutdown();
        tokio::spawn(async move {
            while let Some(signal) = signals.next().await {
                trigger.signal(signal);
            }
        });
        Ok(shutdown)
    }

    /// Returns when the process has been asked to stop, at once if it was before. Cancel-safe.
    ///
    /// Where nobody is left who could ask, it never returns.
    pub async fn requested(&self) {
        self.wait_for(|state| *state != State::Running).await;
    }

    /// Returns the exit code when the process is to stop at once: 128 and the signal's number. Cancel-safe.
    ///
    /// Where nobody is left who could ask, it never returns.
    pub async fn forced(&self) -> u8 {
        match self.wait_for(|state| matches!(state, State::Forced { .. })).await {
            State::Forced { signal } => exit_code(signal),
            State::Running | State::Requested => exit_code(SIGTERM),
        }
    }

    /// Whether a stop, orderly or not, has been asked for.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() != State::Running
    }

    async fn wait_for(&self, reached: impl FnMut(&State) -> bool) -> State {
        let mut receiver = self.0.clone();
        let state = receiver.wait_for(reached).await.map(|state| *state);
        match state {
            Ok(state) => state,
            Err(_) => std::future::pending().await,
        }
    }
}

impl ShutdownTrigger {
    /// A signal has come: the first asks for the orderly stop, any further one for the immediate.
    pub fn signal(&self, signal: i32) {
        let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
        self.0.send_if_modified(|state| match *state {
            State::Running => {
                info!("{name}: leaving in order; a second signal ends at once");
                *state = State::Requested;
                true
            }
            State::Requested => {
                warn!("{name} again: ending at once");
                *state = State::Forced { signal };
                true
            }
            State::Forced { .. } => false,
        });
    }

    /// Asks for the immediate stop without a signal: what is still to be waited for is left out.
    pub fn force(&self) {
        self.0.send_if_modified(|state| {
            let first = !matches!(state, State::Forced { .. });
            *state = State::Forced { signal: SIGTERM };
            first
        });
    }

    /// Asks for the orderly stop without a signal; changes nothing where that has been asked for.
    pub fn request(&self) {
        self.0.send_if_modified(|state| {
            let first = *state == State::Running;
            if first {
                *state = State::Requested;
            }
            first
        });
    }
}

/// What a shell says about a process that a signal ended.
fn exit_code(signal: i32) -> u8 {
    u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_first_signal_asks_for_order_and_the_second_for_haste() {
        let (trigger, shutdown) = shutdown();
        let late = shutdown.clone();
        assert!(!shutdown.is_requested());
        assert!(shutdown.requested().now_or_never().is_none());
        trigger.signal(SIGTERM);
        shutdown.requested().await;
        assert!(shutdown.is_requested() && shutdown.forced().now_or_never().is_none());
        trigger.signal(SIGINT);
        trigger.signal(SIGTERM);
        assert_eq!(shutdown.forced().await, 130);
        // Whoever asks late gets the same answer.
        late.requested().await;
        assert_eq!(late.forced().await, 130);
    }

    #[tokio::test]
    async fn asking_twice_without_a_signal_is_no_haste() {
        let (trigger, shutdown) = shutdown();
        trigger.request();
        trigger.request();
        shutdown.requested().await;
        assert!(shutdown.forced().now_or_never().is_none());
        trigger.signal(SIGTERM);
        assert_eq!(shutdown.forced().await, 143);
    }

    #[tokio::test]
    async fn haste_can_be_asked_for_without_a_signal() {
        let (trigger, shutdown) = shutdown();
        trigger.request();
        trigger.force();
        shutdown.requested().await;
        assert_eq!(shutdown.forced().await, 143);
    }

    #[tokio::test(start_paused = true)]
    async fn without_anybody_who_could_ask_nothing_is_requested() {
        let (trigger, shutdown) = shutdown();
        drop(trigger);
        let waited = tokio::time::timeout(Duration::from_secs(3_600), shutdown.requested()).await;
        assert!(waited.is_err());
    }

    #[tokio::test]
    async fn real_signals_arrive() {
        let shutdown = Shutdown::on_signals().unwrap();
        signal_hook::low_level::raise(SIGTERM).unwrap();
        shutdown.requested().await;
        signal_hook::low_level::raise(SIGINT).unwrap();
        assert_eq!(shutdown.forced().await, 130);
    }
}
