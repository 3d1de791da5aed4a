//! The member that has a request, and what its ejection and its circuit breaker learn of the outcome
//! (SEMANTICS section 3).

use std::time::Instant;

use http::StatusCode;

use crate::server::live_table::LiveTable;
use crate::server::routing::{Admission, Chosen, InFlight, Member, Outcome};

/// A member that has a request. The request counts as in flight there until this is dropped.
pub(super) struct Assignment {
    in_flight: InFlight,
    /// What the member's circuit breaker, if it has one, expects to hear about.
    admission: Option<Admission>,
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
        Some(Assignment { in_flight, admission })
    }

    /// Gives the request to the backend of a maintenance page, which has no circuit breaker.
    pub(super) fn to_page(chosen: Chosen) -> Option<Self> {
        InFlight::admit(chosen).map(|in_flight| Assignment { in_flight, admission: None })
    }

    pub(super) fn member(&self) -> &Member {
        &self.in_flight
    }

    pub(super) fn chosen(&self) -> &Chosen {
        &self.in_flight
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
        if !self.in_flight.load.is_well() {
            self.report_ejection(Outcome::Answered, table);
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
        self.report_ejection(Outcome::Failed, table);
    }

    /// The member's response is late, invalid or a server error, which concerns its circuit breaker only.
    pub(super) fn response_failed(&self) {
        let Some(admission) = &self.admission else { return };
        if admission.failed(Instant::now()) {
            let (instance, backend) = (&self.member().terms.instance, &self.member().backend);
            tracing::warn!(%instance, %backend, "the circuit breaker is open");
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

    fn report_ejection(&self, outcome: Outcome, table: &LiveTable) {
        let (member, now) = (self.member(), Instant::now());
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
}
