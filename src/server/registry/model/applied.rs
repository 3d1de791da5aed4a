//! A route in force.

use super::route::Route;
use crate::server::routing::RouteState;
use std::sync::Arc;

/// A route in force.
#[derive(Clone)]
pub(crate) struct Applied {
    pub(crate) route: Arc<Route>,
    /// What the data plane finds out about it.
    pub(crate) state: Arc<RouteState>,
}
