//! What an apply changes of a session.

use std::sync::Arc;

use registry_client::protocol::{Domain, PathPrefix, RouteId};

use super::route::Route;
use super::settings::RouteSettings;

/// What an apply changes of a session, and nothing else.
#[derive(Default, Debug, Clone, PartialEq)]
pub struct Delta {
    /// The routes that change, by id and in its order, each as the apply leaves it; `None`: the apply removes it.
    pub routes: Vec<(RouteId, Option<Arc<Route>>)>,
    /// The session's defaults, if they change.
    pub defaults: Option<RouteSettings>,
}

impl Delta {
    /// The claims of the routes that it adds or changes.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (&Domain, &PathPrefix)> {
        self.routes.iter().filter_map(|(_, route)| route.as_ref()).flat_map(|route| route.claims())
    }

    pub(crate) fn route(&self, id: RouteId) -> Option<&Arc<Route>> {
        let at = self.routes.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.routes[at].1.as_ref()
    }
}
