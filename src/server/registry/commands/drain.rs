//! DRAIN_START, DRAIN_STATUS and DRAIN_CANCEL (PROTOCOL section 3, SEMANTICS section 6).

use std::time::Duration;

use registry_client::protocol::report::DrainStatus;
use registry_client::protocol::{Refusal, Reply};

use crate::server::registry::engine::{Engine, Outcome};
use crate::server::registry::model::{ConnId, Now, SessionNo};
use crate::server::registry::session::Draining;
use crate::server::routing::Drain;

use super::limited_reply::rfc3339;

/// DRAIN_START: the weight of the session's members falls from now on, and that of members that it adds meanwhile.
pub(super) fn drain_start(
    engine: &mut Engine,
    now: Now,
    conn: ConnId,
    no: SessionNo,
    asked: Duration,
) -> Result<Outcome, Refusal> {
    let drain = Drain { since: now.mono, time: asked };
    let end = now.mono.checked_add(asked).zip(now.wall.checked_add(asked));
    let (end, complete) = end.ok_or_else(|| Refusal::InvalidDuration(format!("{asked:?}")))?;
    engine.session(no)?;
    let draining = Draining { drain, asked, started_at: now.wall };
    Ok(engine.start_drain(now, conn, no, draining, end, Reply::DrainStarted(rfc3339(complete))))
}

/// DRAIN_STATUS. A drain is over as soon as no request is in flight at any replica.
pub(crate) fn drain_status(engine: &mut Engine, now: Now, no: SessionNo) -> Result<Reply, Refusal> {
    let mut draining = draining(engine, no)?;
    let mut remaining_work = engine.membership().remaining_work(members(engine, no));
    let elsewhere = engine.work_elsewhere(no);
    let is_idle = elsewhere.is_complete && remaining_work.in_flight + elsewhere.left.in_flight == 0;
    if is_idle && !draining.drain.is_over(now.mono) {
        draining.drain.time = now.mono.saturating_duration_since(draining.drain.since);
        engine.end_drain(no, draining);
        // A request may have come before the members were closed.
        remaining_work = engine.membership().remaining_work(members(engine, no));
    }
    // A replica that has not said what it has left, or still sends requests to a member that is closed here, is busy.
    let is_closing = draining.drain.is_over(now.mono) && elsewhere.left.usable;
    let busy = u64::from(!elsewhere.is_complete || is_closing);
    let elapsed = now.mono.saturating_duration_since(draining.drain.since);
    let remaining = draining.drain.time.saturating_sub(elapsed);
    let weight = if remaining_work.usable { draining.drain.weight(now.mono) } else { 0.0 };
    Ok(Reply::DrainStatus(DrainStatus {
        active: true,
        started_at: rfc3339(draining.started_at),
        duration_seconds: draining.asked.as_secs_f64(),
        elapsed_seconds: elapsed.as_secs_f64(),
        remaining_seconds: remaining.as_secs_f64(),
        traffic_percent: weight * 100.0,
        in_flight: Some(remaining_work.in_flight + elsewhere.left.in_flight.max(busy)),
        upgraded: Some(remaining_work.upgraded + elsewhere.left.upgraded),
    }))
}

pub(super) fn drain_cancel(
    engine: &mut Engine,
    now: Now,
    conn: ConnId,
    no: SessionNo,
) -> Result<Outcome, Refusal> {
    draining(engine, no)?;
    Ok(engine.stop_drain(now, conn, no))
}

fn draining(engine: &Engine, no: SessionNo) -> Result<Draining, Refusal> {
    let session = engine.session(no)?;
    session.drain.ok_or(Refusal::NoDrain)
}

fn members(engine: &Engine, no: SessionNo) -> impl Iterator<Item = crate::server::routing::MemberId> {
    engine.sessions().get(no).into_iter().flat_map(|session| session.members.iter())
}
