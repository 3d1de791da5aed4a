//! What is known of a request when it is over: the one place for logs and statistics.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderMap;
use http::{Request, StatusCode, Version};
use tokio::sync::watch;

use crate::server::routing::{Admission, Chosen, Claim, Extras, InFlight, Member, Outcome, Seen};

use super::access_log::{Ending, Entry, X_REQUEST_ID};
use super::alarm::Alarm;
use super::body::Progress;
use super::connection::ClientConnection;
use super::meter::Meter;
use super::upstream::Sender;
use super::worker::Worker;

/// What the access log has for a client that went away before there was an answer; nginx's number for it.
const CLIENT_GONE: u16 = 499;

/// One request, from its head to the last byte of its response. Written when it is dropped, however the
/// request came to its end. Kept in a box: it goes from hand to hand with each step of the request.
pub(super) struct Record {
    client: Rc<ClientConnection>,
    started: Instant,
    /// The time when it was last looked at: not long ago.
    now: Instant,
    /// When it was over, where that was looked up already.
    ended: Option<Instant>,
    /// For whatever is being waited for.
    alarm: Alarm,
    /// The member that got it, if any; it counts as in flight there.
    lease: Option<InFlight>,
    /// What the member's circuit breaker is to hear about.
    admission: Option<Admission>,
    /// The response's status, and when it was known.
    answer: Option<(StatusCode, Duration)>,
    /// The request's body, if it has one.
    upload: Option<Rc<Progress>>,
    bytes: u64,
    end: End,
    /// The response may end with its connection (HTTP/1.0).
    ends_with_connection: bool,
    /// `GET example.com/path`, only when somebody reads it.
    line: Option<Box<str>>,
    /// For the access log, if there is one.
    entry: Option<Box<Entry>>,
    /// The response is a page of ours.
    is_page: bool,
    /// Where the request is counted, if somebody owns its host and path and anybody counts.
    meter: Option<Arc<Meter>>,
}

/// How a request came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The whole response was handed over.
    Complete,
    /// The client went away.
    Cancelled,
    /// The backend broke its response off.
    Broken,
    /// The connection became a tunnel.
    Upgraded,
}

impl Record {
    pub(super) fn begin<B>(client: Rc<ClientConnection>, request: &Request<B>, now: Instant) -> Box<Self> {
        client.request_begins();
        let line = tracing::enabled!(tracing::Level::DEBUG).then(|| {
            let host = request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
            format!("{} {}{}", request.method(), host.unwrap_or_default(), request.uri().path()).into()
        });
        let log = client.worker.shared.config.access_log.as_ref();
        let entry = log.map(|_| Box::new(Entry::of(request, &client.forwarding, client.is_tls)));
        let ends_with_connection = request.version() < Version::HTTP_11;
        Box::new(Record {
            alarm: client.take_alarm(),
            client,
            started: now,
            now,
            ended: None,
            lease: None,
            admission: None,
            answer: None,
            upload: None,
            bytes: 0,
            end: End::Cancelled,
            ends_with_connection,
            line,
            entry,
            is_page: false,
            meter: None,
        })
    }

    /// About what time it is. Looking at the clock costs as much as finding a route, so it is done only where there
    /// may have been a wait.
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// It is `now` after a wait.
    pub(super) fn look_at(&mut self, now: Instant) {
        self.now = now;
    }

    /// The timer of what is being waited for. Only one thing is at a time.
    pub(super) fn alarm(&mut self) -> &mut Alarm {
        &mut self.alarm
    }

    /// Tells the backend the id that the access log has.
    pub(super) fn pass_id_on(&self, headers: &mut HeaderMap) {
        if let Some(entry) = &self.entry {
            headers.insert(X_REQUEST_ID, entry.id());
        }
    }

    /// Whom the request is for.
    pub(super) fn claimed(&mut self, claim: &Claim) {
        self.meter = self.client.worker.meters.as_ref().map(|meters| meters.of(&claim.terms.service));
        if let Some(entry) = &mut self.entry {
            entry.service = Some(claim.terms.service.clone());
        }
    }

    /// `lease`'s member gets the request; the one before, if any, has it no longer.
    pub(super) fn sent_to(&mut self, lease: InFlight) {
        self.lease = Some(lease);
    }

    /// What is known of the request's body while it goes up.
    pub(super) fn uploads(&mut self, progress: Option<Rc<Progress>>) {
        self.upload = progress;
    }

    /// The member that has the request.
    pub(super) fn member(&self) -> Option<&Member> {
        self.lease.as_ref().map(|lease| &***lease)
    }

    /// The member that had the request has it no longer. Whether it has left.
    pub(super) fn taken_back(&mut self) -> bool {
        self.admission = None;
        self.lease.take().is_some_and(|lease| lease.load.is_closed())
    }

    /// The circuit breaker of the member that gets the request next let it through.
    pub(super) fn admitted(&mut self, admission: Option<Admission>) {
        self.admission = admission;
    }

    /// Tells the member's circuit breaker about a response's head: a server error is a failure.
    pub(super) fn judge(&self, status: StatusCode) {
        match &self.admission {
            Some(_) if status.is_server_error() => self.failed(),
            Some(admission) => admission.answered(Instant::now()),
            None => {}
        }
    }

    /// Tells the member's circuit breaker that the request failed.
    pub(super) fn failed(&self) {
        let Some(admission) = &self.admission else { return };
        if admission.failed(Instant::now())
            && let Some(member) = &self.lease
        {
            let (instance, backend) = (&member.terms.instance, &member.backend);
            tracing::warn!(%instance, %backend, "the circuit breaker is open");
        }
    }

    pub(super) fn answered(&mut self, status: StatusCode) {
        self.answer = Some((status, self.started.elapsed()));
    }

    /// The response is a page of ours.
    pub(super) fn answered_by_us(&mut self, status: StatusCode) {
        self.is_page = true;
        self.answered(status);
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The whole response was handed over.
    pub(super) fn complete(&mut self, now: Instant) {
        self.end = End::Complete;
        self.ended = Some(now);
        if let Some(admission) = &self.admission {
            admission.completed(now);
        }
    }

    /// The backend broke its response off.
    pub(super) fn broken(&mut self) {
        self.end = End::Broken;
        if self.ends_with_connection {
            self.client.reset();
        }
    }

    /// Whether the client speaks HTTP/1.0 and knows no chunks.
    pub(super) fn is_old(&self) -> bool {
        self.ends_with_connection
    }

    pub(super) fn client(&self) -> &ClientConnection {
        &self.client
    }

    pub(super) fn worker(&self) -> &Rc<Worker> {
        &self.client.worker
    }

    /// What the route of the member that got it says.
    pub(super) fn extras(&self) -> Option<&Extras> {
        self.lease.as_ref().map(|member| &member.terms.extras)
    }

    /// Tells the member's ejection what was found out.
    pub(super) fn note(&self, outcome: Outcome) {
        let Some(member) = &self.lease else { return };
        if outcome == Outcome::Failed {
            self.failed();
        }
        if outcome == Outcome::Answered && member.load.is_well() {
            return;
        }
        let now = Instant::now();
        if member.load.record(outcome, now).is_none() {
            return;
        }
        let is_ejected = member.load.is_ejected(now);
        if is_ejected || outcome == Outcome::Answered {
            self.client.worker.shared.table.tell_ejection(member.id);
        }
        if is_ejected {
            let (instance, backend) = (&member.terms.instance, &member.backend);
            tracing::warn!(%instance, %backend, "does not answer; left out for a while");
        }
    }

    /// The connection that the response came on is free.
    pub(super) fn give_back(&self, sender: Sender, now: Instant) {
        if let Some(member) = &self.lease {
            self.client.worker.pool.put(member.id, sender, now);
        }
    }

    /// Tells when members have left.
    pub(super) fn departures(&self) -> watch::Receiver<()> {
        self.client.worker.shared.table.departures()
    }

    /// The request became a tunnel, which is counted on its own.
    pub(super) fn into_lease(mut self: Box<Self>) -> Option<InFlight> {
        self.end = End::Upgraded;
        if let Some(admission) = &self.admission {
            admission.completed(Instant::now());
        }
        if let (Some(entry), Some(member)) = (&mut self.entry, &self.lease) {
            entry.member = Some(Chosen::clone(member));
        }
        self.count();
        self.lease.take()
    }

    /// Counts the request for its service.
    fn meter(&self, took: Duration) {
        let nobody = || self.client.worker.meters.as_ref().map(|meters| &meters.nobody);
        if let Some(meter) = self.meter.as_ref().or_else(nobody) {
            meter.record(self.answer.map(|(status, _)| status.as_u16()), took);
        }
    }

    fn log(&self, took: Duration) {
        let (Some(log), Some(entry)) = (&self.client.worker.shared.config.access_log, &self.entry) else {
            return;
        };
        let member = self.lease.as_deref().or(entry.member.as_ref());
        let outcome = match self.end {
            End::Complete if self.is_page => "page",
            End::Complete => "complete",
            End::Cancelled => "cancelled",
            End::Broken => "broken",
            End::Upgraded => "upgraded",
        };
        let end = Ending {
            status: self.answer.map_or(CLIENT_GONE, |(status, _)| status.as_u16()),
            bytes: self.bytes,
            duration: took,
            head_after: self.answer.filter(|_| !self.is_page).map(|(_, latency)| latency),
            member: member.map(|member| &**member),
            outcome,
        };
        log.log(entry, &end);
    }

    /// Counts the request for the route of the member that got it.
    fn count(&self) {
        let Some(member) = &self.lease else { return };
        let seen = Seen {
            answer: self.answer.map(|(status, latency)| (status.as_u16(), latency)),
            sent: self.bytes,
            received: self.upload.as_ref().map_or(0, |progress| progress.received.get()),
            broken: self.end == End::Broken,
        };
        member.route.record(&seen, self.client.worker.number());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = self.ended.unwrap_or_else(Instant::now);
        let took = now.saturating_duration_since(self.started);
        let is_tunnel = self.end == End::Upgraded;
        self.client.request_ends(now, std::mem::take(&mut self.alarm), is_tunnel);
        self.count();
        self.meter(took);
        self.log(took);
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        tracing::debug!(
            request = self.line.as_deref(),
            member = self.lease.as_ref().map(|member| member.terms.instance.as_str()),
            status = self.answer.map(|(status, _)| status.as_u16()),
            millis = took.as_millis() as u64,
            bytes = self.bytes,
            end = ?self.end,
            "request"
        );
    }
}
