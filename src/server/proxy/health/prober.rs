//! Runs the registry's probes and reports their results.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{sleep_until, timeout_at};

use crate::server::proxy::upstream::dial::Dialer;
use crate::server::proxy::upstream::tls::Trust;
use crate::server::routing::{BackendPolicy, Probe, ProbeFailure, ProbeKind};
use registry_client::protocol::AcceptedStatuses;

use super::pace::ProbeNumber;
use super::request::get;
use super::schedule::{MAX_TIMEOUT, MIN_INTERVAL, Schedule};

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
    /// The probes that run, to end those that nobody wants any more.
    running: Mutex<HashMap<ProbeNumber, AbortHandle>>,
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
        if probe.interval < MIN_INTERVAL || probe.timeout > MAX_TIMEOUT {
            let (backend, interval, timeout) = (&probe.backend, probe.interval, probe.timeout);
            tracing::warn!(
                %backend, ?interval, ?timeout,
                "a health check is changed: its interval is at least {MIN_INTERVAL:?}, its timeout at most {MAX_TIMEOUT:?}"
            );
        }
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

    /// Removes one watcher of `probe`. Without watchers it is not run any more, and ends if it runs.
    pub fn forget(&self, probe: &Probe) {
        let unwanted = self.0.schedule().forget(probe);
        if let Some(task) = unwanted.and_then(|number| self.0.running().remove(&number)) {
            task.abort();
        }
    }
}

impl Inner {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<ProbeNumber, AbortHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the probe that is due first, if one may start now. The schedule stays locked until its task can be ended,
    /// so that [`ProberHandle::forget`] finds the task of each probe that runs.
    fn start(self: &Arc<Self>, dialer: &Arc<Dialer>, tasks: &mut Tasks) -> Option<Instant> {
        let mut schedule = self.schedule();
        while let Some((number, probe)) = schedule.start(Instant::now(), fastrand::f64) {
            let (dialer, asked) = (Arc::clone(dialer), Arc::clone(&probe));
            let task = tasks.running.spawn(async move { run_probe(&dialer, &asked).await });
            tasks.probes.insert(task.id(), (number, probe));
            self.running().insert(number, task);
        }
        schedule.wake_at()
    }

    /// Takes the result of a probe that is over. `None`: it was ended, or nobody wants it.
    fn finish(
        &self,
        (number, probe): (ProbeNumber, Arc<Probe>),
        result: Option<ProbeOutcome>,
    ) -> Option<ProbeResult> {
        self.running().remove(&number);
        let wanted = self.schedule().finish(number, &probe, Instant::now());
        let result = result?;
        let counter = if result.is_ok() { &self.passed } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        Some((Probe::clone(&*wanted?), result))
    }
}

type ProbeOutcome = Result<(), ProbeFailure>;

/// The probes that run.
#[derive(Default)]
struct Tasks {
    running: JoinSet<ProbeOutcome>,
    probes: HashMap<Id, (ProbeNumber, Arc<Probe>)>,
}

impl Tasks {
    /// Waits until one is over. Its result is `None` if it was ended.
    async fn next(&mut self) -> Option<((ProbeNumber, Arc<Probe>), Option<ProbeOutcome>)> {
        let (id, result) = match self.running.join_next_with_id().await? {
            Ok((id, result)) => (id, Some(result)),
            Err(error) => (error.id(), None),
        };
        Some((self.probes.remove(&id)?, result))
    }
}

async fn run(inner: Arc<Inner>, dialer: Arc<Dialer>, results: mpsc::Sender<ProbeResult>) {
    let mut tasks = Tasks::default();
    loop {
        let wake_at = inner.start(&dialer, &mut tasks);
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
            Some((probe, result)) = tasks.next() => {
                if let Some(result) = inner.finish(probe, result)
                    && results.send(result).await.is_err()
                {
                    return;
                }
            }
        }
    }
}

async fn run_probe(dialer: &Dialer, probe: &Probe) -> Result<(), ProbeFailure> {
    let Probe { backend, peer, kind, .. } = probe;
    let timeout = probe.timeout.min(MAX_TIMEOUT);
    let deadline = tokio::time::Instant::now() + timeout;
    let too_late = || format!("no answer within {timeout:?}");
    let stream = match timeout_at(deadline, dialer.connect(backend, *peer)).await {
        Ok(stream) => stream.map_err(|error| error.to_string())?,
        Err(_) => return Err(too_late().into()),
    };
    let ProbeKind::Get { path, host, statuses } = kind else { return Ok(()) };
    let host = host.as_ref().map(|host| host.as_str().to_owned());
    match timeout_at(deadline, get(dialer, stream, backend, path.as_str(), host)).await {
        Ok(response) => {
            let status = response?.status.as_u16();
            judge(path.as_str(), statuses.as_ref(), status).map_err(ProbeFailure::from)
        }
        Err(_) => Err(ProbeFailure::slow(too_late())),
    }
}

fn judge(path: &str, statuses: Option<&AcceptedStatuses>, status: u16) -> Result<(), String> {
    let passes = match (statuses, path) {
        (Some(statuses), _) => statuses.accepts(status),
        (None, "/") => status < 500,
        (None, _) => (200..400).contains(&status),
    };
    match (passes, statuses) {
        (true, _) => Ok(()),
        (false, None) => Err(format!("answered {status}")),
        (false, Some(statuses)) => Err(format!("answered {status}, and health_status is {statuses}")),
    }
}
