//! ACCESS_LOG: one line for each request, written when the request is over. A thread of its own writes the lines, so
//! that a worker never waits for a slow reader.

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

use crate::server::routing::{Chosen, Member};
use crate::telemetry::escape::{Notation, escape};
use registry_client::protocol::ServiceName;

use crate::server::proxy::http::forwarded::Forwarding;
use crate::server::proxy::http::trace;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Lines that may wait to be written. Further ones are dropped and counted.
const MAX_WAITING: usize = 8192;
/// How many bytes of each text from a client are logged.
const MAX_TEXT: usize = 1024;
/// The longest request id that is taken over from a trusted proxy, in bytes.
const MAX_ID: usize = 128;
/// The least time between two warnings about dropped lines.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);
/// How long [`AccessLog::flush`] waits.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// The format of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFormat {
    /// One JSON object for each line.
    Json,
    /// The combined format of Apache and nginx.
    Combined,
}

/// A handle to the thread that writes the access log. Cheap to clone; the thread ends with the last clone.
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
    /// If the thread cannot start.
    pub fn to(output: impl Write + Send + 'static, format: AccessFormat) -> io::Result<AccessLog> {
        let (queue, jobs) = sync_channel(MAX_WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let watched = Arc::clone(&dropped);
        let notation = match format {
            AccessFormat::Json => Notation::Json,
            AccessFormat::Combined => Notation::Text,
        };
        let run = move || write(BufWriter::new(output), notation, &jobs, &watched);
        thread::Builder::new().name("access-log".to_owned()).spawn(run)?;
        Ok(AccessLog { format, queue, dropped })
    }

    /// How many lines were dropped since the start because `output` was too slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until the lines logged so far are written, for at most 500 ms.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.queue.try_send(Job::Flush(done)).is_ok() {
            let _ = timeout(FLUSH_TIMEOUT, written).await;
        }
    }

    pub(crate) fn log(&self, start: &RequestStart, end: &RequestEnd<'_>) {
        let line = match self.format {
            AccessFormat::Json => start.json_line(end),
            AccessFormat::Combined => start.combined_line(end),
        };
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Job::Line(line)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(mut output: impl Write, notation: Notation, jobs: &Receiver<Job>, dropped: &AtomicU64) {
    let (mut reported, mut reported_at) = (0, None::<Instant>);
    while let Ok(job) = jobs.recv() {
        for job in std::iter::once(job).chain(jobs.try_iter()) {
            match job {
                // A failure has no place to be reported: the program's log may go to the same output.
                Job::Line(line) => drop(writeln!(output, "{}", escape(&line, notation))),
                Job::Flush(done) => {
                    let _ = output.flush();
                    let _ = done.send(());
                }
            }
        }
        let _ = output.flush();
        let total = dropped.load(Ordering::Relaxed);
        if total > reported && reported_at.is_none_or(|at| at.elapsed() > WARNING_INTERVAL) {
            tracing::warn!(
                "{} lines of the access log were dropped: its reader is too slow",
                total - reported
            );
            (reported, reported_at) = (total, Some(Instant::now()));
        }
    }
}

/// What a line says that is known when the request arrives.
pub(crate) struct RequestStart {
    client: IpAddr,
    id: HeaderValue,
    method: Method,
    host: String,
    path: String,
    version: Version,
    is_tls: bool,
    referer: Option<String>,
    user_agent: Option<String>,
    /// The id of the trace that it belongs to.
    trace: Option<String>,
    /// The service that owns the claim, once that is found.
    pub(crate) service: Option<ServiceName>,
    /// The member that upgraded the connection; the tunnel has the request's own reference by the end.
    pub(crate) member: Option<Chosen>,
}

/// What a line says that is known when the request is over.
pub(crate) struct RequestEnd<'a> {
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    pub(crate) duration: Duration,
    /// From the request's arrival to the head of a backend's response.
    pub(crate) head_after: Option<Duration>,
    pub(crate) member: Option<&'a Member>,
    pub(crate) outcome: &'static str,
}

impl RequestStart {
    pub(crate) fn new<B>(request: &Request<B>, forwarding: &Forwarding, is_tls: bool) -> Self {
        let headers = request.headers();
        let text = |name| headers.get(name).map(|value: &HeaderValue| truncated(value.as_bytes()));
        let host = match request.uri().authority() {
            Some(authority) => Some(truncated(authority.as_str().as_bytes())),
            None => text(HOST),
        };
        RequestStart {
            client: forwarding.client(headers),
            id: request_id(headers, forwarding),
            method: request.method().clone(),
            host: host.unwrap_or_default(),
            // Without the query, which may hold secrets.
            path: truncated(request.uri().path().as_bytes()),
            version: request.version(),
            is_tls,
            referer: text(REFERER).map(|referer| match referer.split_once('?') {
                Some((page, _)) => page.to_owned(),
                None => referer,
            }),
            user_agent: text(USER_AGENT),
            trace: trace::id(headers).map(str::to_owned),
            service: None,
            member: None,
        }
    }

    /// The request id, which the backend gets too, so that both logs can be joined.
    pub(crate) fn id(&self) -> HeaderValue {
        self.id.clone()
    }

    fn json_line(&self, end: &RequestEnd<'_>) -> String {
        let line = JsonLine {
            time: format!("{:.3}", Timestamp::now()),
            client: self.client,
            request_id: self.id.to_str().unwrap_or_default(),
            trace_id: self.trace.as_deref(),
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
            user_agent: self.user_agent.as_deref(),
        };
        serde_json::to_string(&line).unwrap_or_default()
    }

    fn combined_line(&self, end: &RequestEnd<'_>) -> String {
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
            or_dash(&self.user_agent),
        );
        line
    }
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    client: IpAddr,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
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

/// Milliseconds with three decimals.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// The id that a trusted proxy sent, or a new one.
fn request_id(headers: &HeaderMap, forwarding: &Forwarding) -> HeaderValue {
    let is_valid = |id: &&HeaderValue| {
        (1..=MAX_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let given = headers.get(X_REQUEST_ID).filter(|_| forwarding.direct_peer().is_none()).filter(is_valid);
    given.cloned().unwrap_or_else(|| {
        let id = format!("{:032x}", fastrand::u128(..));
        HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("-"))
    })
}

fn truncated(text: &[u8]) -> String {
    let text: Cow<'_, str> = String::from_utf8_lossy(&text[..text.len().min(MAX_TEXT)]);
    text.into_owned()
}

/// A client's text between quotation marks, escaped so that it cannot end them or the line.
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
