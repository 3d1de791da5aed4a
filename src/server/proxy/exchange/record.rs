//! What the access log, the metrics and the route's statistics say about a request. It is written once, when the record
//! is dropped, however the request ends.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HOST, HeaderMap, HeaderValue, SET_COOKIE, TRANSFER_ENCODING};
use http::{Request, StatusCode, Version};

use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::proxy::client_state::timer::Timer;
use crate::server::proxy::telemetry::access_log::{RequestEnd, RequestStart, X_REQUEST_ID};
use crate::server::proxy::telemetry::request_metrics::RequestCounters;
use crate::server::proxy::upstream::request_body::UploadProgress;
use crate::server::routing::{Chosen, Claim, FinishedRequest, InFlight, Member};

use super::assignment::Assignment;

/// The status in the access log if the client went away before there was a response; nginx uses the same number.
const CLIENT_GONE: u16 = 499;

/// One request, from its head to the last byte of its response. Boxed, because it moves with each step of the request.
pub(crate) struct Record {
    client: Rc<ClientConnection>,
    started: Instant,
    /// When the clock was last read; not long ago.
    now: Instant,
    /// When the response was complete, if it was.
    ended: Option<Instant>,
    /// The connection's timer, for whatever the request waits for.
    timer: Timer,
    assignment: Option<Assignment>,
    /// The response's status, and the time until it was known.
    answer: Option<(StatusCode, Duration)>,
    /// The request's body, if it has one.
    upload: Option<Rc<UploadProgress>>,
    /// How many bytes of the response's body were sent.
    bytes: u64,
    end: End,
    is_http10: bool,
    /// The request's body comes in chunks.
    is_chunked: bool,
    /// `GET example.com/path` for the debug log, if that is on.
    line: Option<Box<str>>,
    /// What the access log says, if there is one.
    log_start: Option<Box<RequestStart>>,
    /// The response is a page of the proxy.
    is_page: bool,
    /// The cookie that the response sets, because the route is sticky and the client comes to another member.
    cookie: Option<Box<HeaderValue>>,
    /// The service's counters, if there is a claim and requests are counted.
    counters: Option<Arc<RequestCounters>>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The whole response was sent.
    Complete,
    /// The client went away.
    Cancelled,
    /// The backend broke its response off.
    Broken,
    /// The connection became a tunnel.
    Upgraded,
}

/// What asking one member takes from the record.
pub(super) struct Turn<'a> {
    pub(super) assignment: &'a Assignment,
    pub(super) timer: &'a mut Timer,
    pub(super) now: Instant,
}

impl Record {
    pub(super) fn begin<B>(client: Rc<ClientConnection>, request: &Request<B>, now: Instant) -> Box<Self> {
        client.request_begins();
        let line = tracing::enabled!(tracing::Level::DEBUG).then(|| {
            let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
            format!("{} {}{}", request.method(), host.unwrap_or_default(), request.uri().path()).into()
        });
        let log = client.context.proxy.config.access_log.as_ref();
        let log_start = log.map(|_| Box::new(RequestStart::new(request, &client.forwarding, client.is_tls)));
        Box::new(Record {
            timer: client.take_timer(),
            client,
            started: now,
            now,
            ended: None,
            assignment: None,
            answer: None,
            upload: None,
            bytes: 0,
            end: End::Cancelled,
            is_http10: request.version() < Version::HTTP_11,
            is_chunked: request.headers().contains_key(TRANSFER_ENCODING),
            line,
            log_start,
            is_page: false,
            cookie: None,
            counters: None,
        })
    }

    /// The time as of the last wait. Reading the clock costs as much as finding a claim, so it is read only where there
    /// may have been a wait.
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// The timer for what the request waits for. It waits for one thing at a time.
    pub(super) fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    pub(super) fn client(&self) -> &ClientConnection {
        &self.client
    }

    /// Adds the access log's request id to the request, so that the backend can log it too.
    pub(super) fn add_request_id(&self, headers: &mut HeaderMap) {
        if let Some(start) = &self.log_start {
            headers.insert(X_REQUEST_ID, start.id());
        }
    }

    pub(super) fn claim_found(&mut self, claim: &Claim) {
        let service = &claim.terms.service;
        self.counters = self.client.context.metrics.as_ref().map(|metrics| metrics.service(service));
        if let Some(start) = &mut self.log_start {
            start.service = Some(service.clone());
        }
    }

    pub(super) fn set_cookie(&mut self, cookie: Option<Box<HeaderValue>>) {
        self.cookie = cookie;
    }

    /// Adds the cookie to the response's headers.
    pub(super) fn put_cookie(&mut self, headers: &mut HeaderMap) {
        if let Some(cookie) = self.cookie.take() {
            headers.append(SET_COOKIE, *cookie);
        }
    }

    pub(super) fn upload_begins(&mut self, upload: Option<Rc<UploadProgress>>) {
        self.upload = upload;
    }

    /// Whether no other request may follow on the connection: the request has trailers, or it may still get some.
    ///
    /// hyper takes a bare line feed in trailers for a part of the field. A client before us that takes it for the end of
    /// the message would see another request begin there than we do, so the connection ends with this one.
    pub(super) fn is_last_of_connection(&self) -> bool {
        self.is_chunked && !self.upload.as_ref().is_some_and(|upload| upload.has_plain_end())
    }

    /// A member gets the request.
    pub(super) fn assign(&mut self, assignment: Assignment) -> Turn<'_> {
        let assignment = self.assignment.insert(assignment);
        Turn { assignment, timer: &mut self.timer, now: self.now }
    }

    /// Takes the request from its member. Returns whether the member has left.
    pub(super) fn unassign(&mut self) -> bool {
        self.assignment.take().is_some_and(|assignment| assignment.has_left())
    }

    pub(super) fn assignment(&self) -> Option<&Assignment> {
        self.assignment.as_ref()
    }

    /// The member that has the request.
    pub(super) fn member(&self) -> Option<&Member> {
        self.assignment.as_ref().map(Assignment::member)
    }

    pub(super) fn answered(&mut self, status: StatusCode) {
        self.answer = Some((status, self.started.elapsed()));
    }

    /// The response is a page of the proxy. It says nothing about the member, so the circuit breaker does not hear of
    /// it.
    pub(super) fn answered_by_page(&mut self, status: StatusCode) {
        if let Some(assignment) = &mut self.assignment {
            assignment.release_breaker();
        }
        self.is_page = true;
        self.answered(status);
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// hyper has the whole response.
    pub(super) fn complete(&mut self, now: Instant) {
        self.end = End::Complete;
        self.ended = Some(now);
        if let Some(assignment) = &self.assignment {
            assignment.completed(now);
        }
    }

    /// The backend broke its response off. An HTTP/1.0 client may take the end of the connection for the end of the
    /// response, so it gets a reset.
    pub(super) fn broken(&mut self) {
        self.end = End::Broken;
        if self.is_http10 {
            self.client.reset();
        }
    }

    /// The request becomes a tunnel, which counts on its own.
    pub(super) fn into_tunnel(mut self: Box<Self>) -> Option<InFlight> {
        self.end = End::Upgraded;
        if let Some(assignment) = &self.assignment {
            assignment.completed(Instant::now());
            if let Some(start) = &mut self.log_start {
                start.member = Some(Chosen::clone(assignment.chosen()));
            }
        }
        self.count_for_route();
        self.assignment.take().map(Assignment::into_in_flight)
    }

    fn count_for_route(&self) {
        let Some(member) = self.member() else { return };
        let seen = FinishedRequest {
            answer: self.answer.map(|(status, latency)| (status.as_u16(), latency)),
            sent: self.bytes,
            received: self.upload.as_ref().map_or(0, |upload| upload.received()),
            broken: self.end == End::Broken,
        };
        member.route.record(&seen, self.client.context.number);
    }

    fn count_for_service(&self, duration: Duration) {
        let unclaimed = || self.client.context.metrics.as_ref().map(|metrics| &metrics.unclaimed);
        if let Some(counters) = self.counters.as_ref().or_else(unclaimed) {
            counters.record(self.answer.map(|(status, _)| status.as_u16()), duration);
        }
    }

    fn log(&self, duration: Duration) {
        let log = &self.client.context.proxy.config.access_log;
        let (Some(log), Some(start)) = (log, &self.log_start) else { return };
        let logged = start.member.as_deref();
        let outcome = match self.end {
            End::Complete if self.is_page => "page",
            End::Complete => "complete",
            End::Cancelled => "cancelled",
            End::Broken => "broken",
            End::Upgraded => "upgraded",
        };
        let end = RequestEnd {
            status: self.answer.map_or(CLIENT_GONE, |(status, _)| status.as_u16()),
            bytes: self.bytes,
            duration,
            head_after: self.answer.filter(|_| !self.is_page).map(|(_, latency)| latency),
            member: self.member().or(logged),
            outcome,
        };
        log.log(start, &end);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = self.ended.unwrap_or_else(Instant::now);
        let duration = now.saturating_duration_since(self.started);
        let is_tunnel = self.end == End::Upgraded;
        self.client.request_ends(now, std::mem::take(&mut self.timer), is_tunnel);
        self.count_for_route();
        self.count_for_service(duration);
        self.log(duration);
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        tracing::debug!(
            request = self.line.as_deref(),
            member = self.member().map(|member| member.terms.instance.as_str()),
            status = self.answer.map(|(status, _)| status.as_u16()),
            millis = duration.as_millis() as u64,
            bytes = self.bytes,
            end = ?self.end,
            "request"
        );
    }
}
