//! Decides whether a request may go to a backend, and chooses the first member if one is usable. Another check before a
//! backend goes here.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request};
use hyper::body::Incoming;

use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::proxy::http::page::Page;
use crate::server::proxy::http::validate::{check_max_forwards, requested_host};
use crate::server::routing::{AddressLimit, Claim, Guards};

use super::answer::Answer;
use super::assignment::Assignment;
use super::record::Record;
use super::redirect;
use super::select::{choose, retry_after, with_claim};

/// A request that may go to a backend.
pub(super) struct Permitted {
    pub(super) host: HeaderValue,
    pub(super) first: First,
}

/// Who gets a request first.
pub(super) enum First {
    Found(Found),
    /// Nobody yet: nobody claims its host and path, and the proxy has started only now. The client has this address.
    NoClaim(IpAddr),
}

/// Who gets a request whose claim is found.
pub(super) enum Found {
    Member(Assignment),
    /// Nobody yet: no member of the claim is usable now.
    NoMember,
    /// Nobody before it is found out whether the client may use the route.
    MustAsk(Arc<Claim>),
}

pub(super) fn check(
    client: &ClientConnection,
    request: &Request<Incoming>,
    record: &mut Record,
) -> Result<Permitted, Answer> {
    let host = requested_host(request)?;
    check_max_forwards(request)?;
    let address = || client.forwarding.client(request.headers());
    let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let first = match find(client, (&host, target), request.headers(), address, record) {
        Err(Answer::Page(Page::NoClaim)) if may_wait(client, &host, record.now()) => {
            First::NoClaim(address())
        }
        found => First::Found(found?),
    };
    Ok(Permitted { host, first })
}

/// Finds the claim for a host and target, asks its guards, counts the request against its limit, and chooses a member if
/// one is usable.
pub(super) fn find(
    client: &ClientConnection,
    (host, target): (&HeaderValue, &str),
    headers: &HeaderMap,
    address: impl Fn() -> IpAddr,
    record: &mut Record,
) -> Result<Found, Answer> {
    let now = record.now();
    let path = target.split('?').next().unwrap_or_default();
    with_claim(&client.context.proxy.table, host, path, |claim| {
        if let Some(guards) = claim.terms.extras.guards() {
            record.claim_found(claim);
            check_guards(client, guards, (host, target), headers, &address)?;
        }
        if let Some(limit) = &claim.limit {
            check_rate(limit, client, address(), now)?;
        }
        record.claim_found(claim);
        if claim.terms.extras.guards().is_some_and(|guards| guards.auth.is_some()) {
            return Ok(Found::MustAsk(Arc::clone(claim)));
        }
        Ok(choose(client, claim, headers, None, now).map_or(Found::NoMember, Found::Member))
    })
}

/// The guards that need no waiting, before the rate limit (SEMANTICS section 2).
fn check_guards(
    client: &ClientConnection,
    guards: &Guards,
    asked: (&HeaderValue, &str),
    headers: &HeaderMap,
    address: impl Fn() -> IpAddr,
) -> Result<(), Answer> {
    if let Some(host) = &guards.redirect
        && let Some(location) = redirect::to_host(client, host.domain(), asked, headers)
    {
        return Err(Answer::Redirect(Box::new(location)));
    }
    match &guards.allow_from {
        Some(networks) if !networks.contains(address()) => Err(Page::AddressNotAllowed.into()),
        _ => Ok(()),
    }
}

/// Whether a request for `host` that nobody claims may wait. One for an address may not: no service claims addresses, and
/// whoever tries all addresses asks for them.
fn may_wait(client: &ClientConnection, host: &HeaderValue, now: Instant) -> bool {
    let hold = client.context.proxy.table.start_hold();
    hold.is_some_and(|hold| hold.deadline(now).is_some()) && !is_address(host)
}

fn is_address(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    bare.map_or_else(|| name.parse::<IpAddr>().is_ok(), |bare| bare.parse::<Ipv6Addr>().is_ok())
        || host.parse::<Ipv6Addr>().is_ok()
}

/// Counts a request from `address` against the claim's limit.
fn check_rate(
    limit: &AddressLimit,
    client: &ClientConnection,
    address: IpAddr,
    now: Instant,
) -> Result<(), Page> {
    limit.take(address, now).map_err(|wait| {
        if let Some(peer) = client.forwarding.direct_peer() {
            client.context.shared_addresses.request_limited(peer);
        }
        Page::RateLimited(retry_after(wait))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_every_spelling_are_no_names() {
        for address in ["10.2.2.7", "10.2.2.7:8080", "[::1]", "[2001:db8::1]:443", "::1", "127.0.0.1:"] {
            assert!(is_address(&HeaderValue::from_static(address)), "{address}");
        }
        for name in ["example.com", "example.com:80", "10.2.2.7.example.com", "localhost", "a:b", "[::1"] {
            assert!(!is_address(&HeaderValue::from_static(name)), "{name}");
        }
    }
}
