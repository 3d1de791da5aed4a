//! Turns signals into one state that every task can watch: whether to stop, and how. Used by all, uses none.
//!
//! The first signal asks for the orderly stop, the second forces the immediate one. After an orderly stop the program
//! exits with 0, after a forced one with 128+n, where n is the number of the second signal (143 for SIGTERM, 130 for
//! SIGINT).
//!
//! Two signals of one kind that arrive before the first is handled count as one, as always in Unix.

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

/// Tells a task whether and how the process was asked to stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<State>);

/// Asks the process to stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ShutdownTrigger(watch::Sender<State>);

/// A trigger, and the state that it changes.
pub fn shutdown() -> (ShutdownTrigger, Shutdown) {
    let (sender, receiver) = watch::channel(State::Running);
    (ShutdownTrigger(sender), Shutdown(receiver))
}

impl Shutdown {
    /// Listens to SIGTERM and SIGINT from now on, in a task of the current runtime. Call it first of all: PID 1 loses
    /// signals to which it does not listen.
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

    /// Waits until the process is asked to stop; returns at once if it was. Cancel-safe.
    ///
    /// Where nobody is left who could ask, it never returns.
    pub async fn requested(&self) {
        self.wait_for(|state| *state != State::Running).await;
    }

    /// Waits until the immediate stop is forced, and returns the exit code, 128 plus the signal's number.
    /// Cancel-safe.
    ///
    /// Where nobody is left who could ask, it never returns.
    pub async fn forced(&self) -> u8 {
        match self.wait_for(|state| matches!(state, State::Forced { .. })).await {
            State::Forced { signal } => exit_code(signal),
            State::Running | State::Requested => exit_code(SIGTERM),
        }
    }

    /// Whether a stop was asked for, orderly or forced.
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
    /// Takes a signal: the first asks for the orderly stop, any further one forces the immediate one.
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

    /// Forces the immediate stop without a signal.
    pub fn force(&self) {
        self.0.send_if_modified(|state| {
            let first = !matches!(state, State::Forced { .. });
            *state = State::Forced { signal: SIGTERM };
            first
        });
    }

    /// Asks for the orderly stop without a signal. Asking twice does not force it.
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

/// The exit code that a shell gives for a process ended by the signal.
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
