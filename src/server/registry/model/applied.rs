//! A route in force.

use std::sync::Arc;

use crate::server::routing::RouteState;

use super::route::Route;

/// A route in force.
#[derive(Clone)]
pub(crate) struct Applied {
    pub(crate) route: Arc<Route>,
    /// What the data plane finds out about it.
    pub(crate) state: Arc<RouteState>,
}
