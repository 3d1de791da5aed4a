//! Which certificate to order when: renewals, pauses after failures, the weekly budget, one order at a time.
//!
//! Pure: the caller says what time it is, carries out what [`Plan::next`] asks for, and tells how that went.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

/// The pause after the first failure of one host, before the other challenge is tried.
pub const SHORT_PAUSE: Duration = Duration::from_secs(5);
/// The pause after the second one; it doubles with each further failure.
pub const FIRST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// The longest pause of a host, unless the authority asks for more.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);
/// The first pause after a failure of the authority itself; it doubles too.
pub const FIRST_REST: Duration = Duration::from_secs(60);
/// The longest pause of that kind, unless the authority asks for more.
pub const LONGEST_REST: Duration = Duration::from_secs(60 * 60);
/// The longest pause that an authority may ask for.
pub const LONGEST_ASKED: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How many new certificates the names below one domain may get in a week. Renewals do not count.
pub const WEEKLY_BUDGET: usize = 50;
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How soon the wall clock is looked at again at the latest, because it may jump.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// One moment on both clocks: pauses are measured on the one that never jumps, validity on the other.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The clock that never jumps.
    pub steady: Instant,
    /// The clock that certificates go by.
    pub wall: SystemTime,
}

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The beginning.
    pub begins: SystemTime,
    /// The end.
    pub ends: SystemTime,
}

impl Validity {
    /// After two thirds of its life.
    fn renewal(self) -> SystemTime {
        let life = self.ends.duration_since(self.begins).unwrap_or_default();
        self.begins + life / 3 * 2
    }
}

/// How the authority is to convince itself that the host leads here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// By a request on port 80.
    Http01,
    /// By a handshake on port 443.
    TlsAlpn01,
}

impl Challenge {
    /// The other one.
    pub fn other(self) -> Challenge {
        match self {
            Challenge::Http01 => Challenge::TlsAlpn01,
            Challenge::TlsAlpn01 => Challenge::Http01,
        }
    }
}

/// Whom a failure concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The host alone, for example because its name leads elsewhere.
    Host,
    /// The authority: it cannot be reached, is in trouble, or takes no more orders. The host is not to blame.
    Authority,
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whom it concerns.
    pub scope: Scope,
    /// The reason, for people.
    pub reason: String,
    /// How long the authority asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Order a certificate, and tell [`Plan::finished`] what came of it. Until then there is no other order.
    Order(Order),
    /// Ask again after this long, or when something has changed.
    Wait(Duration),
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The host.
    pub host: String,
    /// The challenge to prefer, where the authority offers both.
    pub challenge: Challenge,
}

/// How a host stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReport {
    /// The host.
    pub host: String,
    /// Its certificate, if it has one.
    pub validity: Option<Validity>,
    /// Whether an order for it is in progress.
    pub is_ordering: bool,
    /// How many orders have failed since the last that did not.
    pub failures: u32,
    /// Why the last one failed.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
struct Host {
    is_wanted: bool,
    validity: Option<Validity>,
    failures: u32,
    pause_until: Option<Instant>,
    error: Option<String>,
}

impl Host {
    /// When it is to have another certificate than it has; `None`: at once.
    fn due(&self) -> Option<SystemTime> {
        self.validity.map(Validity::renewal)
    }
}

/// All hosts, and the order in progress.
#[derive(Debug, Default)]
pub struct Plan {
    hosts: BTreeMap<String, Host>,
    ordering: Option<Order>,
    /// When hosts got their first certificate, by the domain that the budget is for.
    issued: BTreeMap<String, Vec<SystemTime>>,
    authority_failures: u32,
    rest_until: Option<Instant>,
}

impl Plan {
    /// Takes over a certificate that was kept from before. It counts in the budget of its week.
    pub fn restore(&mut self, host: &str, validity: Validity) {
        self.hosts.entry(host.to_owned()).or_default().validity = Some(validity);
        self.issued.entry(budget_of(host)).or_default().push(validity.begins);
    }

    /// Says which hosts are to have a certificate. What others have is kept, and not renewed.
    pub fn want(&mut self, wanted: impl IntoIterator<Item = String>) {
        self.hosts.values_mut().for_each(|host| host.is_wanted = false);
        for host in wanted {
            self.hosts.entry(host).or_default().is_wanted = true;
        }
        // A host that comes back soon finds its pause still there, or services could order without end.
        self.hosts.retain(|_, host| host.is_wanted || host.validity.is_some() || host.pause_until.is_some());
    }

    /// What to do now. After [`Step::Order`] the caller owes a call of [`Plan::finished`].
    pub fn next(&mut self, now: Now) -> Step {
        self.forget_old(now);
        if self.ordering.is_some() {
            return Step::Wait(LONGEST_WAIT);
        }
        if let Some(until) = self.rest_until.filter(|until| *until > now.steady) {
            return Step::Wait((until - now.steady).min(LONGEST_WAIT));
        }
        let ready = self.hosts.iter().filter(|(name, host)| self.may_order(name, host, now));
        // None sorts first: who has no certificate goes before renewals.
        let Some((name, host)) = ready.min_by_key(|(_, host)| host.due()) else {
            return Step::Wait(self.wait(now));
        };
        let challenge = if host.failures % 2 == 0 { Challenge::Http01 } else { Challenge::TlsAlpn01 };
        let order = Order { host: name.clone(), challenge };
        self.ordering = Some(order.clone());
        Step::Order(order)
    }

    fn may_order(&self, name: &str, host: &Host, now: Now) -> bool {
        host.is_wanted
            && host.due().is_none_or(|due| due <= now.wall)
            && host.pause_until.is_none_or(|until| until <= now.steady)
            && (host.validity.is_some() || !self.is_exhausted(name, now))
    }

    fn is_exhausted(&self, host: &str, now: Now) -> bool {
        let is_recent = |at: &&SystemTime| now.wall.duration_since(**at).is_ok_and(|age| age < WEEK);
        let issued = self.issued.get(&budget_of(host));
        issued.is_some_and(|issued| issued.iter().filter(is_recent).count() >= WEEKLY_BUDGET)
    }

    fn wait(&self, now: Now) -> Duration {
        let pauses = self.hosts.values().filter(|host| host.is_wanted).filter_map(|host| host.pause_until);
        let next = pauses.filter(|until| *until > now.steady).map(|until| until - now.steady).min();
        next.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)
    }

    /// Says what came of the order in progress.
    pub fn finished(&mut self, result: Result<Validity, Failure>, now: Now) {
        let Some(Order { host: name, .. }) = self.ordering.take() else { return };
        let host = self.hosts.entry(name.clone()).or_default();
        match result {
            Ok(validity) => {
                if host.validity.replace(validity).is_none() {
                    self.issued.entry(budget_of(&name)).or_default().push(now.wall);
                }
                (host.failures, host.error, host.pause_until) = (0, None, None);
                (self.authority_failures, self.rest_until) = (0, None);
                // An authority whose certificates need renewal at once would be asked without end.
                if validity.renewal() <= now.wall {
                    host.pause_until = now.steady.checked_add(FIRST_PAUSE);
                }
            }
            Err(failure) => {
                host.error = Some(failure.reason);
                let asked = failure.retry_after.unwrap_or_default().min(LONGEST_ASKED);
                match failure.scope {
                    Scope::Host => {
                        host.failures += 1;
                        let pause = match host.failures {
                            1 => SHORT_PAUSE,
                            more => doubled(FIRST_PAUSE, more - 1, LONGEST_PAUSE),
                        };
                        host.pause_until = now.steady.checked_add(pause.max(asked));
                        (self.authority_failures, self.rest_until) = (0, None);
                    }
                    Scope::Authority => {
                        self.authority_failures += 1;
                        let rest = doubled(FIRST_REST, self.authority_failures, LONGEST_REST).max(asked);
                        self.rest_until = now.steady.checked_add(rest);
                    }
                }
            }
        }
    }

    /// How long until the host of the last failure may be tried again, for the log.
    pub fn pause_of(&self, host: &str, now: Now) -> Duration {
        let own = self.hosts.get(host).and_then(|host| host.pause_until);
        let until = own.max(self.rest_until);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now.steady))
    }

    /// All hosts that are wanted or have a certificate.
    pub fn report(&self) -> Vec<HostReport> {
        let report = |(name, host): (&String, &Host)| HostReport {
            host: name.clone(),
            validity: host.validity,
            is_ordering: self.ordering.as_ref().is_some_and(|order| order.host == *name),
            failures: host.failures,
            error: host.error.clone(),
        };
        self.hosts.iter().filter(|(_, host)| host.is_wanted || host.validity.is_some()).map(report).collect()
    }

    /// Keeps what may grow small: pauses that are over, and certificates that no budget counts any more.
    fn forget_old(&mut self, now: Now) {
        for issued in self.issued.values_mut() {
            issued.retain(|at| now.wall.duration_since(*at).is_ok_and(|age| age < WEEK));
        }
        self.issued.retain(|_, issued| !issued.is_empty());
        self.hosts.retain(|_, host| {
            host.is_wanted
                || host.validity.is_some()
                || host.pause_until.is_some_and(|until| until > now.steady)
        });
    }
}

fn doubled(first: Duration, failures: u32, longest: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(longest)
}

/// The last two labels. Authorities count by the domain that somebody has registered, which may be longer
/// (`example.co.uk`): then several share a budget, which is too careful and never too bold.
fn budget_of(host: &str) -> String {
    let mut dots = host.rmatch_indices('.').map(|(at, _)| at + 1);
    let begin = dots.nth(1).unwrap_or(0);
    host[begin..].to_owned()
}
