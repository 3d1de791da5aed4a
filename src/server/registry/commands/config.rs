//! CONFIG_VALIDATE, CONFIG_APPLY, CONFIG_ROLLBACK and CONFIG_DIFF (PROTOCOL section 4).

use registry_client::protocol::report::IdsOrCount;
use registry_client::protocol::{Refusal, Reply};

use crate::server::registry::engine::Engine;
use crate::server::registry::model::SessionNo;

use super::limited_reply::bounded;

pub(super) fn config_diff(engine: &Engine, no: SessionNo) -> Result<Reply, Refusal> {
    let session = engine.session(no)?;
    let mut diff = session.stage.diff(&session.applied, &session.defaults);
    bounded(Reply::Diff(Box::new(diff.clone()))).or_else(|_| {
        let routes = &mut diff.routes;
        for ids in [&mut routes.added, &mut routes.removed, &mut routes.modified] {
            *ids = IdsOrCount::Count(ids.count());
        }
        bounded(Reply::Diff(Box::new(diff)))
    })
}
