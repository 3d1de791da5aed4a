//! The cookie that keeps a client at its instance (SEMANTICS section 2).

use std::sync::Arc;
use std::time::Instant;

use http::header::{COOKIE, HeaderMap, HeaderValue};

use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::routing::{Chosen, Claim, MemberId, STICKY_COOKIE, StickyId};

use super::assignment::Assignment;

/// How many cookies of ours are looked at. A browser sends one for each path that leads to the request's.
const MAX_COOKIES: usize = 8;

/// The index of the member at which the client's cookies keep it, if a request may go there.
pub(super) fn choose(
    client: &ClientConnection,
    claim: &Claim,
    headers: &HeaderMap,
    tried: Option<MemberId>,
    now: Instant,
) -> Option<usize> {
    let cookies = cookies(headers);
    if cookies.is_empty() {
        return None;
    }
    claim.choose_sticky(&client.context.proxy.config.sticky_key, &cookies, tried, now)
}

/// The cookie for whoever is served by another member than before; `None`: the client has it, or the route is not sticky.
pub(super) fn set_cookie(
    client: &ClientConnection,
    assignment: &Assignment,
    headers: &HeaderMap,
) -> Option<Box<HeaderValue>> {
    let Chosen::Of(claim, _) = assignment.chosen() else { return None };
    if !claim.terms.extras.is_sticky() {
        return None;
    }
    let id = client.context.proxy.config.sticky_key.cookie(assignment.member());
    if cookies(headers).contains(&id) {
        return None;
    }
    let is_secure = client.is_tls || client.forwarding.came_over_tls(headers);
    let secure = if is_secure { "; Secure" } else { "" };
    let path = cookie_path(claim);
    let text = format!("{STICKY_COOKIE}={id}; Path={path}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(text).ok().map(Box::new)
}

/// The claim's path, unless a cookie cannot say it.
fn cookie_path(claim: &Arc<Claim>) -> &str {
    let path = claim.path.as_str();
    if path.contains([';', ',']) { "/" } else { path }
}

fn cookies(headers: &HeaderMap) -> Vec<StickyId> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let ours = pairs.filter(|(name, _)| *name == STICKY_COOKIE);
    ours.filter_map(|(_, value)| StickyId::parse(value)).take(MAX_COOKIES).collect()
}
