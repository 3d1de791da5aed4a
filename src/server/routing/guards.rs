//! What is asked of a request before it goes to a member. SEMANTICS section 2 has the order.

use std::num::NonZeroU64;

use registry_client::protocol::{Auth, ExactDomain, Networks, RouteOption};

/// The guards of a claim. Most have none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guards {
    /// The host to which every request is sent on.
    pub redirect: Option<ExactDomain>,
    /// The client addresses that may.
    pub allow_from: Option<Networks>,
    /// Who may, as the proxy finds it out.
    pub auth: Option<Auth>,
    /// How many bytes the body of a request may have.
    pub body_limit: Option<NonZeroU64>,
}

impl Guards {
    /// The guards among the options of a route; `None`: there are none.
    pub fn of<'a>(options: impl Iterator<Item = &'a RouteOption>) -> Option<Box<Self>> {
        let mut guards = Guards::default();
        for option in options {
            match option {
                RouteOption::Redirect(host) => guards.redirect = Some(host.clone()),
                RouteOption::AllowFrom(networks) => guards.allow_from = Some(networks.clone()),
                RouteOption::BodyLimit(limit) => guards.body_limit = limit.get().and_then(NonZeroU64::new),
                RouteOption::Auth(auth) => guards.auth = Some(auth.clone()),
                _ => {}
            }
        }
        (guards != Guards::default()).then(|| Box::new(guards))
    }
}
