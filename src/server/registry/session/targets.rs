//! Which of a session's settings a command means.

use super::Session;
use crate::server::registry::model::Slot;
use registry_client::protocol::{Refusal, RouteSpec, Target, TargetItem};

/// Whose settings a target means. `SERVICE` means other sessions' routes too, whose stages are their own.
pub(crate) fn slots(session: &Session, target: &Target) -> Result<Vec<Slot>, Refusal> {
    let Target::Some(items) = target else { return Ok(vec![Slot::All]) };
    let mut slots = Vec::new();
    for item in items {
        let before = slots.len();
        match item {
            TargetItem::Route(id) => slots.extend(session.spec(*id).map(|_| Slot::Route(*id))),
            TargetItem::Path(path) => slots.extend(slots_where(session, |spec| spec.path == *path)),
            TargetItem::Domain(domain) => {
                slots.extend(slots_where(session, |spec| spec.domains.as_slice().contains(domain)));
            }
            TargetItem::Service => {}
        }
        if slots.len() == before {
            return Err(Refusal::UnknownTarget(item.to_string()));
        }
    }
    Ok(slots)
}

/// The routes, applied and staged, that are as asked for.
fn slots_where(session: &Session, is: impl Fn(&RouteSpec) -> bool) -> Vec<Slot> {
    let all = session.route_ids();
    all.filter(|id| session.spec(*id).is_some_and(&is)).map(Slot::Route).collect()
}
