//! Outage: a member that cannot be connected to gets no requests until a connection succeeds (SEMANTICS section 6).

use std::time::Duration;

/// Whether a member can be connected to, and since when it has not answered. It fits 64 bits, so that it changes in one
/// compare-and-swap.
///
/// A connection ends the outage, but only an answer forgets when it began: a port that accepts and refuses in turn begins
/// no new hold each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outage {
    /// The first failure since the last answer, in milliseconds since the caller's epoch.
    since: Option<u64>,
    is_unreachable: bool,
}

impl Outage {
    /// The state after a failure to connect at `now` (time since the caller's epoch).
    #[must_use]
    pub fn failed(self, now: Duration) -> Self {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).min(MAX_SINCE);
        Outage { since: Some(self.since.unwrap_or(now)), is_unreachable: true }
    }

    /// The state after a connection was made.
    #[must_use]
    pub fn reached(self) -> Self {
        Outage { is_unreachable: false, ..self }
    }

    /// The state after an answer. During an outage it belongs to an earlier connection and changes nothing.
    #[must_use]
    pub fn answered(self) -> Self {
        if self.is_unreachable { self } else { Outage::default() }
    }

    /// Whether the member cannot be connected to.
    pub fn is_unreachable(self) -> bool {
        self.is_unreachable
    }

    /// The first failure since the last answer, if the member cannot be connected to.
    pub fn unreachable_since(self) -> Option<Duration> {
        self.since.filter(|_| self.is_unreachable).map(Duration::from_millis)
    }

    pub(super) fn pack(self) -> u64 {
        self.since.map_or(0, |since| ((since + 1) << 1) | u64::from(self.is_unreachable))
    }

    pub(super) fn unpack(bits: u64) -> Self {
        Outage { since: (bits >> 1).checked_sub(1), is_unreachable: bits & 1 == 1 }
    }
}

const MAX_SINCE: u64 = (1 << 48) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_outage_begins_with_the_first_failure_since_the_last_answer() {
        let outage = Outage::default().failed(SECOND).failed(SECOND * 2);
        assert_eq!(outage.unreachable_since(), Some(SECOND));
        let reached = outage.reached();
        assert_eq!(reached.unreachable_since(), None);
        assert_eq!(reached.failed(SECOND * 3).unreachable_since(), Some(SECOND), "it has not answered");
        assert_eq!(reached.answered().failed(SECOND * 3).unreachable_since(), Some(SECOND * 3));
    }

    #[test]
    fn an_answer_on_an_earlier_connection_does_not_end_an_outage() {
        let outage = Outage::default().failed(Duration::ZERO);
        assert_eq!(outage.answered(), outage);
    }

    #[test]
    fn the_packed_form_keeps_everything() {
        let outage = Outage::default().failed(Duration::ZERO);
        for state in [Outage::default(), outage, outage.reached(), Outage::default().failed(SECOND * 99)] {
            assert_eq!(Outage::unpack(state.pack()), state);
        }
        assert_eq!(Outage::default().pack(), 0);
    }
}
