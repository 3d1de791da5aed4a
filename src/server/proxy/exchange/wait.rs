//! Waits for a member while none is usable (SEMANTICS section 6).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::server::proxy::client::connection::ClientConnection;
use crate::server::proxy::client::disconnect::Disconnect;
use crate::server::proxy::context::Stopping;
use crate::server::proxy::http::page::Page;
use crate::server::routing::{Chosen, Member, MemberId};

use super::assignment::Assignment;
use super::outgoing::OutgoingRequest;
use super::select::{choose, no_member_page, with_claim};

/// How long a request waits for the table to show that a member has closed.
const MAX_CLOSING: Duration = Duration::from_secs(1);

/// Gives the request to a member other than `tried`. If none is usable and the claim is held, waits for one, without
/// reading the request's body. The client's disconnect ends the wait by dropping the future.
pub(super) async fn for_member(
    client: &ClientConnection,
    outgoing: &OutgoingRequest,
    tried: Option<MemberId>,
) -> Result<Assignment, Page> {
    let table = &client.context.proxy.table;
    // Subscribe before looking at the table, so that no change is missed.
    let mut changes = table.changes();
    let closing_until = Instant::now() + MAX_CLOSING;
    let (mut waiting, mut disconnect) = (None, Disconnect::default());
    loop {
        let now = Instant::now();
        let claim = match with_claim(table, outgoing.host(), outgoing.path(), |claim| Ok(Arc::clone(claim))) {
            Ok(claim) => claim,
            // There was a claim until its hold was over.
            Err(Page::NoClaim) => return Err(Page::NoMember),
            Err(page) => return Err(page),
        };
        if let Some(assignment) = choose(&claim, tried, now) {
            return Ok(assignment);
        }
        if let Some(page) = claim.maintenance().map(|maintenance| maintenance.page.clone()) {
            return maintenance_page(page, outgoing, tried);
        }
        let closing_until = (claim.is_closing() && now < closing_until).then_some(closing_until);
        let until = claim.hold.deadline(now).or(closing_until).ok_or_else(|| no_member_page(&claim, now))?;
        if waiting.is_none() {
            waiting = Some(claim.hold.enter().ok_or(Page::NoMember)?);
        }
        table_changed(client, &mut changes, &mut disconnect, until).await.ok_or(Page::NoMember)?;
    }
}

/// Gives the request to the backend that has the maintenance page, unless that has failed.
fn maintenance_page(
    page: Option<Arc<Member>>,
    outgoing: &OutgoingRequest,
    tried: Option<MemberId>,
) -> Result<Assignment, Page> {
    let page = page.filter(|page| Some(page.id) != tried && !outgoing.is_upgrade());
    page.map(Chosen::Page).and_then(Assignment::to_page).ok_or(Page::Maintenance)
}

/// Waits for a new table. `None`: there is none until `until`, or the proxy stops. When the client disconnects, its
/// connection is aborted, which drops this future.
async fn table_changed(
    client: &ClientConnection,
    changes: &mut watch::Receiver<()>,
    disconnect: &mut Disconnect,
    until: Instant,
) -> Option<()> {
    let mut change = pin!(changes.changed());
    let mut deadline = pin!(sleep_until(until.into()));
    poll_fn(|cx| {
        // A stop wakes every connection and so this future.
        if client.context.stopping() != Stopping::No {
            return Poll::Ready(None);
        }
        if let Poll::Ready(changed) = change.as_mut().poll(cx) {
            return Poll::Ready(changed.ok());
        }
        if client.poll_disconnect(disconnect, cx).is_ready() {
            client.abort();
            return Poll::Pending;
        }
        deadline.as_mut().poll(cx).map(|()| None)
    })
    .await
}
