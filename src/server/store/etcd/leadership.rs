//! Whether this replica leads. Pure: it says what to ask etcd next, and takes the answers and what the watch shows.
//!
//! The leader has a key that hangs on its lease. A replica stands when nobody has the key. Three rules keep a leader that
//! has stopped, or is cut off, from doing harm:
//!
//! - Commits hold only while the key is ours ([`transaction`](super::transaction)).
//! - A reply or a table needs a proof that the key was ours less than a TTL ago: a linearizable answer of etcd. Answers to
//!   renewals prove nothing, because a member that takes itself for etcd's leader gives them.
//! - The lease is renewed only after the registry has had a turn. A leader whose registry hangs loses its lease.
//!
//! Times are those of a clock that goes on while the machine is suspended. A TTL is the one that etcd granted.

use std::time::Duration;

use registry_nodes::Error;
use registry_nodes::kv::Fault;

use crate::server::registry::Term;

use super::backoff::pause;

/// A moment, as a duration since some beginning.
pub(super) type Time = Duration;

/// A question to etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Grant the lease with this id.
    Grant { lease: i64 },
    /// Put the leader's key under the lease, if it is not there.
    Stand { lease: i64 },
    /// Renew the lease.
    Renew { lease: i64 },
    /// Is the leader's key the one of this term? Linearizably.
    Prove { term: Term },
    /// Delete the leader's key if it is the one of this term, then the lease.
    Resign { lease: i64, term: Option<Term> },
}

/// etcd's answer to a [`Call`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Granted {
        ttl: Duration,
    },
    /// The leader's key hangs on this lease, since this term.
    Leads {
        lease: i64,
        term: Term,
    },
    Renewed,
    Proven(bool),
    Resigned,
    Failed(Fault),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Answered(Reply),
    /// The leader's key as it was at a revision: its term; `None`: there is none.
    Key {
        term: Option<Term>,
        revision: u64,
    },
    /// The registry has had a turn.
    Turned,
    /// A transaction that was sent then held because the leader's key was ours.
    Held {
        sent: Time,
    },
    /// Since when the oldest commit waits; `None`: none does.
    Waiting(Option<Time>),
    /// Whether this replica may stand.
    Standing(Standing),
    /// The server stops: give the leadership up, and never stand again.
    Stop,
}

/// Whether a replica may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It must not: it knows no state, or one that it cannot read.
    No,
    /// Only if no other one does for a TTL, because its settings differ from the others'.
    Last,
    Yes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    None,
    /// Asked for; whether it was granted is unknown.
    Asked(i64),
    Held {
        lease: i64,
        renew_at: Time,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Follows,
    Leads {
        term: Term,
        /// When the last question was asked whose answer proved it.
        proven: Time,
        /// When to prove it again.
        prove_at: Time,
    },
}

/// Why the leadership is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// For a while, so that another replica can have it.
    Aside,
    ForEver,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Leadership {
    ttl: Duration,
    role: Role,
    lease: Lease,
    standing: Standing,
    /// Since when nobody leads; `None`: somebody does, or it is not known.
    vacant_since: Option<Time>,
    leaving: Option<Leaving>,
    has_turned: bool,
    waiting_since: Option<Time>,
    asked: Option<(Call, Time)>,
    /// Nothing is asked before that time.
    not_before: Time,
    /// It does not stand before that time.
    stands_from: Time,
    failures: u32,
    ids: fastrand::Rng,
    trouble: Option<Error>,
}

impl Leadership {
    /// `ttl`: of the leader's lease. `seed`: for the ids of leases.
    pub(super) fn new(ttl: Duration, seed: u64) -> Leadership {
        Leadership {
            ttl,
            role: Role::Follows,
            lease: Lease::None,
            standing: Standing::No,
            vacant_since: None,
            leaving: None,
            has_turned: false,
            waiting_since: None,
            asked: None,
            not_before: Time::ZERO,
            stands_from: Time::ZERO,
            failures: 0,
            ids: fastrand::Rng::with_seed(seed),
            trouble: None,
        }
    }

    /// The term in which this replica leads.
    pub(super) fn term(&self) -> Option<Term> {
        match self.role {
            Role::Leads { term, .. } => Some(term),
            Role::Follows => None,
        }
    }

    /// Until when replies and tables may go out.
    pub(super) fn proven_until(&self) -> Option<Time> {
        match self.role {
            Role::Leads { proven, .. } => Some(proven + self.ttl),
            Role::Follows => None,
        }
    }

    /// Whether nothing follows: the server stops, and nothing is left in etcd that it could withdraw.
    pub(super) fn has_left(&self) -> bool {
        self.leaving == Some(Leaving::ForEver) && self.lease == Lease::None && self.asked.is_none()
    }

    /// Whether the registry is to have a turn, so that the lease can be renewed.
    pub(super) fn wants_turn(&self, now: Time) -> bool {
        matches!(self.lease, Lease::Held { renew_at, .. } if now >= renew_at)
            && self.term().is_some()
            && !self.has_turned
    }

    /// What went wrong since this was asked last.
    pub(super) fn take_trouble(&mut self) -> Option<Error> {
        self.trouble.take()
    }

    /// How long the answer to a question is waited for: etcd's other members are to have their chance before the lease
    /// ends.
    pub(super) fn limit(&self) -> Duration {
        (self.ttl / 4).max(Duration::from_millis(500))
    }

    /// The question to ask now. It counts as asked.
    pub(super) fn call(&mut self, now: Time) -> Option<Call> {
        if self.asked.is_some() {
            return None;
        }
        self.step_aside_if_stuck(now);
        let call = match (self.leaving, self.role) {
            (Some(_), _) => self.call_to_leave(),
            (None, Role::Leads { term, prove_at, .. }) => self.call_to_lead(now, term, prove_at),
            (None, Role::Follows) => self.call_to_stand(now),
        };
        let call = call.filter(|_| now >= self.not_before)?;
        if let Call::Grant { lease } = call {
            self.lease = Lease::Asked(lease);
        }
        self.asked = Some((call, now));
        Some(call)
    }

    fn call_to_leave(&self) -> Option<Call> {
        let lease = self.lease_id()?;
        Some(Call::Resign { lease, term: self.term() })
    }

    fn call_to_lead(&self, now: Time, term: Term, prove_at: Time) -> Option<Call> {
        match self.lease {
            Lease::Held { lease, renew_at } if now >= renew_at && self.has_turned => {
                Some(Call::Renew { lease })
            }
            _ => (now >= prove_at).then_some(Call::Prove { term }),
        }
    }

    fn call_to_stand(&mut self, now: Time) -> Option<Call> {
        if now < self.stands_at()? {
            return None;
        }
        Some(match self.lease {
            // Ours alone, because nobody else draws the same of 2^62 numbers.
            Lease::None => Call::Grant { lease: self.ids.i64(1 << 62..i64::MAX) },
            Lease::Asked(lease) => Call::Grant { lease },
            Lease::Held { lease, renew_at } if now < renew_at => Call::Stand { lease },
            // Too old to lead with.
            Lease::Held { lease, .. } => Call::Resign { lease, term: None },
        })
    }

    /// From when on it may stand; `None`: it may not.
    fn stands_at(&self) -> Option<Time> {
        let since = self.vacant_since?;
        match self.standing {
            Standing::No => None,
            Standing::Yes => Some(self.stands_from),
            Standing::Last => Some(self.stands_from.max(since + self.ttl)),
        }
    }

    /// A leader whose commits wait, while etcd answers it otherwise, lets another replica try.
    fn step_aside_if_stuck(&mut self, now: Time) {
        let is_proven = self.proven_until().is_some_and(|until| now < until);
        let is_stuck = self.waiting_since.is_some_and(|since| now > since + self.ttl);
        if is_stuck && is_proven && self.leaving.is_none() {
            self.leaving = Some(Leaving::Aside);
        }
    }

    /// Takes note of what happened. [`Leadership::call`] says what follows.
    pub(super) fn on(&mut self, event: Event, now: Time) {
        match event {
            Event::Answered(reply) => {
                if let Some((call, sent)) = self.asked.take() {
                    self.answered(call, reply, sent, now);
                }
            }
            Event::Key { term, revision } => self.key(term, revision, now),
            Event::Turned => self.has_turned = true,
            Event::Held { sent } => self.prove(sent),
            Event::Waiting(since) => self.waiting_since = since,
            Event::Standing(standing) => self.standing = standing,
            Event::Stop => {
                self.leaving = Some(Leaving::ForEver);
                self.not_before = now;
            }
        }
    }

    fn key(&mut self, term: Option<Term>, revision: u64, now: Time) {
        match (term, self.vacant_since) {
            (None, None) => self.vacant_since = Some(now),
            (None, Some(_)) => {}
            (Some(_), _) => self.vacant_since = None,
        }
        // What was before our term says nothing about it.
        if self.term().is_some_and(|ours| revision >= ours.0 && term != Some(ours)) {
            self.role = Role::Follows;
        }
    }

    fn answered(&mut self, call: Call, reply: Reply, sent: Time, now: Time) {
        if !matches!(reply, Reply::Failed(_)) {
            self.failures = 0;
        }
        match (reply, call) {
            (Reply::Granted { ttl }, Call::Grant { lease }) => {
                self.ttl = ttl;
                self.lease = self.held(lease, sent);
            }
            (Reply::Leads { lease, term }, _) if Some(lease) == self.lease_id() => {
                self.role = Role::Leads { term, proven: sent, prove_at: sent + self.ttl / 3 };
            }
            (Reply::Leads { .. }, _) => self.vacant_since = None,
            (Reply::Renewed, Call::Renew { lease }) => {
                self.has_turned = false;
                self.lease = self.held(lease, sent);
            }
            (Reply::Proven(true), _) => self.prove(sent),
            (Reply::Proven(false), _) => self.role = Role::Follows,
            (Reply::Resigned, _) => self.resigned(now),
            (Reply::Failed(fault), call) => self.failed(fault, call, now),
            _ => {}
        }
    }

    fn resigned(&mut self, now: Time) {
        self.lease = Lease::None;
        self.role = Role::Follows;
        if self.leaving == Some(Leaving::Aside) {
            self.leaving = None;
            self.waiting_since = None;
            self.stands_from = now + 2 * self.ttl;
        }
    }

    fn failed(&mut self, fault: Fault, call: Call, now: Time) {
        match (&fault, call) {
            (Fault::LeaseLost, _) => {
                // What hung on it is gone with it.
                self.lease = Lease::None;
                self.role = Role::Follows;
            }
            // An earlier try granted it. How old it is, nobody knows.
            (Fault::LeaseExists, Call::Grant { lease }) => {
                self.lease = Lease::Held { lease, renew_at: now };
            }
            _ => {}
        }
        self.not_before = now + pause(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.trouble = Some(fault.error());
    }

    fn prove(&mut self, sent: Time) {
        let ttl = self.ttl;
        if let Role::Leads { proven, prove_at, .. } = &mut self.role {
            *proven = sent.max(*proven);
            *prove_at = *proven + ttl / 3;
        }
    }

    /// A lease counts from when it was asked for, because nobody knows when etcd heard of it.
    fn held(&self, lease: i64, sent: Time) -> Lease {
        Lease::Held { lease, renew_at: sent + self.ttl / 3 }
    }

    fn lease_id(&self) -> Option<i64> {
        match self.lease {
            Lease::None => None,
            Lease::Asked(lease) | Lease::Held { lease, .. } => Some(lease),
        }
    }

    /// When something is to be done that nothing but the time brings about.
    pub(super) fn due(&self, now: Time) -> Option<Time> {
        let renew_at = match self.lease {
            Lease::Held { renew_at, .. } => Some(renew_at),
            _ => None,
        };
        let prove_at = match self.role {
            Role::Leads { prove_at, .. } => Some(prove_at),
            Role::Follows => None,
        };
        let stuck_at = self.waiting_since.filter(|_| prove_at.is_some()).map(|since| since + self.ttl);
        let times = [Some(self.not_before), renew_at, prove_at, self.stands_at(), stuck_at];
        times.into_iter().flatten().filter(|time| *time > now).min()
    }
}
