//! MAINT_ENTER, MAINT_EXIT and MAINT_STATUS (PROTOCOL sections 3 and 6, SEMANTICS section 5).

use registry_client::protocol::RouteOrAll;
use registry_client::protocol::report::MaintenanceStatus;
use registry_client::protocol::{BackendUrl, Refusal, Reply, RouteId, Target, TargetItem};

use crate::server::registry::engine::{Engine, Outcome};
use crate::server::registry::model::{ConnId, Now, SessionNo};
use crate::server::registry::session::{Place, targets};

use super::limited_reply::{bounded, rfc3339, room, take};

/// How many requests of a session, or of a connection, may be without a verdict. Further ones are refused.
const MAX_WITHOUT_VERDICT: usize = 64;

/// MAINT_ENTER. It is in force before the ACK is sent. The verdict comes when the page answers.
pub(super) fn maint_enter(
    engine: &mut Engine,
    now: Now,
    conn: ConnId,
    no: SessionNo,
    target: Target,
    page: Option<BackendUrl>,
) -> Outcome {
    let checked =
        may_enter(engine, no, &target).and_then(|()| check_request(engine, conn, no, &target, page.as_ref()));
    let places = match checked {
        Ok(places) => places,
        Err(refusal) => return Err(refusal).into(),
    };
    engine.enter_maintenance(now, conn, no, target, page, places)
}

/// MAINT_EXIT. It is in force when the backends have answered, or their time is over.
pub(super) fn maint_exit(
    engine: &mut Engine,
    now: Now,
    conn: ConnId,
    no: SessionNo,
    target: Target,
) -> Outcome {
    let places = match check_request(engine, conn, no, &target, None) {
        Ok(places) => places,
        Err(refusal) => return Err(refusal).into(),
    };
    engine.leave_maintenance(now, conn, no, target, places)
}

/// MAINT_STATUS of all routes, or of as many behind `after` as a line holds.
pub(super) fn maint_status(engine: &Engine, no: SessionNo, after: Option<RouteId>) -> Result<Reply, Refusal> {
    let session = engine.session(no)?;
    let entered = session.route_ids().filter_map(|id| Some((id, session.maintenance.entered(id)?)));
    let first = entered.clone().next().map(|(_, entered)| entered);
    let page = first.and_then(|entered| entered.shown.page.as_ref());
    let status = MaintenanceStatus {
        in_maintenance: Vec::new(),
        maintenance_backend: page.map(|page| page.backend.to_string()).unwrap_or_default(),
        entered_at: first.map(|entered| rfc3339(entered.at)).unwrap_or_default(),
    };
    let room = room(&Reply::MaintenanceStatus(status.clone()));
    let ids = entered.map(|(id, _)| id).filter(|id| after.is_none_or(|after| *id > after));
    let in_maintenance = take(ids.map(|id| id.to_string()), room, after.is_some())?;
    bounded(Reply::MaintenanceStatus(MaintenanceStatus { in_maintenance, ..status }))
}

/// Whether a session may put this into maintenance: other instances of its service only if it is one itself.
fn may_enter(engine: &Engine, no: SessionNo, target: &Target) -> Result<(), Refusal> {
    let Target::Some(items) = target else { return Ok(()) };
    if items.contains(&TargetItem::Service) && engine.session(no)?.applied.is_empty() {
        return Err(Refusal::NotAllowed("SERVICE for a session without an applied route".to_owned()));
    }
    Ok(())
}

/// Whether a request may be made. Returns what it is for.
fn check_request(
    engine: &mut Engine,
    conn: ConnId,
    no: SessionNo,
    target: &Target,
    page: Option<&BackendUrl>,
) -> Result<Vec<Place>, Refusal> {
    if let Some(page) = page {
        engine.check_backend(no, page)?;
    }
    let of_session = engine.session(no)?.maintenance.requests();
    if of_session.max(engine.verdicts_due_to(conn)) >= MAX_WITHOUT_VERDICT {
        return Err(Refusal::Other("too many maintenance requests".to_owned()));
    }
    engine.forget_unknown_maintenance(no);
    places(engine, no, target)
}

fn places(engine: &Engine, no: SessionNo, target: &Target) -> Result<Vec<Place>, Refusal> {
    let session = engine.session(no)?;
    let Target::Some(items) = target else { return Ok(vec![(no, RouteOrAll::All)]) };
    let mut places = Vec::new();
    for item in items {
        if *item == TargetItem::Service {
            let all = engine.sessions().of_service(&session.registration.service);
            places.extend(all.into_iter().map(|no| (no, RouteOrAll::All)));
        } else {
            let targets = targets(session, &Target::Some(vec![item.clone()]))?;
            places.extend(targets.into_iter().map(|target| (no, target)));
        }
    }
    Ok(places)
}
