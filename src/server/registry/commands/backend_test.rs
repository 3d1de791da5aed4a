//! BACKEND_TEST (PROTOCOL section 3).

use registry_client::protocol::{BackendUrl, Refusal};

use crate::server::registry::api::Effect;
use crate::server::registry::engine::{Engine, Outcome};
use crate::server::registry::model::{ConnId, Now, SessionNo};

pub(super) fn backend_test(
    engine: &mut Engine,
    now: Now,
    conn: ConnId,
    no: SessionNo,
    url: BackendUrl,
) -> Outcome {
    if let Err(refusal) = engine.check_backend(no, &url) {
        return Err(refusal).into();
    }
    let Some(session) = engine.sessions().get(no) else { return Err(Refusal::SessionNotFound).into() };
    let peer = session.peer;
    let Some(test) = engine.begin_test(now, conn, no, peer) else {
        return Err(Refusal::Other("too many backend tests".to_owned())).into();
    };
    engine.push(Effect::Test { test, url, peer });
    Outcome::Test(test)
}
