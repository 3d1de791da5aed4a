//! PINGs that a connection answers for its session without asking the registry.
//!
//! PINGs are most of what a registry receives, and change nothing but the time of the session's last activity. So the
//! task of a connection answers them as long as the session is bound there. The registry begins that, and stops it
//! before it tells anybody that the binding has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use registry_client::protocol::{Command, Request, SessionId, SessionRef};

/// A session's binding to one connection, shared by the registry and the connection's task.
#[derive(Debug)]
pub struct Keepalive {
    id: SessionId,
    stopped: AtomicBool,
    /// When a PING was answered last, in milliseconds since the Unix epoch; 0: never.
    last: AtomicU64,
}

impl Keepalive {
    /// A binding that has just begun.
    pub fn start(id: SessionId) -> Arc<Self> {
        Arc::new(Keepalive { id, stopped: AtomicBool::new(false), last: AtomicU64::new(0) })
    }

    /// The session.
    pub fn session(&self) -> &SessionId {
        &self.id
    }

    /// The session is not bound to this connection any more, or may not be used. PINGs are for the registry again.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// When the connection answered a PING last.
    pub(crate) fn last(&self) -> Option<SystemTime> {
        let millis = self.last.load(Ordering::Relaxed);
        (millis > 0).then(|| UNIX_EPOCH + Duration::from_millis(millis))
    }

    /// Whether `PONG` is the answer to `command`, which came over the connection at `now`. Everything but a PING for this
    /// session is for the registry. So is a PING behind a command that has no answer yet, for which the caller must not
    /// ask this.
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
        let keepalive = Keepalive::start("one-1-ab".parse().unwrap());
        assert_eq!(keepalive.last(), None);
        let mut now = AT;
        for line in ["PING", "PING|", "PING|one-1-ab"] {
            now += Duration::from_secs(7);
            assert!(keepalive.answers(&command(line), || now), "{line}");
            assert_eq!(keepalive.last(), Some(now), "{line}");
        }
        keepalive.stop();
        assert!(!keepalive.answers(&command("PING|one-1-ab"), || now + Duration::from_secs(1)));
        assert_eq!(keepalive.last(), Some(now), "what was felt is still known");
    }

    #[test]
    fn everything_else_is_for_the_registry() {
        let keepalive = Keepalive::start("one-1-ab".parse().unwrap());
        for line in ["PING|two-2-cd", "SESSION_INFO|one-1-ab", "CONFIG_APPLY|", "RECONNECT|one-1-ab"] {
            assert!(!keepalive.answers(&command(line), || AT), "{line}");
        }
        assert_eq!(keepalive.last(), None);
    }
}
