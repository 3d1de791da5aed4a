//! SUBSCRIBE and UNSUBSCRIBE (PROTOCOL section 3).

use registry_client::protocol::{EventKind, Refusal, Reply};

use crate::server::registry::engine::Engine;
use crate::server::registry::model::{ConnId, SessionNo};

/// For how many sessions a connection may have subscriptions: its own, and those whose ids it knows.
const SESSIONS_PER_CONNECTION: usize = 16;

/// SUBSCRIBE. Each type is a subscription of its own, and so is `all`.
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

/// UNSUBSCRIBE. It is no error if there is no such subscription.
pub(super) fn unsubscribe(
    engine: &mut Engine,
    conn: ConnId,
    no: SessionNo,
    kind: EventKind,
) -> Result<Reply, Refusal> {
    engine.change_subscription((conn, no), |kinds| _ = kinds.remove(&kind))?;
    Ok(Reply::UnsubscribeOk)
}
