//! The bodies of longer replies, and what happens to those that are too long for a line (PROTOCOL section 1).

use std::io::Write as _;
use std::time::SystemTime;

use base64::Engine as _;
use serde::Serialize;

use crate::protocol::report::{IdsOrCount, RouteEntry, RouteStatus, SessionInfo};
use crate::protocol::{MAX_CLIENT_LINE, MAX_LINE, Refusal, Reply, RouteId};

use super::Registry;
use super::io::{Now, SessionNo};
use super::session::{Session, uptime};
use super::stage::Staged;

/// What this server understands beyond the reference. Only what works.
const CAPABILITIES: [&str; 12] = [
    "breaker_off",
    "bulk",
    "compressed",
    "drain",
    "events",
    "h2c",
    "health_off",
    "hold",
    "maintenance",
    "pages",
    "ratelimit_off",
    "targets",
];
/// A compressed list is made from at most this much JSON: it is made between two commands of other peers.
const MAX_JSON: usize = 4 * 1024 * 1024;

impl Registry {
    pub(super) fn session_info(&self, now: Now, no: SessionNo) -> Result<Reply, Refusal> {
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        let info = SessionInfo {
            session_id: session.id().map(|id| id.reveal().to_owned()).unwrap_or_default(),
            service_name: session.registration.service.to_string(),
            instance_name: session.registration.instance.to_string(),
            connected_at: rfc3339(session.connected_at.wall),
            uptime_seconds: uptime(session, now.mono),
            routes_active: session.applied.len() as u64,
            routes_staged: session.stage.routes().len() as u64,
            last_activity: rfc3339(session.last_activity()),
            last_apply: session.last_apply.map(rfc3339).unwrap_or_default(),
            metadata: session.registration.metadata.without_secrets(),
            revision: Some(session.revision),
            server: Some(concat!("registry-server/", env!("CARGO_PKG_VERSION")).to_owned()),
            cluster_id: Some(self.config.cluster_id.clone()),
            siblings: Some(self.sessions.siblings(session) as u64).filter(|count| *count > 0),
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
        };
        bounded(Reply::SessionInfo(Box::new(info)))
    }

    pub(super) fn config_diff(&self, no: SessionNo) -> Result<Reply, Refusal> {
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        let mut diff = session.stage.diff(&session.applied, &session.defaults);
        bounded(Reply::Diff(Box::new(diff.clone()))).or_else(|_| {
            let routes = &mut diff.routes;
            for ids in [&mut routes.added, &mut routes.removed, &mut routes.modified] {
                *ids = IdsOrCount::Count(ids.count());
            }
            bounded(Reply::Diff(Box::new(diff)))
        })
    }

    /// ROUTE_LIST: all of them, or as many behind `after` as a line holds.
    pub(super) fn route_list(
        &self,
        no: SessionNo,
        compressed: bool,
        after: Option<RouteId>,
    ) -> Result<Reply, Refusal> {
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        let ids = session.route_ids().filter(|id| after.is_none_or(|after| *id > after));
        let entries = ids.filter_map(|id| entry(session, id));
        if compressed {
            return compress(&take(entries, MAX_JSON, false)?);
        }
        Ok(Reply::RouteList(take(entries, room(&Reply::RouteList(Vec::new())), after.is_some())?))
    }
}

/// How much a list may add to this reply, in which it is empty.
pub(super) fn room(empty: &Reply) -> usize {
    MAX_LINE.saturating_sub(empty.encode().len())
}

/// Takes entries until their JSON is longer than `room`, which is an error unless a page was asked for.
pub(super) fn take<T: Serialize>(
    entries: impl Iterator<Item = T>,
    room: usize,
    page: bool,
) -> Result<Vec<T>, Refusal> {
    let (mut length, mut taken) = (0, Vec::new());
    for entry in entries {
        let comma = usize::from(!taken.is_empty());
        // Separators in values are escaped, but no value here can hold one.
        length += comma + serde_json::to_string(&entry).map_or(0, |json| json.len());
        if length <= room {
            taken.push(entry);
        } else if page && !taken.is_empty() {
            break;
        } else {
            return Err(Refusal::ResponseTooLarge);
        }
    }
    Ok(taken)
}

/// An active route is listed as it is in force, whatever is staged for it.
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

pub(super) fn bounded(reply: Reply) -> Result<Reply, Refusal> {
    if reply.encode().len() > MAX_LINE { Err(Refusal::ResponseTooLarge) } else { Ok(reply) }
}

/// Whole seconds in UTC. A clock that is out of all bounds is shown as nothing.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let timestamp = jiff::Timestamp::try_from(time).and_then(|t| t.round(jiff::Unit::Second));
    timestamp.map(|t| t.to_string()).unwrap_or_default()
}
