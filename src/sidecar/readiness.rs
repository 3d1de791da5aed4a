//! Whether the application is ready: asked often while it starts, told in the log while it is waited for.
//!
//! [`Gate`] counts and decides when to ask again and what to say; [`wait_until_ready`] and [`watch`] ask, each
//! kind of check in its own way (`probe`, `exec`, `fastcgi`, `https`). None of them knows what readiness is used for.

mod exec;
mod fastcgi;
#[cfg(feature = "server")]
mod https;
mod probe;

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::config::{ReadinessConfig, ReadyCheck};

pub use exec::Shell;

/// The shortest pause between two tries at an address. A refused connection costs some 30 µs.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// The shortest where each try asks a name server or starts a process.
const SHORTEST_PAUSE_IF_COSTLY: Duration = Duration::from_millis(100);
/// A try is due when the wait has grown by this part of itself: a hundredth of it is lost at most, and a
/// wait of any length takes few tries.
const PAUSE_PART: u32 = 100;
/// The first reminder that we are still waiting; each further one comes after twice the time.
const FIRST_REMINDER: Duration = Duration::from_secs(5);
/// But after no more than this.
const LONGEST_REMINDER: Duration = Duration::from_secs(300);

/// An application that is lost this often within this time comes and goes: it is believed to be back only
/// when it has been ready for longer each time.
const FLAP_WINDOW: Duration = Duration::from_secs(600);
const MAX_LOSSES: usize = 16;
/// But no longer than this.
const LONGEST_STEADY: Duration = Duration::from_secs(60);

/// How a [`Gate`] counts and how fast it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The shortest pause between two tries while waiting.
    pub shortest: Duration,
    /// The longest while waiting, and every pause while ready.
    pub interval: Duration,
    /// So many tries in a row must pass to open it.
    pub rise: u32,
    /// So many must fail in a row to shut it.
    pub fall: u32,
    /// Waiting longer than this is worth a warning.
    pub overdue: Duration,
}

/// Ready or not: opens after enough tries that passed, shuts after enough that failed. Starts shut.
#[derive(Debug, Clone)]
pub struct Gate {
    pace: Pace,
    open: bool,
    /// Tries in a row that spoke against the present state.
    against: u32,
    /// Since when it is as it is.
    since: Instant,
    next_reminder: Duration,
    overdue_told: bool,
    /// When it was shut lately; at most [`MAX_LOSSES`].
    losses: VecDeque<Instant>,
    /// Since when every try has passed, while it is shut.
    passing: Option<Instant>,
}

/// What follows from a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// After this pause it is time for the next.
    pub pause: Duration,
    /// What people should know.
    pub notice: Option<Notice>,
}

/// What people should know about a gate. The durations say how long the state before has lasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// It has opened.
    Ready(Duration),
    /// It has shut.
    Lost(Duration),
    /// It has shut, not for the first time lately.
    Flapping {
        /// How long it was open.
        lasted: Duration,
        /// How often it has shut lately.
        losses: usize,
        /// How long every try must pass before it opens again.
        steady: Duration,
    },
    /// It is still shut.
    Waiting(Duration),
    /// It is still shut, longer than anybody meant it to be.
    Overdue(Duration),
}

impl Gate {
    /// A gate that is shut, and has been since `now`.
    pub fn new(pace: Pace, now: Instant) -> Self {
        let next_reminder = FIRST_REMINDER;
        Gate {
            pace,
            open: false,
            against: 0,
            since: now,
            next_reminder,
            overdue_told: false,
            losses: VecDeque::new(),
            passing: None,
        }
    }

    /// A gate that has just opened.
    pub fn opened(pace: Pace, now: Instant) -> Self {
        Gate { open: true, ..Gate::new(pace, now) }
    }

    /// Whether it is open.
    pub fn is_ready(&self) -> bool {
        self.open
    }

    /// Counts a try that ended at `now`.
    pub fn on_try(&mut self, passed: bool, now: Instant) -> Step {
        let lasted = now.saturating_duration_since(self.since);
        self.against = if passed == self.open { 0 } else { self.against + 1 };
        let enough = if self.open { self.pace.fall } else { self.pace.rise };
        self.passing = if passed && !self.open { self.passing.or(Some(now)) } else { None };
        let notice = if self.against >= enough.max(1) && (self.open || self.is_steady(now)) {
            Some(self.turn(lasted, now))
        } else if self.open {
            None
        } else {
            self.reminder(lasted)
        };
        Step { pause: self.pause(now), notice }
    }

    fn turn(&mut self, lasted: Duration, now: Instant) -> Notice {
        let losses = std::mem::take(&mut self.losses);
        *self = Gate { open: !self.open, losses, ..Gate::new(self.pace, now) };
        if self.open {
            return Notice::Ready(lasted);
        }
        self.losses.retain(|loss| now.saturating_duration_since(*loss) < FLAP_WINDOW);
        if self.losses.len() >= MAX_LOSSES {
            self.losses.pop_front();
        }
        self.losses.push_back(now);
        match self.losses.len() {
            1 => Notice::Lost(lasted),
            losses => Notice::Flapping { lasted, losses, steady: self.steady() },
        }
    }

    /// How long every try must pass before it opens: nothing the first time, an interval the second, and twice
    /// as long each further time.
    fn steady(&self) -> Duration {
        match u32::try_from(self.losses.len()).unwrap_or(u32::MAX) {
            0 | 1 => Duration::ZERO,
            losses => self.pace.interval.saturating_mul(1 << (losses - 2).min(16)).min(LONGEST_STEADY),
        }
    }

    fn is_steady(&self, now: Instant) -> bool {
        self.passing.is_some_and(|since| now.saturating_duration_since(since) >= self.steady())
    }

    fn pause(&self, now: Instant) -> Duration {
        if self.open {
            return self.pace.interval;
        }
        let waited = now.saturating_duration_since(self.since);
        (waited / PAUSE_PART).max(self.pace.shortest).min(self.pace.interval)
    }

    fn reminder(&mut self, waited: Duration) -> Option<Notice> {
        let newly_overdue = waited >= self.pace.overdue && !self.overdue_told;
        if !newly_overdue && waited < self.next_reminder {
            return None;
        }
        self.overdue_told |= newly_overdue;
        self.next_reminder = waited + waited.clamp(FIRST_REMINDER, LONGEST_REMINDER);
        Some(if self.overdue_told { Notice::Overdue(waited) } else { Notice::Waiting(waited) })
    }
}

/// Returns when every check has passed in one try, so many times in a row as configured; at once without
/// WAIT_FOR_PORT. It waits for ever if need be, and says so.
///
/// Cancel-safe: what was counted is lost, nothing else.
pub async fn wait_until_ready(config: &ReadinessConfig, shell: Option<&Shell>) {
    if !config.wait {
        return;
    }
    info!("waiting for {} to answer", Checks(&config.checks));
    until_open(pace(config), || try_all(&config.checks, config.timeout.get(), shell)).await;
}

/// Asks for as long as it lives, beginning with an application that is ready, and tells `changed` each time it
/// is no longer or is again (READY_RISE, READY_FALL). Without WAIT_FOR_PORT it never asks.
///
/// Cancel-safe: what was counted is lost, nothing else.
pub async fn watch(config: &ReadinessConfig, shell: Option<&Shell>, mut changed: impl FnMut(bool)) {
    if !config.wait {
        return std::future::pending().await;
    }
    let pace = pace(config);
    let mut gate = Gate::opened(pace, now());
    let mut pause = pace.interval;
    loop {
        tokio::time::sleep(pause).await;
        let was_ready = gate.is_ready();
        let outcome = try_all(&config.checks, config.timeout.get(), shell).await;
        let step = gate.on_try(outcome.is_ok(), now());
        tell(step.notice, outcome.err().as_deref().unwrap_or("it passes now"));
        if gate.is_ready() != was_ready {
            changed(gate.is_ready());
        }
        pause = step.pause;
    }
}

/// The pace at which `config` has us ask.
pub fn pace(config: &ReadinessConfig) -> Pace {
    let costly = config.checks.iter().any(ReadyCheck::is_costly);
    Pace {
        shortest: if costly { SHORTEST_PAUSE_IF_COSTLY } else { SHORTEST_PAUSE },
        interval: config.interval.get(),
        rise: config.rise,
        fall: config.fall,
        overdue: config.overdue.get(),
    }
}

async fn until_open<F>(pace: Pace, mut attempt: impl FnMut() -> F)
where
    F: Future<Output = Result<(), String>>,
{
    let mut gate = Gate::new(pace, now());
    loop {
        let outcome = attempt().await;
        let step = gate.on_try(outcome.is_ok(), now());
        tell(step.notice, outcome.err().as_deref().unwrap_or("it passes now"));
        if gate.is_ready() {
            return;
        }
        tokio::time::sleep(step.pause).await;
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn tell(notice: Option<Notice>, state: &str) {
    match notice {
        None => {}
        Some(Notice::Ready(waited)) => info!("the application is ready, after {waited:.0?}"),
        Some(Notice::Lost(lasted)) => {
            warn!("the application is not ready any more, after {lasted:.0?}: {state}")
        }
        Some(Notice::Flapping { lasted, losses, steady }) => warn!(
            "the application is not ready any more, after {lasted:.0?}, {losses} times within {FLAP_WINDOW:.0?} by \
             now: {state}; its routes come back when it has been ready for {steady:.0?}"
        ),
        Some(Notice::Waiting(waited)) => {
            info!("still waiting for the application, for {waited:.0?}: {state}")
        }
        Some(Notice::Overdue(waited)) => warn!(
            "the application is not ready after {waited:.0?}: {state}; its routes wait until it is. Does it listen on that address, and is PORT its port?"
        ),
    }
}

/// One try of all checks, in their order, up to the first that fails.
///
/// # Errors
/// Says which failed and why.
pub async fn try_all(checks: &[ReadyCheck], limit: Duration, shell: Option<&Shell>) -> Result<(), String> {
    for check in checks {
        match tokio::time::timeout(limit, probe::probe(check, shell)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return Err(format!("{check}: {why}")),
            Err(_) => return Err(format!("{check}: no answer within {limit:?}")),
        }
    }
    Ok(())
}

struct Checks<'a>(&'a [ReadyCheck]);

impl fmt::Display for Checks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, check) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" and ")?;
            }
            check.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::protocol::Host;
    use crate::sidecar::config::{Endpoint, Environment};

    const PACE: Pace = Pace {
        shortest: SHORTEST_PAUSE,
        interval: Duration::from_secs(5),
        rise: 1,
        fall: 3,
        overdue: Duration::from_secs(30),
    };

    /// Tries that fail for as long as `span`: how many there were, and what was told, in whole seconds.
    fn fail_for(gate: &mut Gate, start: Instant, span: Duration) -> (usize, Vec<Notice>) {
        let (mut tries, mut told, mut waited) = (0, Vec::new(), Duration::ZERO);
        while waited < span {
            let step = gate.on_try(false, start + waited);
            tries += 1;
            told.extend(step.notice);
            waited += step.pause;
        }
        (tries, told)
    }

    #[test]
    fn a_start_loses_a_hundredth_of_its_time_at_most_and_a_long_wait_takes_few_tries() {
        let start = Instant::now();
        let mut gate = Gate::new(PACE, start);
        for (waited, pause) in
            [(0, 5), (499, 5), (1_000, 10), (60_000, 600), (500_000, 5_000), (9_000_000, 5_000)]
        {
            let step = gate.on_try(false, start + Duration::from_millis(waited));
            assert_eq!(step.pause, Duration::from_millis(pause), "after {waited} ms");
        }
        let (tries, _) = fail_for(&mut Gate::new(PACE, start), start, Duration::from_secs(60));
        assert!(tries < 700, "{tries}");
        let short = Pace { interval: Duration::from_millis(1), ..PACE };
        assert_eq!(Gate::new(short, start).on_try(false, start).pause, Duration::from_millis(1));
    }

    #[test]
    fn it_reminds_at_growing_distances_and_loudly_once_it_is_overdue() {
        let start = Instant::now();
        let (_, told) = fail_for(&mut Gate::new(PACE, start), start, Duration::from_secs(3_000));
        let told: Vec<String> = told
            .into_iter()
            .map(|notice| match notice {
                Notice::Waiting(waited) => format!("waiting {}", waited.as_secs()),
                Notice::Overdue(waited) => format!("overdue {}", waited.as_secs()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told[..5], ["waiting 5", "waiting 10", "waiting 20", "overdue 30", "overdue 60"]);
        assert!(told.len() < 20, "{told:?}");
    }

    #[test]
    fn it_opens_after_enough_passes_in_a_row() {
        let start = Instant::now();
        let mut gate = Gate::new(Pace { rise: 2, ..PACE }, start);
        let later = start + Duration::from_secs(1);
        for passed in [true, false, true] {
            assert_eq!(gate.on_try(passed, start).notice, None);
            assert!(!gate.is_ready());
        }
        assert_eq!(gate.on_try(true, later).notice, Some(Notice::Ready(Duration::from_secs(1))));
        assert!(gate.is_ready());
    }

    #[test]
    fn it_shuts_after_enough_failures_in_a_row_and_then_asks_fast_again() {
        let start = Instant::now();
        let mut gate = Gate::new(PACE, start);
        gate.on_try(true, start);
        for passed in [false, false, true, false, false] {
            let step = gate.on_try(passed, start);
            assert_eq!(step, Step { pause: PACE.interval, notice: None });
        }
        let lost = start + Duration::from_secs(90);
        let step = gate.on_try(false, lost);
        assert_eq!(step, Step { pause: PACE.shortest, notice: Some(Notice::Lost(Duration::from_secs(90))) });
        assert!(!gate.is_ready());
        // The wait for its return is a new one.
        let step = gate.on_try(false, lost + Duration::from_secs(6));
        assert_eq!(step.notice, Some(Notice::Waiting(Duration::from_secs(6))));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_goes_on_past_every_limit_and_ends_with_the_first_pass() {
        let start = tokio::time::Instant::now();
        let up_at = start + Duration::from_secs(3_600);
        let attempt = || async move {
            if tokio::time::Instant::now() < up_at { Err("connection refused".to_owned()) } else { Ok(()) }
        };
        until_open(PACE, attempt).await;
        let late = up_at.elapsed();
        assert!(late <= PACE.interval, "{late:?}");
    }

    fn tcp(address: SocketAddr) -> ReadyCheck {
        ReadyCheck::Tcp(Endpoint { host: Host::Ip(address.ip()), port: address.port() })
    }

    fn config(checks: Vec<ReadyCheck>, wait: bool) -> ReadinessConfig {
        let second = crate::protocol::GoDuration::from_secs(1);
        ReadinessConfig {
            wait,
            checks,
            interval: second,
            timeout: second,
            rise: 1,
            fall: 3,
            overdue: second,
            environment: Environment::default(),
        }
    }

    /// A port that is taken and refuses connections until `listen`.
    fn reserved() -> (socket2::Socket, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn a_port_is_ready_when_it_accepts_connections_and_not_before() {
        let (socket, address) = reserved();
        let checks = vec![tcp(address)];
        let limit = Duration::from_secs(5);
        let refused = try_all(&checks, limit, None).await.unwrap_err();
        assert!(
            refused.starts_with(&format!("tcp://{address}: ")) && refused.contains("refused"),
            "{refused}"
        );

        let waiting = tokio::spawn(async move { wait_until_ready(&config(checks, true), None).await });
        // Not before, however often the waiting task had its turn.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        socket.listen(16).unwrap();
        tokio::time::timeout(limit, waiting).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn one_of_several_checks_that_fails_is_named() {
        let (listening, open) = reserved();
        listening.listen(16).unwrap();
        let (_held, shut) = reserved();
        let failed = try_all(&[tcp(open), tcp(shut)], Duration::from_secs(5), None).await.unwrap_err();
        assert!(failed.contains(&shut.to_string()), "{failed}");
    }

    #[tokio::test]
    async fn whoever_does_not_want_to_wait_does_not() {
        let (_held, shut) = reserved();
        wait_until_ready(&config(vec![tcp(shut)], false), None).await;
    }

    #[test]
    fn an_application_that_comes_and_goes_must_stay_longer_each_time() {
        let mut now = Instant::now();
        let mut gate = Gate::opened(Pace { fall: 1, ..PACE }, now);
        let mut came_back_after = Vec::new();
        for round in 0..7 {
            let notice = gate.on_try(false, now).notice;
            match round {
                0 => assert!(matches!(notice, Some(Notice::Lost(_))), "{notice:?}"),
                _ => assert!(
                    matches!(notice, Some(Notice::Flapping { losses, .. }) if losses == round + 1),
                    "{notice:?}"
                ),
            }
            let lost = now;
            while !gate.is_ready() {
                now += Duration::from_secs(1);
                gate.on_try(true, now);
            }
            came_back_after.push((now - lost).as_secs());
        }
        assert_eq!(came_back_after, [1, 6, 11, 21, 41, 61, 61]);
        now += FLAP_WINDOW;
        assert!(matches!(gate.on_try(false, now).notice, Some(Notice::Lost(_))));
    }
}
