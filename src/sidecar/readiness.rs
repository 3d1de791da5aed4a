//! Whether the application is ready: asked often while it starts, told in the log while it is waited for.
//!
//! [`Gate`] counts and decides when to ask again and what to say; [`wait_until_ready`] asks. Neither knows
//! what readiness is used for.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tracing::{info, warn};

use crate::protocol::Host;

use super::config::{ReadinessConfig, ReadyCheck};

/// The shortest pause between two tries at an address. A refused connection costs some 30 µs.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// The shortest where each try asks a name server.
const SHORTEST_PAUSE_BY_NAME: Duration = Duration::from_millis(100);
/// A try is due when the wait has grown by this part of itself: a hundredth of it is lost at most, and a
/// wait of any length takes few tries.
const PAUSE_PART: u32 = 100;
/// The first reminder that we are still waiting; each further one comes after twice the time.
const FIRST_REMINDER: Duration = Duration::from_secs(5);
/// But after no more than this.
const LONGEST_REMINDER: Duration = Duration::from_secs(300);

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
    /// It is still shut.
    Waiting(Duration),
    /// It is still shut, longer than anybody meant it to be.
    Overdue(Duration),
}

impl Gate {
    /// A gate that is shut, and has been since `now`.
    pub fn new(pace: Pace, now: Instant) -> Self {
        let next_reminder = FIRST_REMINDER;
        Gate { pace, open: false, against: 0, since: now, next_reminder, overdue_told: false }
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
        let notice = if self.against >= enough.max(1) {
            *self = Gate { open: !self.open, ..Gate::new(self.pace, now) };
            Some(if self.open { Notice::Ready(lasted) } else { Notice::Lost(lasted) })
        } else if self.open {
            None
        } else {
            self.reminder(lasted)
        };
        Step { pause: self.pause(now), notice }
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
pub async fn wait_until_ready(config: &ReadinessConfig) {
    if !config.wait {
        return;
    }
    info!("waiting for {} to accept connections", Checks(&config.checks));
    until_open(pace(config), || try_all(&config.checks, config.timeout.get())).await;
}

/// The pace at which `config` has us ask. It never shuts the gate again before three failures.
pub fn pace(config: &ReadinessConfig) -> Pace {
    let by_name = |check: &ReadyCheck| match check {
        ReadyCheck::Tcp(endpoint) => matches!(endpoint.host, Host::Name(_)),
    };
    Pace {
        shortest: if config.checks.iter().any(by_name) { SHORTEST_PAUSE_BY_NAME } else { SHORTEST_PAUSE },
        interval: config.interval.get(),
        rise: config.rise,
        fall: 3,
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
        Some(Notice::Waiting(waited)) => {
            info!("still waiting for the application, for {waited:.0?}: {state}")
        }
        Some(Notice::Overdue(waited)) => warn!(
            "the application is not ready after {waited:.0?}: {state}; its routes are not registered until it \
             is. Does it listen on that address, and is PORT its port?"
        ),
    }
}

/// One try of all checks, in their order, up to the first that fails.
///
/// # Errors
/// Says which failed and why.
pub async fn try_all(checks: &[ReadyCheck], limit: Duration) -> Result<(), String> {
    for check in checks {
        let ReadyCheck::Tcp(endpoint) = check;
        let failed = |why: &dyn fmt::Display| format!("{check}: {why}");
        match tokio::time::timeout(limit, connect(&endpoint.host, endpoint.port)).await {
            Ok(Ok(stream)) if is_connected_to_itself(&stream) => return Err(failed(&"nobody listens")),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(failed(&format_args!("no answer within {limit:?}"))),
        }
    }
    Ok(())
}

async fn connect(host: &Host, port: u16) -> std::io::Result<TcpStream> {
    match host {
        Host::Ip(ip) => TcpStream::connect(SocketAddr::new(*ip, port)).await,
        Host::Name(name) => TcpStream::connect((name.as_str(), port)).await,
    }
}

/// On the way to a local port that nobody listens on, the kernel sometimes chooses that very port as ours,
/// and the connection succeeds, with ourselves. It then keeps the application from its port, so it must go
/// without the usual minute of TIME_WAIT.
fn is_connected_to_itself(stream: &TcpStream) -> bool {
    let itself = matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if local == peer);
    if itself && let Err(error) = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        warn!("a connection to itself cannot be reset: {error}");
    }
    itself
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
    use super::*;
    use crate::sidecar::config::Endpoint;

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
        ReadinessConfig { wait, checks, interval: second, timeout: second, rise: 1, overdue: second }
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
        let refused = try_all(&checks, limit).await.unwrap_err();
        assert!(
            refused.starts_with(&format!("tcp://{address}: ")) && refused.contains("refused"),
            "{refused}"
        );

        let waiting = tokio::spawn(async move { wait_until_ready(&config(checks, true)).await });
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
        let failed = try_all(&[tcp(open), tcp(shut)], Duration::from_secs(5)).await.unwrap_err();
        assert!(failed.contains(&shut.to_string()), "{failed}");
    }

    #[tokio::test]
    async fn whoever_does_not_want_to_wait_does_not() {
        let (_held, shut) = reserved();
        wait_until_ready(&config(vec![tcp(shut)], false)).await;
    }

    #[tokio::test]
    async fn a_connection_to_itself_is_no_application() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let own = socket.local_addr().unwrap();
        let stream = socket.connect(own).await.unwrap();
        assert!(is_connected_to_itself(&stream));
        drop(stream);
        // And its port is free at once.
        std::net::TcpListener::bind(own).unwrap();
    }
}
