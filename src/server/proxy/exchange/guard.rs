//! Decides whether a request may go to a backend, and chooses the first member if one is usable. Another check before a
//! backend goes here.

use std::net::IpAddr;
use std::time::Instant;

use http::{HeaderValue, Request};
use hyper::body::Incoming;

use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::proxy::http::page::Page;
use crate::server::proxy::http::validate::{check_max_forwards, requested_host};
use crate::server::routing::AddressLimit;

use super::assignment::Assignment;
use super::record::Record;
use super::select::{choose, retry_after, with_claim};

/// A request that may go to a backend.
pub(super) struct Permitted {
    pub(super) host: HeaderValue,
    /// The member that gets it first; `None`: no member is usable now.
    pub(super) first: Option<Assignment>,
}

pub(super) fn check(
    client: &ClientConnection,
    request: &Request<Incoming>,
    record: &mut Record,
) -> Result<Permitted, Page> {
    let host = requested_host(request)?;
    check_max_forwards(request)?;
    let now = record.now();
    let first = with_claim(&client.context.proxy.table, &host, request.uri().path(), |claim| {
        if let Some(limit) = &claim.limit {
            check_rate(limit, client, client.forwarding.client(request.headers()), now)?;
        }
        record.claim_found(claim);
        Ok(choose(claim, None, now))
    })?;
    Ok(Permitted { host, first })
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
