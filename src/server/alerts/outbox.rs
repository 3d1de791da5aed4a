//! What one receiver has not been told yet, folded, and when it is tried again (pure).

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

/// How long alerts are collected before a message is sent.
const FOLD: Duration = Duration::from_secs(2);
/// How many alerts are kept; of further ones only the number.
const MAX_ALERTS: usize = 100;
/// The pause after the first failure. Each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A receiver may ask for a longer pause, up to this.
const MOST_ASKED: Duration = Duration::from_secs(3600);

/// What an alert is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Store,
    Service(String),
    Certificate(String),
}

/// Something that begins, or ends, or has done both since it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alert {
    pub(super) subject: Subject,
    pub(super) text: String,
    /// When it began, unless that was told before.
    pub(super) began: Option<SystemTime>,
    /// When it ended, if it has.
    pub(super) ended: Option<SystemTime>,
}

/// Alerts that are told together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) alerts: BTreeMap<Subject, Alert>,
    /// How many more there were.
    pub(super) more: u64,
}

/// What a receiver has not been told.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Batch,
    due: Option<Instant>,
    failures: u32,
    is_sending: bool,
}

impl Alert {
    pub(super) fn begins(subject: Subject, text: String, at: SystemTime) -> Self {
        Alert { subject, text, began: Some(at), ended: None }
    }

    pub(super) fn ends(subject: Subject, text: String, at: SystemTime) -> Self {
        Alert { subject, text, began: None, ended: Some(at) }
    }
}

impl Batch {
    /// Adds a newer alert. One about the same subject is folded with it.
    fn add(&mut self, newer: Alert) {
        if let Some(older) = self.alerts.get_mut(&newer.subject) {
            // It began when the older says, unless that had ended and it began anew.
            let began = older.began.or(newer.began);
            *older = Alert { began, ..newer };
        } else if self.alerts.len() < MAX_ALERTS {
            self.alerts.insert(newer.subject.clone(), newer);
        } else {
            self.more += 1;
        }
    }
}

impl Outbox {
    pub(super) fn add(&mut self, now: Instant, alert: Alert) {
        self.waiting.add(alert);
        if !self.is_sending {
            self.due.get_or_insert(now + FOLD);
        }
    }

    /// When the next message is due. `None`: there is nothing to tell, or a message is on its way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes the message that is due. [`Outbox::sent`] or [`Outbox::failed`] says what became of it.
    pub(super) fn take(&mut self) -> Batch {
        self.due = None;
        self.is_sending = true;
        std::mem::take(&mut self.waiting)
    }

    /// The receiver took it.
    pub(super) fn sent(&mut self, now: Instant) {
        self.failures = 0;
        self.is_sending = false;
        if self.waiting != Batch::default() {
            self.due = Some(now + FOLD);
        }
    }

    /// The receiver did not take it, and may have asked for a pause. Returns the pause.
    pub(super) fn failed(&mut self, now: Instant, batch: Batch, asked: Option<Duration>) -> Duration {
        let newer = std::mem::replace(&mut self.waiting, batch);
        newer.alerts.into_values().for_each(|alert| self.waiting.add(alert));
        self.waiting.more += newer.more;
        let grown = FIRST_PAUSE.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        let pause = grown.min(LONGEST_PAUSE).max(asked.unwrap_or_default().min(MOST_ASKED));
        self.failures = self.failures.saturating_add(1).min(30);
        self.is_sending = false;
        self.due = Some(now + pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> Subject {
        Subject::Service(name.to_owned())
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_comes_within_two_seconds_is_one_message() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.add(now, Alert::begins(service("a"), "a is lost".to_owned(), at(1)));
        outbox.add(now + FOLD / 2, Alert::begins(service("b"), "b is lost".to_owned(), at(2)));
        assert_eq!(outbox.due(), Some(now + FOLD));
        assert_eq!(outbox.take().alerts.len(), 2);
        assert_eq!(outbox.due(), None, "one message at a time");
        outbox.add(now, Alert::begins(service("c"), "c is lost".to_owned(), at(3)));
        assert_eq!(outbox.due(), None);
        outbox.sent(now + FOLD);
        assert_eq!(outbox.due(), Some(now + FOLD * 2));
    }

    #[test]
    fn what_a_receiver_did_not_take_is_folded_with_what_came_after() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.add(now, Alert::begins(service("a"), "a is lost".to_owned(), at(1)));
        let batch = outbox.take();
        outbox.add(now, Alert::ends(service("a"), "a is back".to_owned(), at(9)));
        outbox.failed(now, batch, None);
        let batch = outbox.take();
        let alert = &batch.alerts[&service("a")];
        assert_eq!((alert.began, alert.ended, alert.text.as_str()), (Some(at(1)), Some(at(9)), "a is back"));
    }

    #[test]
    fn pauses_grow_up_to_five_minutes_and_a_receiver_may_ask_for_more() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.add(now, Alert::begins(service("a"), String::new(), at(1)));
        let mut fail = |asked: Option<u64>| {
            let batch = outbox.take();
            let pause = outbox.failed(now, batch, asked.map(Duration::from_secs));
            assert_eq!(outbox.due(), Some(now + pause));
            pause.as_secs()
        };
        let pauses: Vec<u64> = (0..12).map(|_| fail(None)).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!((fail(Some(900)), fail(Some(1)), fail(Some(1_000_000))), (900, 300, 3600));
    }

    #[test]
    fn it_stays_bounded_however_long_a_receiver_is_away() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        for number in 0..10 * MAX_ALERTS {
            outbox.add(now, Alert::begins(service(&number.to_string()), String::new(), at(1)));
            let batch = outbox.take();
            outbox.failed(now, batch, None);
        }
        let batch = outbox.take();
        assert_eq!((batch.alerts.len(), batch.more), (MAX_ALERTS, 9 * MAX_ALERTS as u64));
    }
}
