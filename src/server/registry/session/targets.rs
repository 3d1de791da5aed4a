//! The routes that a command's target means.

use registry_client::protocol::RouteOrAll;
use registry_client::protocol::{Refusal, RouteSpec, Target, TargetItem};

use super::Session;

/// The routes of a session that a target means, or all of them. `SERVICE` is none of these: it means the routes of other
/// sessions too.
pub(crate) fn targets(session: &Session, target: &Target) -> Result<Vec<RouteOrAll>, Refusal> {
    let Target::Some(items) = target else { return Ok(vec![RouteOrAll::All]) };
    let mut targets = Vec::new();
    for item in items {
        let before = targets.len();
        match item {
            TargetItem::Route(id) => targets.extend(session.spec(*id).map(|_| RouteOrAll::Route(*id))),
            TargetItem::Path(path) => targets.extend(routes_where(session, |spec| spec.path == *path)),
            TargetItem::Domain(domain) => {
                targets.extend(routes_where(session, |spec| spec.domains.as_slice().contains(domain)));
            }
            TargetItem::Service => {}
        }
        if targets.len() == before {
            return Err(Refusal::UnknownTarget(item.to_string()));
        }
    }
    Ok(targets)
}

/// The routes, applied and staged, for which `is` holds.
fn routes_where(session: &Session, is: impl Fn(&RouteSpec) -> bool) -> Vec<RouteOrAll> {
    let all = session.route_ids();
    all.filter(|id| session.spec(*id).is_some_and(&is)).map(RouteOrAll::Route).collect()
}
