//! Runs the registry's probes and reports their results.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout_at};

use crate::server::proxy::upstream::dial::Dialer;
use crate::server::proxy::upstream::tls::Trust;
use crate::server::routing::{BackendPolicy, Probe, ProbeFailure, ProbeKind};

use super::request::get;
use super::schedule::{ProbeNumber, Schedule};

/// Results that may wait for the receiver. When there are this many, no probe starts until it takes one.
const MAX_WAITING_RESULTS: usize = 1024;

/// A probe and its result.
pub type ProbeResult = (Probe, Result<(), ProbeFailure>);

/// Starts the task that probes.
#[derive(Debug)]
pub struct Prober;

/// How many probes there are, and their results so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProbeCounts {
    /// Different probes that are repeated now.
    pub watched: usize,
    /// How often a probe has passed since the start.
    pub passed: u64,
    /// How often a probe has failed since the start.
    pub failed: u64,
}

/// Adds and removes probes. Cheap to clone; may be used from any thread, with or without a runtime.
#[derive(Debug, Clone)]
pub struct ProberHandle(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    schedule: Mutex<Schedule>,
    changed: Notify,
    passed: AtomicU64,
    failed: AtomicU64,
}

impl Prober {
    /// Starts a task that probes until the receiver is dropped. The result of a probe that has been removed meanwhile
    /// is not reported.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(policy: BackendPolicy) -> (ProberHandle, mpsc::Receiver<ProbeResult>) {
        Prober::start_trusting(policy, Trust::system())
    }

    /// Like [`Prober::start`], with other certificate authorities than the system's.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start_trusting(
        policy: BackendPolicy,
        trust: Trust,
    ) -> (ProberHandle, mpsc::Receiver<ProbeResult>) {
        let inner = Arc::new(Inner::default());
        let (results, receiver) = mpsc::channel(MAX_WAITING_RESULTS);
        tokio::spawn(run(Arc::clone(&inner), Arc::new(Dialer::new(Arc::new(policy), trust)), results));
        (ProberHandle(inner), receiver)
    }
}

impl ProberHandle {
    /// Adds a watcher of `probe`. It runs at once, even if others watch it already, and then at its interval.
    pub fn watch(&self, probe: Probe) {
        self.0.schedule().watch(probe, Instant::now());
        self.0.changed.notify_one();
    }

    /// How many probes there are, and their results so far.
    pub fn counts(&self) -> ProbeCounts {
        ProbeCounts {
            watched: self.0.schedule().len(),
            passed: self.0.passed.load(Ordering::Relaxed),
            failed: self.0.failed.load(Ordering::Relaxed),
        }
    }

    /// Removes one watcher of `probe`. Without watchers it is not run any more.
    pub fn forget(&self, probe: &Probe) {
        self.0.schedule().forget(probe);
    }
}

impl Inner {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(inner: Arc<Inner>, dialer: Arc<Dialer>, results: mpsc::Sender<ProbeResult>) {
    let mut running: JoinSet<(ProbeNumber, Result<(), ProbeFailure>)> = JoinSet::new();
    loop {
        let (started, wake_at) = {
            let mut schedule = inner.schedule();
            (schedule.start(Instant::now(), fastrand::f64), schedule.wake_at())
        };
        if let Some((number, probe)) = started {
            let dialer = Arc::clone(&dialer);
            running.spawn(async move { (number, run_probe(&dialer, &probe).await) });
            continue;
        }
        let due = async {
            match wake_at {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = inner.changed.notified() => {}
            () = due => {}
            () = results.closed() => return,
            Some(Ok((number, result))) = running.join_next() => {
                let counter = if result.is_ok() { &inner.passed } else { &inner.failed };
                counter.fetch_add(1, Ordering::Relaxed);
                let wanted = inner.schedule().finish(number, Instant::now());
                if let Some(probe) = wanted
                    && results.send((Probe::clone(&probe), result)).await.is_err()
                {
                    return;
                }
            }
        }
    }
}

async fn run_probe(dialer: &Dialer, probe: &Probe) -> Result<(), ProbeFailure> {
    let Probe { backend, peer, kind, timeout, .. } = probe;
    let deadline = tokio::time::Instant::now() + *timeout;
    let too_late = || format!("no answer within {timeout:?}");
    let stream = match timeout_at(deadline, dialer.connect(backend, *peer)).await {
        Ok(stream) => stream.map_err(|error| error.to_string())?,
        Err(_) => return Err(too_late().into()),
    };
    let ProbeKind::Get { path, host } = kind else { return Ok(()) };
    let host = host.as_ref().map(|host| host.as_str().to_owned());
    match timeout_at(deadline, get(dialer, stream, backend, path.as_str(), host)).await {
        Ok(response) => judge(path.as_str(), response?.status.as_u16()).map_err(ProbeFailure::from),
        Err(_) => Err(ProbeFailure::slow(too_late())),
    }
}

fn judge(path: &str, status: u16) -> Result<(), String> {
    let passes = match path {
        "/" => status < 500,
        _ => (200..400).contains(&status),
    };
    if passes { Ok(()) } else { Err(format!("answered {status}")) }
}
