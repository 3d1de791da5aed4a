//! Whoever gives a wrong secret has to wait before the next try (SEMANTICS section 9).
//!
//! Without this a neighbour tries tens of thousands of tokens a second, and each try is a line in the log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use registry_client::protocol::{Refusal, Reply};

use crate::server::registry::model::{ConnId, Now};

use super::Engine;
use super::queue::Outcome;
use super::timers::Timer;

/// The first pause after a wrong secret. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause. After as long a time without a wrong secret the first pause is the next again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How many addresses are remembered. Wrong secrets from further ones only lose their connections.
const MAX_ADDRESSES: usize = 65_536;

/// The addresses from which wrong secrets came not long ago.
#[derive(Default)]
pub(super) struct AuthBackoff(HashMap<IpAddr, Backoff>);

struct Backoff {
    pause: Duration,
    until: Instant,
    /// How many registrations were refused unseen since the last line in the log.
    refused: u64,
}

impl AuthBackoff {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Engine {
    /// Whether a registration from an address is refused unseen, because of a wrong secret before.
    pub(crate) fn must_wait(&mut self, now: Now, peer: IpAddr) -> bool {
        let Some(backoff) = self.auth_backoff.0.get_mut(&peer).filter(|backoff| now.mono < backoff.until)
        else {
            return false;
        };
        backoff.refused += 1;
        true
    }

    /// A wrong secret came from an address. Returns how many registrations were refused unseen since the last one.
    pub(crate) fn note_wrong_secret(&mut self, now: Now, peer: IpAddr) -> u64 {
        if peer.is_loopback()
            || self.auth_backoff.0.len() >= MAX_ADDRESSES && !self.auth_backoff.0.contains_key(&peer)
        {
            return 0;
        }
        let new = Backoff { pause: FIRST_PAUSE / 2, until: now.mono, refused: 0 };
        let backoff = self.auth_backoff.0.entry(peer).or_insert(new);
        backoff.pause = (backoff.pause * 2).min(LONGEST_PAUSE);
        backoff.until = now.mono + backoff.pause;
        self.timers.set(Timer::AuthBackoff(peer), backoff.until + LONGEST_PAUSE);
        std::mem::take(&mut backoff.refused)
    }

    /// There was no wrong secret from an address for long enough.
    pub(super) fn forget_wrong_secrets(&mut self, peer: IpAddr) {
        self.auth_backoff.0.remove(&peer);
    }

    /// Refuses a registration for its secret, and closes its connection unless that has a session.
    pub(crate) fn refuse_secret(&mut self, now: Now, conn: ConnId, refusal: Refusal) -> Outcome {
        if self.connections.bound(conn).is_some() {
            return Err(refusal).into();
        }
        self.send(conn, Reply::Error(refusal));
        self.close(now, conn);
        Outcome::Done
    }
}
