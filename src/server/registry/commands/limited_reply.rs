//! Replies that may be too long for a line (PROTOCOL section 1), and how they write times.

use registry_client::protocol::{MAX_LINE, Refusal, Reply};
use serde::Serialize;
use std::time::SystemTime;

/// How much a list may add to this reply, in which it is empty.
pub(crate) fn room(empty: &Reply) -> usize {
    MAX_LINE.saturating_sub(empty.encode().len())
}

/// Takes entries until their JSON is longer than `room`, which is an error unless a page was asked for.
pub(crate) fn take<T: Serialize>(
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

pub(crate) fn bounded(reply: Reply) -> Result<Reply, Refusal> {
    if reply.encode().len() > MAX_LINE { Err(Refusal::ResponseTooLarge) } else { Ok(reply) }
}

/// Whole seconds in UTC. A clock that is out of all bounds is shown as nothing.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let timestamp = jiff::Timestamp::try_from(time).and_then(|t| t.round(jiff::Unit::Second));
    timestamp.map(|t| t.to_string()).unwrap_or_default()
}
