//! DRAIN_START, DRAIN_STATUS and DRAIN_CANCEL (PROTOCOL section 3, SEMANTICS section 6).

use std::time::{Duration, SystemTime};

use crate::protocol::report::DrainStatus;
use crate::protocol::{Refusal, Reply};
use crate::server::routing::Drain;

use super::Registry;
use super::io::{Now, SessionNo};
use super::report::rfc3339;
use super::timers::Timer;

/// A session's drain, until it is cancelled or the session ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draining {
    pub(super) drain: Drain,
    /// How long was asked for; the drain itself may be over earlier.
    asked: Duration,
    started_at: SystemTime,
}

impl Registry {
    /// The weight of the session's members falls from now on, and that of those it adds meanwhile.
    pub(super) fn drain_start(&mut self, now: Now, no: SessionNo, asked: Duration) -> Result<Reply, Refusal> {
        let drain = Drain { since: now.mono, time: asked };
        let end = now.mono.checked_add(asked).zip(now.wall.checked_add(asked));
        let (end, complete) = end.ok_or_else(|| Refusal::InvalidDuration(format!("{asked:?}")))?;
        let session = self.sessions.get_mut(no).ok_or(Refusal::SessionNotFound)?;
        session.drain = Some(Draining { drain, asked, started_at: now.wall });
        self.timers.set(Timer::Drain(no), end);
        self.show_drain(no);
        Ok(Reply::DrainStarted(rfc3339(complete)))
    }

    /// What is left of it. A drain is over as soon as nothing is in flight.
    pub(super) fn drain_status(&mut self, now: Now, no: SessionNo) -> Result<Reply, Refusal> {
        let mut draining = self.draining(no)?;
        let mut busy = self.pools.busy(self.members(no));
        if busy.in_flight == 0 && !draining.drain.is_over(now.mono) {
            draining.drain.time = now.mono.saturating_duration_since(draining.drain.since);
            if let Some(session) = self.sessions.get_mut(no) {
                session.drain = Some(draining);
            }
            self.drain_over(no);
            // Somebody may have come before the door was closed.
            busy = self.pools.busy(self.members(no));
        }
        let elapsed = now.mono.saturating_duration_since(draining.drain.since);
        let remaining = draining.drain.time.saturating_sub(elapsed);
        let weight = if busy.usable { draining.drain.weight(now.mono) } else { 0.0 };
        Ok(Reply::DrainStatus(DrainStatus {
            active: true,
            started_at: rfc3339(draining.started_at),
            duration_seconds: draining.asked.as_secs_f64(),
            elapsed_seconds: elapsed.as_secs_f64(),
            remaining_seconds: remaining.as_secs_f64(),
            traffic_percent: weight * 100.0,
            in_flight: Some(busy.in_flight),
            upgraded: Some(busy.upgraded),
        }))
    }

    pub(super) fn drain_cancel(&mut self, no: SessionNo) -> Result<Reply, Refusal> {
        self.draining(no)?;
        if let Some(session) = self.sessions.get_mut(no) {
            session.drain = None;
        }
        self.timers.cancel(Timer::Drain(no));
        self.show_drain(no);
        Ok(Reply::DrainOk)
    }

    /// Nothing new goes to the session's members.
    pub(super) fn drain_over(&mut self, no: SessionNo) {
        self.timers.cancel(Timer::Drain(no));
        self.show_drain(no);
    }

    fn draining(&self, no: SessionNo) -> Result<Draining, Refusal> {
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        session.drain.ok_or(Refusal::NoDrain)
    }

    fn members(&self, no: SessionNo) -> impl Iterator<Item = crate::server::routing::MemberId> {
        self.sessions.get(no).into_iter().flat_map(|session| session.members.iter())
    }

    fn show_drain(&mut self, no: SessionNo) {
        let Some(session) = self.sessions.get(no) else { return };
        let drain = session.drain.map(|draining| draining.drain);
        for id in session.members.iter() {
            self.pools.set_drain(id, drain);
        }
    }
}
