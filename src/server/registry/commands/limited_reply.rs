//! Replies that may be too long for a line (PROTOCOL section 1), and the form of times in replies.

use std::time::SystemTime;

use registry_client::protocol::{MAX_LINE, Refusal, Reply};
use serde::Serialize;

/// How many bytes a list may add to this reply, in which the list is empty.
pub(crate) fn room(empty: &Reply) -> usize {
    MAX_LINE.saturating_sub(empty.encode().len())
}

/// Takes entries until their JSON is longer than `room` bytes. That is an error unless a page was asked for.
pub(crate) fn take<T: Serialize>(
    entries: impl Iterator<Item = T>,
    room: usize,
    page: bool,
) -> Result<Vec<T>, Refusal> {
    let (mut length, mut taken) = (0, Vec::new());
    for entry in entries {
        let comma = usize::from(!taken.is_empty());
        // The codec escapes separators in values, but no value here can contain one.
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

/// A time in whole seconds in UTC; empty for a clock beyond all bounds.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let timestamp = jiff::Timestamp::try_from(time).and_then(|t| t.round(jiff::Unit::Second));
    timestamp.map(|t| t.to_string()).unwrap_or_default()
}
