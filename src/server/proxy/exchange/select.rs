//! Finds the claim that a request is for and chooses one of its members (SEMANTICS sections 2 and 3).

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};

use crate::server::live_table::LiveTable;
use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::proxy::http::page::Page;
use crate::server::routing::{Chosen, Claim, MemberId, normalise};

use super::assignment::Assignment;
use super::sticky;

/// Calls `with` on the claim for `host` and `path`. The claim is borrowed from the table's snapshot, because its
/// reference count is one memory location for all cores: a request changes it once, when it chooses a member.
pub(super) fn with_claim<T, E: From<Page>>(
    table: &LiveTable,
    host: &HeaderValue,
    path: &str,
    with: impl FnOnce(&Arc<Claim>) -> Result<T, E>,
) -> Result<T, E> {
    let path = match path {
        // `OPTIONS *` concerns the whole host.
        "*" => "/",
        path => path,
    };
    let path = normalise(path).map_err(|_| {
        Page::BadRequest("The path has an encoded slash beside a dot segment, which nobody can read surely.")
    })?;
    let host = host.to_str().map_err(|_| Page::NoClaim)?;
    let unknown = || if table.is_loading() { Page::Loading } else { Page::NoClaim };
    with(table.load().find(host, &path).ok_or_else(unknown)?)
}

/// Gives the request with these headers to a usable member other than `tried`; `None` if there is none.
pub(super) fn choose(
    client: &ClientConnection,
    claim: &Arc<Claim>,
    headers: &HeaderMap,
    tried: Option<MemberId>,
    now: Instant,
) -> Option<Assignment> {
    if claim.terms.extras.is_sticky()
        && let Some(at) = sticky::choose(client, claim, headers, tried, now)
        && let Some(assignment) = Assignment::new(Chosen::Of(Arc::clone(claim), at), now)
    {
        return Some(assignment);
    }
    let mut random = |n| fastrand::usize(..n);
    loop {
        let at = claim.choose(tried, now, &mut random)?;
        // A member that does not take the request now is not chosen again.
        if let Some(assignment) = Assignment::new(Chosen::Of(Arc::clone(claim), at), now) {
            return Some(assignment);
        }
    }
}

/// The page that says why no member of `claim` can have a request.
pub(super) fn no_member_page(claim: &Claim, now: Instant) -> Page {
    let usable = claim.members.iter().filter(|member| member.usable);
    let open = usable.filter(|member| !member.may_pass(now));
    match open.map(|member| member.route.breaker().wait(now).unwrap_or_default()).min() {
        Some(wait) => Page::CircuitOpen(retry_after(wait)),
        None => Page::NoMember,
    }
}

/// A time for Retry-After, in seconds: rounded up, and at least one.
pub(super) fn retry_after(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}
