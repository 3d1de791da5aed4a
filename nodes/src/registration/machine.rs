//! What a registration does next. Pure: it is told of answers, of changes of its key and of the time, and says which
//! question to ask etcd. One question is on its way at a time.
//!
//! The node is a key under a lease. The lease is granted once and renewed at a third of its TTL, so that one that gets
//! no answer ([`renewal_limit`]) is renewed again before half of the TTL is over. The key is put with a transaction that
//! finds another's, is watched while it is ours or another's, and is put again as soon as it is gone.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::error::{Error, Fault};

use super::OnTaken;

/// Time since the registration began.
pub(crate) type Time = Duration;

/// A question to etcd. `version` is the number of the value that is to be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Grant { lease: i64 },
    Renew { lease: i64 },
    Claim { lease: i64, version: u64 },
    Write { lease: i64, created: i64, version: u64 },
    Withdraw { lease: i64, created: Option<i64> },
}

/// What etcd answered to the one question that is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Granted {
        ttl: Duration,
    },
    Renewed,
    /// The key was not there and is now, created at this revision.
    Claimed {
        revision: i64,
    },
    /// The key is there, under that lease.
    Found {
        lease: i64,
        created: i64,
        revision: i64,
    },
    /// The value was replaced.
    Written,
    /// The key is no longer ours, so the value was not replaced.
    NotOurs,
    Withdrawn,
    Failed(Fault),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Answered(Answer),
    /// The watch says that the key was deleted.
    KeyGone,
    /// The watch says that the key was put.
    KeyPut {
        lease: i64,
        created: i64,
    },
    /// What happens to the key is no longer known.
    WatchLost(Fault),
    /// There is another value to put.
    NewValue,
    /// Deregister, and give up at that time.
    Leave {
        until: Time,
    },
}

/// What people see of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The node has never been in etcd yet.
    Registering,
    /// The name is taken by a living node, and its end is waited for.
    Waiting,
    /// The node is in etcd.
    Registered,
    /// The node was in etcd and is gone, or may be; it is put again as soon as that is possible.
    Lost,
    /// Deregistered as asked.
    Deregistered,
    /// It has ended otherwise: the name is taken ([`OnTaken::Refuse`]), or etcd could not be told in time that the
    /// node is gone, so that it goes with its lease.
    Failed(Error),
}

impl State {
    /// Whether nothing follows.
    pub fn is_final(&self) -> bool {
        matches!(self, State::Deregistered | State::Failed(_))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    None,
    /// Asked for; whether it was granted is unknown.
    Asked(i64),
    /// Good until then as far as anybody can tell, and to be renewed at `renew_at`.
    Held {
        lease: i64,
        ttl: Duration,
        until: Time,
        renew_at: Time,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    /// Not there, or nobody knows.
    Unknown,
    /// Created by us at a revision, with the value of that version, if that is known.
    Ours { created: i64, version: Option<u64>, seen: Seen },
    /// Another's.
    Theirs { seen: Seen },
}

/// The revision at which the key was seen and from which on it is watched; `None`: look again.
type Seen = Option<i64>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Goal {
    Stay,
    Leave { until: Time, outcome: State },
    Ended(State),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Machine {
    key_name: String,
    ttl: Duration,
    on_taken: OnTaken,
    lease: Lease,
    key: Key,
    /// Which value is wanted.
    version: u64,
    goal: Goal,
    pending: Option<(Call, Time)>,
    /// Nothing but a renewal is asked for before that time.
    not_before: Time,
    was_registered: bool,
    failures: Backoff,
    /// Losses of the lease or the key since the last renewal. The first is mended at once.
    losses: Backoff,
    ids: fastrand::Rng,
    /// What went wrong, for people; taken by the shell.
    troubles: Vec<Error>,
    last_trouble: Option<Error>,
}

impl Machine {
    pub(crate) fn new(key_name: String, ttl: Duration, on_taken: OnTaken, seed: u64) -> Machine {
        let longest = (ttl / 4).min(Duration::from_secs(10));
        Machine {
            key_name,
            ttl,
            on_taken,
            lease: Lease::None,
            key: Key::Unknown,
            version: 1,
            goal: Goal::Stay,
            pending: None,
            not_before: Duration::ZERO,
            was_registered: false,
            failures: Backoff::new(longest, seed),
            losses: Backoff::new(longest, seed ^ 1),
            ids: fastrand::Rng::with_seed(seed ^ 2),
            troubles: Vec::new(),
            last_trouble: None,
        }
    }

    /// The question to ask now; it counts as asked.
    pub(crate) fn call(&mut self, now: Time) -> Option<Call> {
        if self.pending.is_some() {
            return None;
        }
        let call = match &self.goal {
            Goal::Ended(_) => None,
            Goal::Leave { until, outcome } if now >= *until && self.lease_id().is_some() => {
                let outcome = match outcome {
                    State::Deregistered => {
                        State::Failed(self.last_trouble.clone().unwrap_or(Error::LeaseLost))
                    }
                    outcome => outcome.clone(),
                };
                self.goal = Goal::Ended(outcome);
                None
            }
            Goal::Leave { outcome, .. } => match self.lease_id() {
                None => {
                    self.goal = Goal::Ended(outcome.clone());
                    None
                }
                Some(lease) => {
                    (now >= self.not_before).then_some(Call::Withdraw { lease, created: self.created() })
                }
            },
            Goal::Stay => self.call_to_stay(now),
        };
        self.pending = call.map(|call| (call, now));
        call
    }

    fn call_to_stay(&mut self, now: Time) -> Option<Call> {
        let is_open = now >= self.not_before;
        match self.lease {
            Lease::None if is_open => {
                // Ours alone, because nobody else draws the same of 2^62 numbers.
                let lease = self.ids.i64(1 << 62..i64::MAX);
                self.lease = Lease::Asked(lease);
                Some(Call::Grant { lease })
            }
            Lease::Asked(lease) if is_open => Some(Call::Grant { lease }),
            Lease::Held { lease, renew_at, .. } if now >= renew_at => Some(Call::Renew { lease }),
            Lease::Held { lease, .. } if is_open => match self.key {
                // Claiming what is there already changes nothing, and tells whose it is.
                Key::Unknown | Key::Ours { seen: None, .. } | Key::Theirs { seen: None } => {
                    Some(Call::Claim { lease, version: self.version })
                }
                Key::Ours { created, version, .. } if version != Some(self.version) => {
                    Some(Call::Write { lease, created, version: self.version })
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Takes note of what happened. [`Machine::call`] says what follows.
    pub(crate) fn on(&mut self, event: Event, now: Time) {
        match event {
            Event::Answered(answer) => {
                if let Some((call, asked)) = self.pending.take() {
                    self.answered(call, answer, asked, now);
                }
            }
            Event::KeyGone => match self.key {
                Key::Ours { .. } => self.lost(Error::KeyDeleted, now),
                // What was waited for.
                Key::Theirs { .. } => self.key = Key::Unknown,
                Key::Unknown => {}
            },
            Event::KeyPut { lease, created } => {
                let seen = self.seen();
                self.found(lease, created, seen, now);
            }
            Event::WatchLost(fault) => self.blind(fault, now),
            Event::NewValue => self.version += 1,
            Event::Leave { until } => self.leave(until, State::Deregistered),
        }
        self.was_registered |= matches!(self.key, Key::Ours { .. });
    }

    fn blind(&mut self, fault: Fault, now: Time) {
        match &mut self.key {
            Key::Ours { seen, .. } | Key::Theirs { seen } => *seen = None,
            Key::Unknown => {}
        }
        self.failed(fault, now);
    }

    fn leave(&mut self, until: Time, outcome: State) {
        if matches!(self.goal, Goal::Ended(_)) {
            return;
        }
        // The shell drops the question, and withdrawing needs to know nothing of its outcome.
        self.pending = None;
        self.not_before = Duration::ZERO;
        self.goal = Goal::Leave { until, outcome };
    }

    fn answered(&mut self, call: Call, answer: Answer, asked: Time, now: Time) {
        match (answer, call) {
            (Answer::Granted { ttl }, Call::Grant { lease }) => {
                self.failures.reset();
                self.lease = held(lease, ttl, asked);
            }
            (Answer::Renewed, _) => {
                self.failures.reset();
                self.losses.reset();
                if let Lease::Held { lease, ttl, .. } = self.lease {
                    self.lease = held(lease, ttl, asked);
                }
            }
            (Answer::Claimed { revision }, Call::Claim { version, .. }) => {
                self.failures.reset();
                self.key = Key::Ours { created: revision, version: Some(version), seen: Some(revision) };
            }
            (Answer::Found { lease, created, revision }, _) => {
                self.failures.reset();
                self.found(lease, created, Some(revision), now);
            }
            (Answer::Written, Call::Write { version: put, .. }) => {
                self.failures.reset();
                if let Key::Ours { version, .. } = &mut self.key {
                    *version = Some(put);
                }
            }
            (Answer::NotOurs, _) => self.key = Key::Unknown,
            (Answer::Withdrawn, _) => {
                self.lease = Lease::None;
                self.key = Key::Unknown;
            }
            (Answer::Failed(fault), call) => self.call_failed(call, fault, now),
            _ => {}
        }
    }

    fn call_failed(&mut self, call: Call, fault: Fault, now: Time) {
        match (fault, call) {
            (Fault::LeaseLost, _) => {
                self.lease = Lease::None;
                self.lost(Error::LeaseLost, now);
            }
            // An earlier try granted it; how long it lives, the renewal tells.
            (Fault::LeaseExists, Call::Grant { lease }) => {
                self.lease = Lease::Held { lease, ttl: self.ttl, until: now, renew_at: now };
            }
            (fault, Call::Renew { .. }) => {
                let pause = self.failures.next();
                if let Lease::Held { renew_at, .. } = &mut self.lease {
                    *renew_at = now + pause;
                }
                self.trouble(fault.into_error());
            }
            (fault, _) => self.failed(fault, now),
        }
    }

    fn failed(&mut self, fault: Fault, now: Time) {
        let pause = self.failures.next();
        self.not_before = self.not_before.max(now + pause);
        self.trouble(fault.into_error());
    }

    fn trouble(&mut self, error: Error) {
        self.last_trouble = Some(error.clone());
        self.troubles.push(error);
    }

    /// The node is gone: it is put again at once, and after a pause where that happens over and over.
    fn lost(&mut self, why: Error, now: Time) {
        self.key = Key::Unknown;
        let is_first = self.losses.taken() == 0;
        let pause = self.losses.next();
        if !is_first {
            self.not_before = self.not_before.max(now + pause);
        }
        self.trouble(why);
    }

    /// The key is there, under that lease.
    fn found(&mut self, lease: i64, created: i64, seen: Seen, now: Time) {
        if Some(lease) == self.lease_id() {
            let version = match self.key {
                Key::Ours { version, .. } => version,
                // Which value the put left behind that nobody answered for is unknown: put it again.
                _ => None,
            };
            self.key = Key::Ours { created, version, seen };
            return;
        }
        let is_news = !matches!(self.key, Key::Theirs { .. });
        self.key = Key::Theirs { seen };
        let taken = Error::NameTaken { key: self.key_name.clone(), lease };
        match self.on_taken {
            OnTaken::Wait if is_news => self.trouble(taken),
            OnTaken::Wait => {}
            // The lease was granted for nothing. If it cannot be revoked, it ends by itself.
            OnTaken::Refuse => self.leave(now + self.ttl, State::Failed(taken)),
        }
    }

    /// From which revision on the key is to be watched; `None`: there is nothing to see.
    pub(crate) fn watched_from(&self) -> Option<i64> {
        match (&self.goal, self.key) {
            (Goal::Stay, Key::Ours { .. } | Key::Theirs { .. }) => self.seen().map(|seen| seen + 1),
            _ => None,
        }
    }

    /// When something is to be done or seen that nothing but the time brings about.
    pub(crate) fn due(&self, now: Time) -> Option<Time> {
        let mut times = Vec::new();
        match &self.goal {
            Goal::Ended(_) => return None,
            Goal::Leave { until, .. } => times.extend([*until, self.not_before]),
            Goal::Stay => {
                times.push(self.not_before);
                if let Lease::Held { until, renew_at, .. } = self.lease {
                    times.extend([until, renew_at]);
                }
            }
        }
        times.into_iter().filter(|time| *time > now).min()
    }

    pub(crate) fn state(&self, now: Time) -> State {
        match (&self.goal, self.key, self.lease) {
            (Goal::Ended(outcome), ..) => outcome.clone(),
            (_, Key::Ours { .. }, Lease::Held { until, .. }) if now < until => State::Registered,
            (_, Key::Theirs { .. }, _) => State::Waiting,
            _ if self.was_registered => State::Lost,
            _ => State::Registering,
        }
    }

    /// What went wrong since this was asked last.
    pub(crate) fn take_troubles(&mut self) -> Vec<Error> {
        std::mem::take(&mut self.troubles)
    }

    fn lease_id(&self) -> Option<i64> {
        match self.lease {
            Lease::None => None,
            Lease::Asked(lease) | Lease::Held { lease, .. } => Some(lease),
        }
    }

    fn seen(&self) -> Seen {
        match self.key {
            Key::Ours { seen, .. } | Key::Theirs { seen } => seen,
            Key::Unknown => None,
        }
    }

    fn created(&self) -> Option<i64> {
        match self.key {
            Key::Ours { created, .. } => Some(created),
            _ => None,
        }
    }
}

/// A lease counts from when it was asked for, because nobody knows when etcd heard of it.
fn held(lease: i64, ttl: Duration, asked: Time) -> Lease {
    Lease::Held { lease, ttl, until: asked + ttl, renew_at: asked + ttl / 3 }
}

/// How long an answer to a renewal is waited for.
pub(crate) fn renewal_limit(ttl: Duration) -> Duration {
    (ttl / 8).max(Duration::from_millis(500))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
