//! Whether the application is ready: tries its checks often while it starts, and then at a fixed interval.
//!
//! `probe` makes one try of one check, with a module for each complicated kind; `gate` counts and decides. Nothing
//! here knows what readiness is used for.

mod fastcgi;
mod gate;
#[cfg(feature = "server")]
mod https;
mod probe;
mod shell;

use std::fmt;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::sidecar::config::{ReadinessConfig, ReadyCheck};

use gate::{FLAP_WINDOW, Gate, GateConfig, Notice};
pub(crate) use shell::Shell;

/// The shortest pause between two tries at an address. A refused connection costs some 30 µs.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// The shortest pause where each try asks a name server or starts a process.
const SHORTEST_PAUSE_IF_COSTLY: Duration = Duration::from_millis(100);
/// Waits until every check has passed, READY_RISE times in a row; without WAIT_FOR_PORT it returns at once. There is
/// no limit, but the log reminds of a long wait.
///
/// Cancel-safe: what was counted is lost, nothing else.
pub(crate) async fn wait_until_ready(config: &ReadinessConfig, shell: Option<&Shell>) {
    if !config.wait {
        return;
    }
    info!("waiting for {} to answer", Checks(&config.checks));
    until_open(gate_config(config), || try_all(&config.checks, config.timeout.get(), shell)).await;
}

/// Watches an application that is ready, for as long as it runs, and calls `changed` when it is not ready any more
/// (READY_FALL) or ready again (READY_RISE). Without WAIT_FOR_PORT it makes no checks.
///
/// Cancel-safe: what was counted is lost, nothing else.
pub(crate) async fn watch(config: &ReadinessConfig, shell: Option<&Shell>, mut changed: impl FnMut(bool)) {
    if !config.wait {
        return std::future::pending().await;
    }
    let gate_config = gate_config(config);
    let mut gate = Gate::opened(gate_config, now());
    let mut pause = gate_config.interval;
    loop {
        tokio::time::sleep(pause).await;
        let was_ready = gate.is_ready();
        let outcome = try_all(&config.checks, config.timeout.get(), shell).await;
        let decision = gate.on_try(outcome.is_ok(), now());
        log(decision.notice, outcome.err().as_deref().unwrap_or("it passes now"));
        if gate.is_ready() != was_ready {
            changed(gate.is_ready());
        }
        pause = decision.pause;
    }
}

/// The thresholds and intervals of a configuration.
fn gate_config(config: &ReadinessConfig) -> GateConfig {
    let costly = config.checks.iter().any(ReadyCheck::is_costly);
    GateConfig {
        shortest: if costly { SHORTEST_PAUSE_IF_COSTLY } else { SHORTEST_PAUSE },
        interval: config.interval.get(),
        rise: config.rise,
        fall: config.fall,
        overdue: config.overdue.get(),
    }
}

async fn until_open<F>(config: GateConfig, mut attempt: impl FnMut() -> F)
where
    F: Future<Output = Result<(), String>>,
{
    let mut gate = Gate::new(config, now());
    loop {
        let outcome = attempt().await;
        let decision = gate.on_try(outcome.is_ok(), now());
        log(decision.notice, outcome.err().as_deref().unwrap_or("it passes now"));
        if gate.is_ready() {
            return;
        }
        tokio::time::sleep(decision.pause).await;
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn log(notice: Option<Notice>, state: &str) {
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

/// Tries all checks in their order, up to the first that fails.
///
/// # Errors
/// Says which check failed and why.
pub(crate) async fn try_all(
    checks: &[ReadyCheck],
    limit: Duration,
    shell: Option<&Shell>,
) -> Result<(), String> {
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
    use crate::sidecar::config::{Endpoint, Environment};
    use registry_client::protocol::Host;

    const CONFIG: GateConfig = GateConfig {
        shortest: SHORTEST_PAUSE,
        interval: Duration::from_secs(5),
        rise: 1,
        fall: 3,
        overdue: Duration::from_secs(30),
    };

    #[tokio::test(start_paused = true)]
    async fn the_wait_goes_on_past_every_limit_and_ends_with_the_first_pass() {
        let start = tokio::time::Instant::now();
        let up_at = start + Duration::from_secs(3_600);
        let attempt = || async move {
            if tokio::time::Instant::now() < up_at { Err("connection refused".to_owned()) } else { Ok(()) }
        };
        until_open(CONFIG, attempt).await;
        let late = up_at.elapsed();
        assert!(late <= CONFIG.interval, "{late:?}");
    }

    fn tcp(address: SocketAddr) -> ReadyCheck {
        ReadyCheck::Tcp(Endpoint { host: Host::Ip(address.ip()), port: address.port() })
    }

    fn readiness(checks: Vec<ReadyCheck>, wait: bool) -> ReadinessConfig {
        let second = registry_client::protocol::GoDuration::from_secs(1);
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

        let waiting = tokio::spawn(async move { wait_until_ready(&readiness(checks, true), None).await });
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
        wait_until_ready(&readiness(vec![tcp(shut)], false), None).await;
    }
}
