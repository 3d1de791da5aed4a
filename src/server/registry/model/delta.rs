//! What an apply changes of a session.

use super::route::Route;
use super::settings::Cells;
use registry_client::protocol::RouteId;
use std::sync::Arc;

/// What an apply changes of a session, and nothing else.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// Each route as it is from now on, by id; `None` where it goes.
    pub routes: Vec<(RouteId, Option<Arc<Route>>)>,
    /// The session's defaults, if they change.
    pub defaults: Option<Cells>,
}

impl Delta {
    pub(crate) fn route(&self, id: RouteId) -> Option<&Arc<Route>> {
        let at = self.routes.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.routes[at].1.as_ref()
    }
}
