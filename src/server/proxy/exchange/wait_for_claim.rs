//! Waits for somebody to claim a request's host and path, while the services register again after a start without their
//! routes (SEMANTICS section 6).

use std::future::{Future, pending};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::watch::error::RecvError;

use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::proxy::client_state::disconnect::Disconnect;
use crate::server::proxy::http::page::Page;

use super::answer::Answer;
use super::guard::{self, Found};
use super::outgoing::OutgoingRequest;
use super::record::Record;
use super::wait::{Woken, something_changed};

/// The pause between two looks at the table: it changes often while all services register at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Gives the request to a member of the claim that comes, if one is usable then. The client's disconnect ends the wait by
/// dropping the future.
pub(super) async fn for_member(
    client: &ClientConnection,
    outgoing: &OutgoingRequest,
    address: IpAddr,
    record: &mut Record,
) -> Result<Found, Answer> {
    let proxy = &client.context.proxy;
    let hold = proxy.table.start_hold().ok_or(Page::NoClaim)?;
    let _place = (hold.enter(address).ok_or(Page::NoClaim)?, proxy.enter_waiting().ok_or(Page::NoClaim)?);
    // Subscribe before looking at the table, so that no change is missed.
    let mut changes = proxy.table.changes();
    let mut disconnect = Disconnect::default();
    loop {
        record.set_now(Instant::now());
        let headers = outgoing.request().headers();
        match guard::find(client, (outgoing.host(), outgoing.target()), headers, || address, record) {
            Err(Answer::Page(Page::NoClaim)) => {}
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
