//! The member that has a request, and what its ejection and its circuit breaker learn of the outcome
//! (SEMANTICS section 3).

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::server::live_table::LiveTable;
use crate::server::proxy::http::flaw::Flaw;
use crate::server::proxy::upstream::recovery::Permit;
use crate::server::routing::{Admission, BreakerEvent, Chosen, Claim, InFlight, Member, Outcome};

/// A member that has a request. The request counts as in flight there until this is dropped.
pub(super) struct Assignment {
    in_flight: InFlight,
    /// What the member's circuit breaker, if it has one, expects to hear about.
    admission: Option<Admission>,
    /// The request's permit, if the member could not be connected to a moment ago.
    permit: Option<Permit>,
}

impl Assignment {
    /// Gives the request to `chosen`. `None` if the member takes no more requests, or its circuit breaker does not let
    /// this one through: another core may have changed either since the member was chosen.
    pub(super) fn new(chosen: Chosen, now: Instant) -> Option<Self> {
        let in_flight = InFlight::admit(chosen)?;
        let admission = match in_flight.terms.extras.breaker() {
            None => None,
            Some(rule) => Some(Admission::ask(&in_flight.route, rule, now)?),
        };
        Some(Assignment { in_flight, admission, permit: None })
    }

    /// Gives the request to the backend of a maintenance page, which has no circuit breaker.
    pub(super) fn to_page(chosen: Chosen) -> Option<Self> {
        InFlight::admit(chosen).map(|in_flight| Assignment { in_flight, admission: None, permit: None })
    }

    /// The request had to wait for this permit.
    pub(super) fn with_permit(self, permit: Option<Permit>) -> Self {
        Assignment { permit, ..self }
    }

    pub(super) fn member(&self) -> &Member {
        &self.in_flight
    }

    pub(super) fn chosen(&self) -> &Chosen {
        &self.in_flight
    }

    /// The claim that the member was chosen from; `None`: it is the backend of a maintenance page.
    pub(super) fn claim(&self) -> Option<&Claim> {
        match self.chosen() {
            Chosen::Of(claim, _) => Some(claim),
            Chosen::Page(_) => None,
        }
    }

    /// How many bytes the request's body may have.
    pub(super) fn body_limit(&self) -> Option<NonZeroU64> {
        self.claim()?.terms.extras.guards()?.body_limit
    }

    pub(super) fn into_in_flight(self) -> InFlight {
        self.in_flight
    }

    /// Whether the member takes no more requests.
    pub(super) fn has_left(&self) -> bool {
        self.in_flight.load.is_closed()
    }

    /// The member sent the head of a response. A server error counts as a failure for the circuit breaker, not for
    /// ejection.
    pub(super) fn answered(&self, status: StatusCode, table: &LiveTable) {
        if let Some(permit) = &self.permit {
            permit.answered();
        }
        if !self.in_flight.load.is_well() {
            report_ejection(self.member(), Outcome::Answered, table);
        }
        match &self.admission {
            Some(_) if status.is_server_error() => self.response_failed(),
            Some(admission) => admission.answered(Instant::now()),
            None => {}
        }
    }

    /// The member could not be connected to, or it broke the connection.
    pub(super) fn connection_failed(&self, table: &LiveTable) {
        self.response_failed();
        report_ejection(self.member(), Outcome::Failed, table);
    }

    /// How long requests wait for the claim that the member was chosen from. `None`: not at all.
    pub(super) fn hold(&self) -> Option<Duration> {
        self.claim().map(|claim| claim.terms.hold).filter(|hold| !hold.is_zero())
    }

    /// The member's response is late, invalid or a server error, which concerns its circuit breaker only.
    pub(super) fn response_failed(&self) {
        let Some(admission) = &self.admission else { return };
        if admission.failed(Instant::now()) {
            warn_of_open_breaker(self.member());
        }
    }

    /// The member's response is no HTTP.
    pub(super) fn response_invalid(&self, flaw: Flaw) {
        self.response_failed();
        let member = self.member();
        if member.load.may_tell(Instant::now()) {
            let (instance, backend) = (&member.terms.instance, &member.backend);
            tracing::warn!(%instance, %backend, "a response is no HTTP: {flaw}");
        }
    }

    /// The response is complete.
    pub(super) fn completed(&self, now: Instant) {
        if let Some(admission) = &self.admission {
            admission.completed(now);
        }
    }

    /// The circuit breaker hears nothing more of this request.
    pub(super) fn release_breaker(&mut self) {
        self.admission = None;
    }
}

/// A dial of the proxy's own failed, which counts as one failed request: for ejection, and for the circuit breaker. Returns
/// whether that has opened the breaker.
pub(super) fn dial_failed(member: &Member, table: &LiveTable) -> bool {
    report_ejection(member, Outcome::Failed, table);
    let Some(rule) = member.terms.extras.breaker() else { return false };
    let is_opened = member.route.breaker().record(rule, BreakerEvent::Failed, Instant::now());
    if is_opened {
        warn_of_open_breaker(member);
    }
    is_opened
}

fn warn_of_open_breaker(member: &Member) {
    let (instance, backend) = (&member.terms.instance, &member.backend);
    tracing::warn!(%instance, %backend, "the circuit breaker is open");
}

fn report_ejection(member: &Member, outcome: Outcome, table: &LiveTable) {
    let now = Instant::now();
    if member.load.record(outcome, now).is_none() {
        return;
    }
    let is_ejected = member.load.is_ejected(now);
    if is_ejected || outcome == Outcome::Answered {
        table.announce_ejection(member.id);
    }
    if is_ejected {
        let (instance, backend) = (&member.terms.instance, &member.backend);
        tracing::warn!(%instance, %backend, "does not answer; left out for a while");
    }
}
