//! ROUTE_LIST, plain, in pages and compressed (PROTOCOL sections 1 and 3).

use std::io::Write as _;

use base64::Engine as _;
use registry_client::protocol::report::{RouteEntry, RouteStatus};
use registry_client::protocol::{MAX_CLIENT_LINE, Refusal, Reply, RouteId};

use crate::server::registry::engine::Engine;
use crate::server::registry::model::SessionNo;
use crate::server::registry::session::{Session, Staged};

use super::limited_reply::{room, take};

/// From how much JSON a compressed list may be made. Commands of other peers wait while it is made.
const MAX_JSON: usize = 4 * 1024 * 1024;

/// ROUTE_LIST of all routes, or of as many behind `after` as a line holds.
pub(crate) fn route_list(
    engine: &Engine,
    no: SessionNo,
    compressed: bool,
    after: Option<RouteId>,
) -> Result<Reply, Refusal> {
    let session = engine.session(no)?;
    let ids = session.route_ids().filter(|id| after.is_none_or(|after| *id > after));
    let entries = ids.filter_map(|id| entry(session, id));
    if compressed {
        return compress(&take(entries, MAX_JSON, false)?);
    }
    Ok(Reply::RouteList(take(entries, room(&Reply::RouteList(Vec::new())), after.is_some())?))
}

/// The entry of a route. An active route is listed as it is in force, whatever is staged for it.
fn entry(session: &Session, id: RouteId) -> Option<RouteEntry> {
    let (spec, status) = match (session.applied.get(&id), session.stage.routes().get(&id)) {
        (Some(applied), Some(Staged::Remove)) => (&applied.route.spec, RouteStatus::PendingRemoval),
        (Some(applied), _) => (&applied.route.spec, RouteStatus::Active),
        (None, Some(Staged::Put(spec))) => (spec, RouteStatus::Staged),
        (None, _) => return None,
    };
    Some(RouteEntry {
        route_id: id,
        domains: spec.domains.as_slice().iter().map(ToString::to_string).collect(),
        path: spec.path.to_string(),
        backend: spec.backend.to_string(),
        priority: spec.priority,
        status,
    })
}

fn compress(entries: &[RouteEntry]) -> Result<Reply, Refusal> {
    let json = serde_json::to_vec(entries).map_err(|_| Refusal::ResponseTooLarge)?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing to a Vec cannot fail.
    let zipped = gzip.write_all(&json).and_then(|()| gzip.finish()).map_err(|_| Refusal::ResponseTooLarge)?;
    let text = base64::engine::general_purpose::STANDARD.encode(zipped);
    if text.len() + "ROUTE_LIST_OK|".len() > MAX_CLIENT_LINE {
        return Err(Refusal::ResponseTooLarge);
    }
    Ok(Reply::RouteListCompressed(text))
}
