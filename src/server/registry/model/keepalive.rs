//! The one thing that a connection answers for its session by itself: that it lives (PING).
//!
//! Keepalives are most of what a registry hears, and change nothing but when their session was last heard of. So
//! whoever owns a connection may answer them without asking the registry, for as long as the session that is bound
//! there is bound there. The registry says when that begins, and ends it before anybody can know that it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use registry_client::protocol::{Command, Request, SessionId, SessionRef};

/// A session's binding to one connection. One end is the registry's, the other the connection's.
#[derive(Debug)]
pub struct Pulse {
    id: SessionId,
    stopped: AtomicBool,
    /// Milliseconds since the Unix epoch; 0: never.
    last: AtomicU64,
}

impl Pulse {
    pub(crate) fn start(id: SessionId) -> Arc<Self> {
        Arc::new(Pulse { id, stopped: AtomicBool::new(false), last: AtomicU64::new(0) })
    }

    /// The session is bound there no longer, or is not what it was.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// When it was felt last.
    pub(crate) fn last(&self) -> Option<SystemTime> {
        let millis = self.last.load(Ordering::Relaxed);
        (millis > 0).then(|| UNIX_EPOCH + Duration::from_millis(millis))
    }

    /// Whether `command`, which came at `now` over the connection, is a PING that `PONG` is the answer to. Anything
    /// else is for the registry, and so is a PING behind a command that has no answer yet.
    pub fn answers(&self, command: &Command, now: impl FnOnce() -> SystemTime) -> bool {
        let Command::Request(session, Request::Ping) = command else { return false };
        let is_ours = match session {
            SessionRef::Own => true,
            SessionRef::Id(id) => *id == self.id,
        };
        if !is_ours || self.stopped.load(Ordering::Acquire) {
            return false;
        }
        let since = now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last.store(since.as_millis() as u64, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: SystemTime = UNIX_EPOCH;

    fn command(line: &str) -> Command {
        Command::parse(line).unwrap()
    }

    #[test]
    fn a_ping_for_the_session_is_answered_and_remembered_until_the_pulse_stops() {
        let pulse = Pulse::start("one-1-ab".parse().unwrap());
        assert_eq!(pulse.last(), None);
        let mut now = AT;
        for line in ["PING", "PING|", "PING|one-1-ab"] {
            now += Duration::from_secs(7);
            assert!(pulse.answers(&command(line), || now), "{line}");
            assert_eq!(pulse.last(), Some(now), "{line}");
        }
        pulse.stop();
        assert!(!pulse.answers(&command("PING|one-1-ab"), || now + Duration::from_secs(1)));
        assert_eq!(pulse.last(), Some(now), "what was felt is still known");
    }

    #[test]
    fn everything_else_is_for_the_registry() {
        let pulse = Pulse::start("one-1-ab".parse().unwrap());
        for line in ["PING|two-2-cd", "SESSION_INFO|one-1-ab", "CONFIG_APPLY|", "RECONNECT|one-1-ab"] {
            assert!(!pulse.answers(&command(line), || AT), "{line}");
        }
        assert_eq!(pulse.last(), None);
    }
}
