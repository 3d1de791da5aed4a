//! Waits for somebody to claim a request's host and path, while the services register again after a start without their
//! routes (SEMANTICS section 6).

use std::future::{Future, pending};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::sync::watch::error::RecvError;

use crate::server::proxy::client::connection::ClientConnection;
use crate::server::proxy::client::disconnect::Disconnect;
use crate::server::proxy::http::page::Page;

use super::assignment::Assignment;
use super::guard;
use super::outgoing::OutgoingRequest;
use super::record::Record;
use super::wait::{Woken, something_changed};

/// The pause between two looks at the table: it changes often while all services register at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether a request for `host` that nobody claims may wait. One for an address may not: no service claims addresses, and
/// whoever tries all addresses asks for them.
pub(super) fn may_wait(client: &ClientConnection, host: &HeaderValue, now: Instant) -> bool {
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

/// Gives the request to a member of the claim that comes, if one is usable then. The client's disconnect ends the wait by
/// dropping the future.
pub(super) async fn for_member(
    client: &ClientConnection,
    outgoing: &OutgoingRequest,
    address: IpAddr,
    record: &mut Record,
) -> Result<Option<Assignment>, Page> {
    let proxy = &client.context.proxy;
    let hold = proxy.table.start_hold().ok_or(Page::NoClaim)?;
    let _place = (hold.enter(address).ok_or(Page::NoClaim)?, proxy.enter_waiting().ok_or(Page::NoClaim)?);
    // Subscribe before looking at the table, so that no change is missed.
    let mut changes = proxy.table.changes();
    let mut disconnect = Disconnect::default();
    loop {
        record.set_now(Instant::now());
        match guard::find(client, (outgoing.host(), outgoing.path()), || address, record) {
            Err(Page::NoClaim) => {}
            found => return found,
        }
        let until = hold.deadline(record.now()).ok_or(Page::NoClaim)?;
        wait(client, changes.changed(), &mut disconnect, until).await?;
        let pause = (Instant::now() + PAUSE).min(until);
        wait(client, pending(), &mut disconnect, pause).await?;
    }
}

/// Waits for `change` or `until`. When the proxy stops, the request is answered as one that nobody claims.
async fn wait(
    client: &ClientConnection,
    change: impl Future<Output = Result<(), RecvError>>,
    disconnect: &mut Disconnect,
    until: Instant,
) -> Result<(), Page> {
    match something_changed(client, change, pending(), disconnect, until).await {
        Woken::Stopping => Err(Page::NoClaim),
        Woken::Permit(_) | Woken::LookAgain => Ok(()),
    }
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
