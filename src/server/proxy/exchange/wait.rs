//! Waits for a member while none is usable (SEMANTICS section 6).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::watch::error::RecvError;
use tokio::time::sleep_until;

use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::proxy::client_state::disconnect::Disconnect;
use crate::server::proxy::context::Stopping;
use crate::server::proxy::http::page::Page;
use crate::server::proxy::upstream::recovery::{Permit, Recovery};
use crate::server::routing::{Chosen, Claim, Member, MemberId};

use super::assignment::Assignment;
use super::outgoing::OutgoingRequest;
use super::redial;
use super::select::{choose, no_member_page, with_claim};

/// How long a request waits, once it has seen a claim, for the table to show that a member of it has closed.
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
    let (mut waiting, mut disconnect, mut permit) = (None, Disconnect::default(), None);
    let mut seen: Option<Seen> = None;
    loop {
        let now = Instant::now();
        let claim = match with_claim(table, outgoing.host(), outgoing.path(), |claim| Ok(Arc::clone(claim))) {
            Ok(claim) => claim,
            // There was a claim until its hold was over.
            Err(Page::NoClaim) => return Err(Page::NoMember),
            Err(page) => return Err(page),
        };
        let headers = outgoing.request().headers();
        if let Some(assignment) = choose(client, &claim, headers, tried, now) {
            return Ok(assignment);
        }
        if let Some(page) = claim.maintenance().map(|maintenance| maintenance.page.clone()) {
            return maintenance_page(page, outgoing, tried);
        }
        let since =
            seen.take().filter(|seen| Arc::ptr_eq(&seen.claim, &claim)).map_or(now, |seen| seen.since);
        seen = Some(Seen { claim: Arc::clone(&claim), since });
        let outage = Outage::of(client, &claim, tried, now);
        let (until, otherwise) = match &outage {
            Some(outage) => {
                if let Some(assignment) = outage.assign(&claim, permit.take(), now) {
                    return Ok(assignment);
                }
                (Some(outage.until).filter(|until| *until > now), Page::Unreachable)
            }
            None => {
                let closing_until =
                    Some(since + MAX_CLOSING).filter(|until| claim.is_closing() && now < *until);
                (claim.hold.deadline(now).or(closing_until), no_member_page(&claim, now))
            }
        };
        let until = until.ok_or(otherwise)?;
        if waiting.is_none() {
            let of_all = client.context.proxy.enter_waiting().ok_or(otherwise)?;
            waiting = Some((of_all, claim.hold.enter().ok_or(otherwise)?));
        }
        let next_permit = async {
            match &outage {
                Some(outage) => outage.recovery.permit().await.map(|permit| (outage.member(&claim), permit)),
                None => std::future::pending().await,
            }
        };
        match something_changed(client, changes.changed(), next_permit, &mut disconnect, until).await {
            Woken::Permit(next) => permit = next,
            Woken::LookAgain => {}
            Woken::Stopping => return Err(Page::NoMember),
        }
    }
}

/// A snapshot of the claim that had no member for the request, and since when the request has seen it. A request that has
/// waited long may be the first to see a member that is closed again at once, and waits for the next snapshot as long as
/// any other.
struct Seen {
    claim: Arc<Claim>,
    since: Instant,
}

/// None of a claim's members can be connected to.
struct Outage {
    /// The index of the member that is waited for, and its recovery.
    at: usize,
    recovery: Arc<Recovery>,
    /// Until when requests wait.
    until: Instant,
}

impl Outage {
    /// `None`: there is nobody who could have the request if he could be connected to.
    fn of(client: &ClientConnection, claim: &Claim, tried: Option<MemberId>, now: Instant) -> Option<Self> {
        let mut found: Option<(usize, Arc<Recovery>)> = None;
        let mut last = None;
        for at in claim.unreachable(tried, now) {
            let member = &claim.members[at];
            let recovery = redial::recovery(&client.context, member);
            last = last.max(member.load.unreachable_since());
            if found.is_none() || recovery.is_connectable() {
                found = Some((at, recovery));
            }
        }
        let (at, recovery) = found?;
        Some(Outage { at, recovery, until: last.unwrap_or(now) + claim.terms.hold })
    }

    fn member(&self, claim: &Claim) -> MemberId {
        claim.members[self.at].id
    }

    /// Gives the request to the member if it has a permit there. Whoever has waited until the end goes without one, as soon
    /// as the member can be connected to.
    fn assign(
        &self,
        claim: &Arc<Claim>,
        permit: Option<(MemberId, Permit)>,
        now: Instant,
    ) -> Option<Assignment> {
        let permit = permit.filter(|(member, _)| *member == self.member(claim)).map(|(_, permit)| permit);
        let permit = permit.or_else(|| self.recovery.try_permit());
        let may_go = permit.is_some() || now >= self.until && self.recovery.is_connectable();
        let assignment = may_go.then(|| Assignment::new(Chosen::Of(Arc::clone(claim), self.at), now));
        Some(assignment??.with_permit(permit))
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

/// What ended a wait.
pub(super) enum Woken {
    /// The request's permit has come at this member; `None`: nobody waits there any more.
    Permit(Option<(MemberId, Permit)>),
    /// There is a new table, or the time is over.
    LookAgain,
    /// The proxy stops.
    Stopping,
}

/// Waits for a change of the table, a permit, or `until`. When the client disconnects, its connection is aborted, which drops this
/// future.
pub(super) async fn something_changed(
    client: &ClientConnection,
    change: impl Future<Output = Result<(), RecvError>>,
    permit: impl Future<Output = Option<(MemberId, Permit)>>,
    disconnect: &mut Disconnect,
    until: Instant,
) -> Woken {
    let (mut change, mut permit) = (pin!(change), pin!(permit));
    let mut deadline = pin!(sleep_until(until.into()));
    poll_fn(|cx| {
        // A stop wakes every connection and so this future.
        if client.context.stopping() != Stopping::No {
            return Poll::Ready(Woken::Stopping);
        }
        if let Poll::Ready(permit) = permit.as_mut().poll(cx) {
            return Poll::Ready(Woken::Permit(permit));
        }
        if let Poll::Ready(changed) = change.as_mut().poll(cx) {
            return Poll::Ready(changed.map_or(Woken::Stopping, |()| Woken::LookAgain));
        }
        if client.poll_disconnect(disconnect, cx).is_ready() {
            client.abort();
            return Poll::Pending;
        }
        deadline.as_mut().poll(cx).map(|()| Woken::LookAgain)
    })
    .await
}
