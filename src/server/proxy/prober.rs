//! The registry's questions to backends: probes over and over, and BACKEND_TEST once.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::protocol::{BackendUrl, Scheme};
use crate::server::routing::{BackendPolicy, Probe, ProbeKind};

use super::dial::Dialer;
use super::schedule::{ProbeNumber, Schedule};
use super::tls::{Trust, Wanted, dns_name};

/// By this backends know who asks.
const USER_AGENT_TEXT: &str = "registry-server-probe";
/// Results that wait to be taken. When there are this many, nothing is asked until one is.
const RESULTS: usize = 1024;
/// How long a BACKEND_TEST may take in all.
const TEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What came of a probe: `Err` says why it did not pass, for people.
pub type ProbeResult = (Probe, Result<(), String>);

/// Asks backends what is wanted to be known of them.
#[derive(Debug)]
pub struct Prober;

/// Says what is wanted to be known. Cheap to clone; safe from any thread, with or without a runtime.
#[derive(Debug, Clone)]
pub struct ProberHandle(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    schedule: Mutex<Schedule>,
    changed: Notify,
}

impl Prober {
    /// Starts a task that probes until the receiver is dropped. Results come as they happen; those of a
    /// probe that nobody wants any more do not come.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(policy: BackendPolicy) -> (ProberHandle, mpsc::Receiver<ProbeResult>) {
        Prober::start_trusting(policy, Trust::system())
    }

    /// The same, with others to vouch for backends.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start_trusting(
        policy: BackendPolicy,
        trust: Trust,
    ) -> (ProberHandle, mpsc::Receiver<ProbeResult>) {
        let inner = Arc::new(Inner::default());
        let (results, receiver) = mpsc::channel(RESULTS);
        tokio::spawn(run(Arc::clone(&inner), Arc::new(Dialer::new(Arc::new(policy), trust)), results));
        (ProberHandle(inner), receiver)
    }
}

impl ProberHandle {
    /// Wants `probe` asked from now on, the first time at once, even if others have wanted it before.
    pub fn watch(&self, probe: Probe) {
        self.0.schedule().watch(probe, Instant::now());
        self.0.changed.notify_one();
    }

    /// Takes one [`ProberHandle::watch`] back.
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
    let mut running: JoinSet<(ProbeNumber, Result<(), String>)> = JoinSet::new();
    loop {
        let (started, wake_at) = {
            let mut schedule = inner.schedule();
            (schedule.start(Instant::now(), fastrand::f64), schedule.wake_at())
        };
        if let Some((number, probe)) = started {
            let dialer = Arc::clone(&dialer);
            running.spawn(async move { (number, ask_within(&dialer, &probe).await) });
            continue;
        }
        let alarm = async {
            match wake_at {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = inner.changed.notified() => {}
            () = alarm => {}
            () = results.closed() => return,
            Some(Ok((number, result))) = running.join_next() => {
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

async fn ask_within(dialer: &Dialer, probe: &Probe) -> Result<(), String> {
    match timeout(probe.timeout, ask(dialer, probe)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {:?}", probe.timeout)),
    }
}

async fn ask(dialer: &Dialer, probe: &Probe) -> Result<(), String> {
    let Probe { backend, peer, .. } = probe;
    match &probe.kind {
        ProbeKind::Connect => {
            dialer.connect(backend, *peer).await.map(drop).map_err(|error| error.to_string())
        }
        ProbeKind::Get { path, host } => {
            let host = host.as_ref().map(|host| host.as_str().to_owned());
            let status = get(dialer, backend, *peer, path.as_str(), host).await?.status;
            let passes = match path.as_str() {
                "/" => status.as_u16() < 500,
                _ => status.is_success() || status.is_redirection(),
            };
            if passes { Ok(()) } else { Err(format!("answered {}", status.as_u16())) }
        }
    }
}

/// What BACKEND_TEST found out (PROTOCOL section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTest {
    /// It answered, with whatever status.
    pub reachable: bool,
    /// From the first attempt to the answer, or to the failure.
    pub response_time: Duration,
    /// The answer's status.
    pub status_code: Option<u16>,
    /// Whether its certificate is good. A bad one of a backend with a name is an error; that of an address
    /// is looked at for this alone.
    pub tls_valid: bool,
    /// Why there was no answer.
    pub error: Option<String>,
}

/// Asks `url` once for its base path, as a session from `peer` might (BACKEND_TEST). Takes at most 5 s,
/// follows no redirects. Where the policy forbids the address, the error is `not allowed: X`.
pub async fn test_backend(url: &BackendUrl, policy: &BackendPolicy, peer: IpAddr) -> BackendTest {
    test_backend_trusting(url, policy, peer, Trust::system()).await
}

/// The same, with others to vouch for the backend.
pub async fn test_backend_trusting(
    url: &BackendUrl,
    policy: &BackendPolicy,
    peer: IpAddr,
    trust: Trust,
) -> BackendTest {
    let begun = Instant::now();
    let dialer = Dialer::new(Arc::new(policy.clone()), trust);
    let answer = match timeout(TEST_TIMEOUT, get(&dialer, url, peer, "/", None)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {TEST_TIMEOUT:?}")),
    };
    let response_time = begun.elapsed();
    let status_code = answer.as_ref().ok().map(|answer| answer.status.as_u16());
    let tls_valid = answer.as_ref().is_ok_and(|answer| answer.tls_valid);
    BackendTest { reachable: answer.is_ok(), response_time, status_code, tls_valid, error: answer.err() }
}

/// What a backend said.
struct Answer {
    status: StatusCode,
    tls_valid: bool,
}

/// One GET on a connection of its own. The caller sets the deadline.
async fn get(
    dialer: &Dialer,
    backend: &BackendUrl,
    peer: IpAddr,
    path: &str,
    host: Option<String>,
) -> Result<Answer, String> {
    let host = host.unwrap_or_else(|| backend.host_header());
    let target = format!("{}{path}", backend.base_path());
    let request = |target: String| Request::get(target).header(USER_AGENT, USER_AGENT_TEXT);
    let in_http1 = || request(target.clone()).header(HOST, &host).body(Empty::new());
    let in_http2 = || request(format!("{}://{host}{target}", uri_scheme(backend))).body(Empty::new());
    let stream = dialer.connect(backend, peer).await.map_err(|error| error.to_string())?;
    let (status, tls_valid) = match backend.scheme() {
        Scheme::Http => (ask_http1(stream, in_http1()).await?, false),
        Scheme::H2c => (ask_http2(stream, in_http2()).await?, false),
        Scheme::Https => {
            let secured = dialer.tls.secure(stream, backend, dns_name(&host), Wanted::Http2).await;
            let secured = secured.map_err(|error| error.to_string())?;
            let status = match secured.is_http2 {
                true => ask_http2(secured.stream, in_http2()).await?,
                false => ask_http1(secured.stream, in_http1()).await?,
            };
            (status, secured.is_valid)
        }
    };
    Ok(Answer { status, tls_valid })
}

fn uri_scheme(backend: &BackendUrl) -> &'static str {
    if backend.scheme() == Scheme::Https { "https" } else { "http" }
}

type Question = http::Result<Request<Empty<Bytes>>>;

fn broken(error: hyper::Error) -> String {
    format!("broke off: {error}")
}

async fn ask_http1<T>(stream: T, question: Question) -> Result<StatusCode, String>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let question = question.map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut response = pin!(sender.send_request(question));
    let response = tokio::select! {
        response = &mut response => response,
        // The backend may close before its answer was taken.
        _ = connection => response.await,
    };
    Ok(response.map_err(broken)?.status())
}

async fn ask_http2<T>(stream: T, question: Question) -> Result<StatusCode, String>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let question = question.map_err(|error| error.to_string())?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(broken)?;
    let mut response = pin!(sender.send_request(question));
    let response = tokio::select! {
        response = &mut response => response,
        _ = connection => response.await,
    };
    Ok(response.map_err(broken)?.status())
}
