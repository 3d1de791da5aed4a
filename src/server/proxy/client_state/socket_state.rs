//! The state that a client connection shares with its socket. hyper owns the socket and requires it to be `Send`, so
//! the state is atomic.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::disconnect::SocketDuplicate;

pub(crate) struct SocketState {
    epoch: Instant,
    /// Since when the client has not read what was sent to it: milliseconds since `epoch` plus one. 0: it reads.
    blocked_since: AtomicU64,
    reset_on_close: AtomicBool,
    pub(crate) duplicate: SocketDuplicate,
}

impl SocketState {
    pub(crate) fn new() -> Self {
        SocketState {
            epoch: Instant::now(),
            blocked_since: AtomicU64::new(0),
            reset_on_close: AtomicBool::new(false),
            duplicate: SocketDuplicate::default(),
        }
    }

    /// A write has just been blocked by the client, or not.
    pub(crate) fn write_ended(&self, is_blocked: bool) {
        let since = self.blocked_since.load(Ordering::Relaxed);
        match (since, is_blocked) {
            (0, true) => self.blocked_since.store(self.millis() + 1, Ordering::Relaxed),
            (0, false) | (_, true) => {}
            (_, false) => self.blocked_since.store(0, Ordering::Relaxed),
        }
    }

    /// For how many milliseconds the client has blocked writing; `None`: it does not.
    pub(crate) fn blocked_for(&self) -> Option<u64> {
        let since = self.blocked_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.millis().saturating_sub(since))
    }

    /// Makes the socket close with a reset.
    pub(crate) fn reset_on_close(&self) {
        self.reset_on_close.store(true, Ordering::Relaxed);
    }

    pub(crate) fn closes_with_reset(&self) -> bool {
        self.reset_on_close.load(Ordering::Relaxed)
    }

    fn millis(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}
