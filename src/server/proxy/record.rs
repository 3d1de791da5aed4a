//! What is known of a request when it is over: the one place for logs and statistics.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Request, StatusCode, Version};
use tokio::sync::watch;

use crate::server::routing::{Admission, Extras, InFlight, Outcome, Seen};

use super::body::Progress;
use super::connection::ClientConnection;
use super::upstream::Sender;

/// One request, from its head to the last byte of its response. Written when it is dropped, however the
/// request came to its end.
pub(super) struct Record {
    client: Rc<ClientConnection>,
    started: Instant,
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
}

/// How a request came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
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
    pub(super) fn begin<B>(client: Rc<ClientConnection>, request: &Request<B>, now: Instant) -> Self {
        client.request_begins();
        let line = tracing::enabled!(tracing::Level::DEBUG).then(|| {
            let host = request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
            format!("{} {}{}", request.method(), host.unwrap_or_default(), request.uri().path()).into()
        });
        let ends_with_connection = request.version() < Version::HTTP_11;
        Record {
            client,
            started: now,
            lease: None,
            admission: None,
            answer: None,
            upload: None,
            bytes: 0,
            end: End::Cancelled,
            ends_with_connection,
            line,
        }
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// `lease`'s member gets the request; the one before, if any, has it no longer.
    pub(super) fn sent_to(&mut self, lease: InFlight) {
        self.lease = Some(lease);
    }

    /// What is known of the request's body while it goes up.
    pub(super) fn uploads(&mut self, progress: Option<Rc<Progress>>) {
        self.upload = progress;
    }

    /// The member that had the request has it no longer.
    pub(super) fn taken_back(&mut self) {
        self.lease = None;
        self.admission = None;
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
            let (instance, backend) = (&member.instance, &member.backend);
            tracing::warn!(%instance, %backend, "the circuit breaker is open");
        }
    }

    pub(super) fn answered(&mut self, status: StatusCode) {
        self.answer = Some((status, self.started.elapsed()));
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    pub(super) fn end(&mut self, end: End) {
        self.end = end;
        if end == End::Complete
            && let Some(admission) = &self.admission
        {
            admission.completed(Instant::now());
        }
        if end == End::Broken && self.ends_with_connection {
            self.client.reset();
        }
    }

    /// What the route of the member that got it says.
    pub(super) fn extras(&self) -> Option<&Extras> {
        self.lease.as_ref().map(|member| &member.extras)
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
        if member.load.record(outcome, now).is_some() && member.load.is_ejected(now) {
            let (instance, backend) = (&member.instance, &member.backend);
            tracing::warn!(%instance, %backend, "does not answer; left out for a while");
        }
    }

    /// The connection that the response came on is free.
    pub(super) fn give_back(&self, sender: Sender) {
        if let Some(member) = &self.lease {
            self.client.worker.pool.put(member.id, sender, Instant::now());
        }
    }

    /// Tells when members have left.
    pub(super) fn departures(&self) -> watch::Receiver<()> {
        self.client.worker.shared.table.departures()
    }

    /// The request became a tunnel, which is counted on its own.
    pub(super) fn into_lease(mut self) -> Option<InFlight> {
        self.end = End::Upgraded;
        if let Some(admission) = &self.admission {
            admission.completed(Instant::now());
        }
        self.count();
        self.lease.take()
    }
}

impl Record {
    /// Counts the request for the route of the member that got it.
    fn count(&self) {
        let Some(member) = &self.lease else { return };
        member.extras.route.record(&Seen {
            answer: self.answer.map(|(status, latency)| (status.as_u16(), latency)),
            sent: self.bytes,
            received: self.upload.as_ref().map_or(0, |progress| progress.received.get()),
            broken: self.end == End::Broken,
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.client.request_ends();
        self.count();
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        tracing::debug!(
            request = self.line.as_deref(),
            member = self.lease.as_ref().map(|member| member.instance.as_str()),
            status = self.answer.map(|(status, _)| status.as_u16()),
            millis = self.started.elapsed().as_millis() as u64,
            bytes = self.bytes,
            end = ?self.end,
            "request"
        );
    }
}
