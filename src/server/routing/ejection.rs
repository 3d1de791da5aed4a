//! Passive ejection: a member that fails request after request is left out for a while
//! (SEMANTICS section 3).

use std::time::Duration;

/// How many connect failures or resets in a row eject a member.
pub const FAILURES_TO_EJECT: u8 = 5;
/// How long the first ejection lasts. Each further one lasts twice as long, up to [`LONGEST_EJECTION`].
pub const FIRST_EJECTION: Duration = Duration::from_secs(1);
/// The longest ejection.
pub const LONGEST_EJECTION: Duration = Duration::from_secs(30);

/// What a request has found out about a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It sent the headers of a response, whatever their status.
    Answered,
    /// It could not be connected to, or it broke the connection.
    Failed,
}

/// The ejection state of a member. It fits 64 bits, so that it changes in one compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ejection {
    /// Failures since the last answer, up to [`FAILURES_TO_EJECT`].
    failures: u8,
    /// Ejections since the last answer.
    rounds: u8,
    /// When the ejection ends, in milliseconds since the caller's epoch; 48 bits. Zero: there is none.
    until: u64,
}

const UNTIL_BITS: u32 = 48;
const UNTIL_MASK: u64 = (1 << UNTIL_BITS) - 1;

impl Ejection {
    /// The state after `outcome` at `now` (time since the caller's epoch).
    ///
    /// One answer clears the state. Failures during an ejection belong to earlier requests and change nothing. The
    /// first failure after it ejects the member again, for longer.
    #[must_use]
    pub fn next(self, outcome: Outcome, now: Duration) -> Self {
        match outcome {
            Outcome::Answered => Ejection::default(),
            Outcome::Failed if self.is_out(now) => self,
            Outcome::Failed if self.failures + 1 < FAILURES_TO_EJECT => {
                Ejection { failures: self.failures + 1, ..self }
            }
            Outcome::Failed => Ejection {
                failures: FAILURES_TO_EJECT - 1,
                rounds: self.rounds.saturating_add(1),
                until: millis(now + duration(self.rounds)),
            },
        }
    }

    /// Whether the member is ejected at `now`.
    pub fn is_out(self, now: Duration) -> bool {
        self.until > millis(now)
    }

    pub(super) fn pack(self) -> u64 {
        (u64::from(self.failures) << (UNTIL_BITS + 8)) | (u64::from(self.rounds) << UNTIL_BITS) | self.until
    }

    pub(super) fn unpack(bits: u64) -> Self {
        let byte = |shift: u32| ((bits >> shift) & 0xff) as u8;
        Ejection { failures: byte(UNTIL_BITS + 8), rounds: byte(UNTIL_BITS), until: bits & UNTIL_MASK }
    }
}

fn duration(rounds: u8) -> Duration {
    FIRST_EJECTION.saturating_mul(1u32.checked_shl(rounds.into()).unwrap_or(u32::MAX)).min(LONGEST_EJECTION)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(UNTIL_MASK).min(UNTIL_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1000);

    fn after(state: Ejection, failures: u8, now: Duration) -> Ejection {
        (0..failures).fold(state, |state, _| state.next(Outcome::Failed, now))
    }

    #[test]
    fn five_failures_in_a_row_eject_a_member_and_four_do_not() {
        assert!(!after(Ejection::default(), 4, START).is_out(START));
        let state = after(Ejection::default(), 5, START);
        assert!(state.is_out(START));
        assert!(state.is_out(START + FIRST_EJECTION - Duration::from_millis(1)));
        assert!(!state.is_out(START + FIRST_EJECTION));
    }

    #[test]
    fn an_answer_clears_the_failures() {
        let state = after(Ejection::default(), 4, START).next(Outcome::Answered, START);
        assert_eq!(state, Ejection::default());
        assert!(!after(state, 4, START).is_out(START));
    }

    #[test]
    fn each_further_ejection_is_longer_up_to_the_longest() {
        let mut now = START;
        let mut state = after(Ejection::default(), 4, now);
        let mut times = Vec::new();
        for _ in 0..300 {
            state = state.next(Outcome::Failed, now);
            let mut out = Duration::ZERO;
            while state.is_out(now + out) {
                out += Duration::from_millis(500);
            }
            times.push(out.as_secs());
            now += out;
        }
        assert_eq!(times[..7], [1, 2, 4, 8, 16, 30, 30]);
        assert!(times[7..].iter().all(|secs| *secs == 30));
    }

    #[test]
    fn failures_of_earlier_requests_do_not_extend_an_ejection() {
        let out = after(Ejection::default(), 5, START);
        assert_eq!(after(out, 20, START + Duration::from_millis(500)), out);
    }

    #[test]
    fn the_packed_form_keeps_everything() {
        let state = after(Ejection::default(), 5, START);
        for state in [Ejection::default(), state, after(state, 1, START * 2)] {
            assert_eq!(Ejection::unpack(state.pack()), state);
        }
        assert_eq!(Ejection::default().pack(), 0);
    }
}
