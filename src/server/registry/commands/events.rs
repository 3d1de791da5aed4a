//! SUBSCRIBE and UNSUBSCRIBE (PROTOCOL section 3).

use crate::server::registry::engine::Engine;
use crate::server::registry::model::{ConnId, SessionNo};
use registry_client::protocol::{EventKind, Refusal, Reply};

/// Sessions that one connection may have subscriptions of. A connection has one session of its own; the others
/// are those whose ids it knows.
const SESSIONS_PER_CONNECTION: usize = 16;

/// SUBSCRIBE. Each type is subscribed to by itself, and `all` is one of them.
pub(crate) fn subscribe(
    engine: &mut Engine,
    conn: ConnId,
    no: SessionNo,
    kind: EventKind,
) -> Result<Reply, Refusal> {
    let sessions = engine.subscribed_sessions(conn);
    if sessions.len() >= SESSIONS_PER_CONNECTION && !sessions.contains(&no) {
        return Err(Refusal::Other("too many subscriptions".to_owned()));
    }
    engine.change_subscription((conn, no), |kinds| _ = kinds.insert(kind))?;
    Ok(Reply::SubscribeOk)
}

/// UNSUBSCRIBE. Not to be subscribed is no error.
pub(super) fn unsubscribe(
    engine: &mut Engine,
    conn: ConnId,
    no: SessionNo,
    kind: EventKind,
) -> Result<Reply, Refusal> {
    engine.change_subscription((conn, no), |kinds| _ = kinds.remove(&kind))?;
    Ok(Reply::UnsubscribeOk)
}
