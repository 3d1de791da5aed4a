//! A route in force.

use std::sync::Arc;

use crate::server::routing::RouteState;

use super::route::Route;

/// A route in force.
#[derive(Clone)]
pub(crate) struct Applied {
    pub(crate) route: Arc<Route>,
    /// What the data plane counts and learns about the route: statistics and the state of its breaker.
    pub(crate) state: Arc<RouteState>,
}
