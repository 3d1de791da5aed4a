//! ACCESS_LOG: one line a request, when it is over. A worker never waits for whoever reads them.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, REFERER, USER_AGENT};
use http::{Method, Request, Version};
use jiff::Timestamp;
use jiff::fmt::strtime;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::protocol::ServiceName;
use crate::server::routing::{Chosen, Member};

use super::forwarded::Forwarding;

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Lines that wait to be written. Further ones are dropped and counted.
const MAX_WAITING: usize = 8192;
/// Of each text that a client sent so much is logged, in bytes.
const MAX_TEXT: usize = 1024;
/// A request id that is taken from a trusted proxy is not longer.
const MAX_ID: usize = 128;
/// How often it is said that lines were dropped.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);
/// How long the end waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFormat {
    /// An object a line.
    Json,
    /// The combined format of Apache and nginx.
    Combined,
}

/// Where lines go. Cheap to clone; the thread that writes ends with the last clone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    format: AccessFormat,
    queue: SyncSender<Job>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Job {
    Line(String),
    Flush(oneshot::Sender<()>),
}

impl AccessLog {
    /// Starts a thread that writes lines to `output`.
    ///
    /// # Errors
    /// Where the thread cannot start.
    pub fn to(output: impl Write + Send + 'static, format: AccessFormat) -> io::Result<AccessLog> {
        let (queue, jobs) = sync_channel(MAX_WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let watched = Arc::clone(&dropped);
        let run = move || write(BufWriter::new(output), &jobs, &watched);
        thread::Builder::new().name("access-log".to_owned()).spawn(run)?;
        Ok(AccessLog { format, queue, dropped })
    }

    /// Lines that were dropped because the output was too slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what was logged before is written, at most 500 ms.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.queue.try_send(Job::Flush(done)).is_ok() {
            let _ = timeout(FLUSH_TIMEOUT, written).await;
        }
    }

    pub(super) fn log(&self, entry: &Entry, end: &Ending<'_>) {
        let line = match self.format {
            AccessFormat::Json => entry.in_json(end),
            AccessFormat::Combined => entry.in_combined(end),
        };
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Job::Line(line)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(mut output: impl Write, jobs: &Receiver<Job>, dropped: &AtomicU64) {
    let (mut said, mut said_at) = (0, None::<Instant>);
    while let Ok(job) = jobs.recv() {
        for job in std::iter::once(job).chain(jobs.try_iter()) {
            match job {
                // There is nobody to tell but the log, whose output may be the same.
                Job::Line(line) => drop(writeln!(output, "{line}")),
                Job::Flush(done) => {
                    let _ = output.flush();
                    let _ = done.send(());
                }
            }
        }
        let _ = output.flush();
        let lost = dropped.load(Ordering::Relaxed);
        if lost > said && said_at.is_none_or(|at| at.elapsed() > COMPLAINT_INTERVAL) {
            tracing::warn!("{} lines of the access log were dropped: its reader is too slow", lost - said);
            (said, said_at) = (lost, Some(Instant::now()));
        }
    }
}

/// What is known of a request when it begins.
pub(super) struct Entry {
    client: IpAddr,
    id: HeaderValue,
    method: Method,
    host: String,
    path: String,
    version: Version,
    is_tls: bool,
    referer: Option<String>,
    agent: Option<String>,
    /// Who owns the host and path.
    pub(super) service: Option<ServiceName>,
    /// Who got the request, where it is no longer known at the end.
    pub(super) member: Option<Chosen>,
}

/// What is known when it is over.
pub(super) struct Ending<'a> {
    pub(super) status: u16,
    pub(super) bytes: u64,
    pub(super) duration: Duration,
    /// When a backend's response began.
    pub(super) head_after: Option<Duration>,
    pub(super) member: Option<&'a Member>,
    pub(super) outcome: &'static str,
}

impl Entry {
    pub(super) fn of<B>(request: &Request<B>, forwarding: &Forwarding, is_tls: bool) -> Self {
        let headers = request.headers();
        let text = |name| headers.get(name).map(|value: &HeaderValue| cut(value.as_bytes()));
        let host = match request.uri().authority() {
            Some(authority) => Some(cut(authority.as_str().as_bytes())),
            None => text(HOST),
        };
        Entry {
            client: forwarding.client(headers),
            id: request_id(headers, forwarding),
            method: request.method().clone(),
            host: host.unwrap_or_default(),
            // Without the query, in which people send secrets.
            path: cut(request.uri().path().as_bytes()),
            version: request.version(),
            is_tls,
            referer: text(REFERER).map(|referer| match referer.split_once('?') {
                Some((page, _)) => page.to_owned(),
                None => referer,
            }),
            agent: text(USER_AGENT),
            service: None,
            member: None,
        }
    }

    /// What the backend is told, so that its log and ours can be put together.
    pub(super) fn id(&self) -> HeaderValue {
        self.id.clone()
    }

    fn in_json(&self, end: &Ending<'_>) -> String {
        let line = JsonLine {
            time: format!("{:.3}", Timestamp::now()),
            client: self.client,
            request_id: self.id.to_str().unwrap_or_default(),
            method: self.method.as_str(),
            scheme: if self.is_tls { "https" } else { "http" },
            host: &self.host,
            path: &self.path,
            protocol: format!("{:?}", self.version),
            status: end.status,
            bytes: end.bytes,
            duration_ms: millis(end.duration),
            upstream_ms: end.head_after.map(millis),
            service: self.service.as_ref().map(ServiceName::as_str),
            instance: end.member.map(|member| member.terms.instance.as_str()),
            backend: end.member.map(|member| member.backend.to_string()),
            outcome: end.outcome,
            user_agent: self.agent.as_deref(),
        };
        serde_json::to_string(&line).unwrap_or_default()
    }

    fn in_combined(&self, end: &Ending<'_>) -> String {
        let time = strtime::format("%d/%b/%Y:%H:%M:%S +0000", Timestamp::now()).unwrap_or_default();
        let mut line = String::new();
        let or_dash = |text: &Option<String>| Quoted(text.clone().unwrap_or_else(|| "-".to_owned()));
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            "{} - - [{time}] \"{} {} {:?}\" {} {} \"{}\" \"{}\"",
            self.client,
            self.method,
            Quoted(self.path.clone()),
            self.version,
            end.status,
            end.bytes,
            or_dash(&self.referer),
            or_dash(&self.agent),
        );
        line
    }
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    client: IpAddr,
    request_id: &'a str,
    method: &'a str,
    scheme: &'static str,
    host: &'a str,
    path: &'a str,
    protocol: String,
    status: u16,
    bytes: u64,
    duration_ms: f64,
    upstream_ms: Option<f64>,
    service: Option<&'a str>,
    instance: Option<&'a str>,
    backend: Option<String>,
    outcome: &'static str,
    user_agent: Option<&'a str>,
}

/// Microseconds are enough.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// The id that a trusted proxy gave, or a new one.
fn request_id(headers: &HeaderMap, forwarding: &Forwarding) -> HeaderValue {
    let is_good = |id: &&HeaderValue| {
        (1..=MAX_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let given = headers.get(X_REQUEST_ID).filter(|_| forwarding.direct_peer().is_none()).filter(is_good);
    given.cloned().unwrap_or_else(|| {
        let id = format!("{:032x}", fastrand::u128(..));
        HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("-"))
    })
}

fn cut(text: &[u8]) -> String {
    let text: Cow<'_, str> = String::from_utf8_lossy(&text[..text.len().min(MAX_TEXT)]);
    text.into_owned()
}

/// A client's text between quotation marks: nothing in it ends them, or the line.
struct Quoted(String);

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\x{:02X}", u32::from(c))?,
                c if c.is_control() => write!(f, "\\x{:02X}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}
