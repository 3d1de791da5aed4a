//! What was done to each claim and what every server served, and whether one order of it all can be true. Pure.
//!
//! A claim is a register: an apply writes a backend's name, a shutdown writes nothing. Each service does one thing after
//! another. What a server served at a moment has to be what some order of the writes allows at that moment or shortly
//! before (a follower hears of a write when it has been answered already).

use std::time::Duration;

/// When something was asked, and when it was answered, counted from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub asked: Duration,
    /// `None`: there was no answer, so it may be done at any time from then on, or never.
    pub answered: Option<Duration>,
}

/// What a service did to its claim, unless it was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub span: Span,
    pub service: String,
    /// What is served then; `None`: nothing, the claim is free.
    pub value: Option<String>,
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub asked: Duration,
    pub answered: Duration,
    pub server: usize,
    pub value: Option<String>,
}

/// What happened to one claim.
#[derive(Debug, Default)]
pub struct History {
    pub writes: Vec<Write>,
    pub reads: Vec<Read>,
}

impl History {
    /// What is wrong with it, if anything is. A write is served by all servers at most `bound` after its answer.
    pub fn check(&self, bound: Duration) -> Result<(), String> {
        self.one_owner_at_a_time()?;
        for read in &self.reads {
            if !self.may_serve(read, bound) {
                return Err(format!("{read:?} is explained by none of {:#?}", self.writes));
            }
        }
        Ok(())
    }

    /// Whether a value may have been in force from `bound` before the read began until it ended: some write of it began
    /// before that end, and no other one that came after it for certain was answered before that beginning.
    fn may_serve(&self, read: &Read, bound: Duration) -> bool {
        let from = read.asked.saturating_sub(bound);
        let is_over = |write: Option<&Write>| {
            self.writes.iter().any(|later| {
                let follows = write.is_none_or(|write| {
                    write.span.answered.is_some_and(|answered| answered <= later.span.asked)
                });
                follows
                    && later.value != read.value
                    && later.span.answered.is_some_and(|answered| answered < from)
            })
        };
        let was_free = read.value.is_none() && !is_over(None);
        let mut same = self.writes.iter().filter(|write| write.value == read.value);
        was_free || same.any(|write| write.span.asked <= read.answered && !is_over(Some(write)))
    }

    /// Between the answer to a service's apply and the next thing that it asks the claim is its own, so no apply of
    /// another one that lies in between as a whole was answered with OK.
    fn one_owner_at_a_time(&self) -> Result<(), String> {
        for (at, write) in self.writes.iter().enumerate() {
            let (Some(_), Some(from)) = (&write.value, write.span.answered) else { continue };
            let next = self.writes[at + 1..].iter().find(|next| next.service == write.service);
            let until = next.map_or(Duration::MAX, |next| next.span.asked);
            let intruder = self.writes.iter().find(|other| {
                other.service != write.service
                    && other.value.is_some()
                    && other.span.asked >= from
                    && other.span.answered.is_some_and(|answered| answered <= until)
            });
            if let Some(intruder) = intruder {
                return Err(format!("{intruder:?} took what belonged to another service by {write:?}"));
            }
        }
        Ok(())
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn write(service: &str, value: Option<&str>, asked: u64, answered: Option<u64>) -> Write {
    let span = Span { asked: seconds(asked), answered: answered.map(seconds) };
    Write { span, service: service.to_owned(), value: value.map(str::to_owned) }
}

fn read(value: Option<&str>, at: u64) -> Read {
    Read { asked: seconds(at), answered: seconds(at), server: 0, value: value.map(str::to_owned) }
}

fn is_true(writes: &[Write], reads: &[Read]) -> bool {
    History { writes: writes.to_vec(), reads: reads.to_vec() }.check(seconds(2)).is_ok()
}

#[test]
fn what_was_acknowledged_is_served_and_what_it_replaced_is_not() {
    let writes = [write("red", Some("r1"), 10, Some(11)), write("red", Some("r2"), 20, Some(21))];
    assert!(is_true(&writes, &[read(None, 5), read(Some("r1"), 12), read(Some("r2"), 22)]));
    assert!(is_true(&writes, &[read(Some("r1"), 22)]), "a follower may be a little behind");
    assert!(!is_true(&writes, &[read(Some("r1"), 30)]), "and not for long");
    assert!(!is_true(&writes, &[read(None, 15)]), "an acknowledged write is lost");
    assert!(!is_true(&writes, &[read(Some("r2"), 15)]), "a write that nobody has asked for yet");
    assert!(!is_true(&writes, &[read(Some("r3"), 15)]));
}

#[test]
fn what_was_not_answered_may_have_happened_or_not() {
    let writes = [write("red", Some("r1"), 10, Some(11)), write("red", Some("r2"), 20, None)];
    assert!(is_true(&writes, &[read(Some("r1"), 60), read(Some("r2"), 61)]));
    assert!(!is_true(&writes, &[read(None, 60)]));
}

#[test]
fn nobody_gets_what_belongs_to_another() {
    let mine = write("red", Some("r1"), 10, Some(11));
    let other = write("blue", Some("b1"), 20, Some(21));
    assert!(!is_true(&[mine.clone(), other.clone()], &[]));
    let left = write("red", None, 15, Some(16));
    assert!(is_true(&[mine.clone(), left, other.clone()], &[read(Some("b1"), 25)]));
    let is_leaving = write("red", None, 19, None);
    assert!(is_true(&[mine, is_leaving, other], &[]));
}
