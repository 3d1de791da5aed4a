//! A request for which nobody is usable waits for somebody who is (SEMANTICS section 6).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::server::routing::{Chosen, InFlight, Member, MemberId};

use super::super::connection::ClientConnection;
use super::super::hangup::Hangup;
use super::super::page::Page;
use super::super::record::Record;
use super::super::worker::Stopping;
use super::{Attempts, choose, nobody, with_claim};

/// A member that was closed a moment ago is gone from the table within this time.
const CLOSING: Duration = Duration::from_secs(1);

impl Attempts {
    /// A member other than `tried`, at which the request counts from now on; it waits for one where the claim
    /// is held. Its body is not read meanwhile. When the client is gone, the future is dropped, which ends the wait.
    pub(super) async fn member(
        &mut self,
        tried: Option<MemberId>,
        record: &mut Record,
    ) -> Result<InFlight, Page> {
        // In a box of its own, because it is seldom needed and large.
        Box::pin(self.wait(tried, record)).await
    }

    /// The backend that has the maintenance page, unless it has failed.
    fn page(
        &self,
        page: Option<Arc<Member>>,
        tried: Option<MemberId>,
        record: &mut Record,
    ) -> Result<InFlight, Page> {
        let page = page.filter(|page| Some(page.id) != tried && !self.outgoing.upgrade);
        let lease = page.map(Chosen::Page).and_then(InFlight::admit).ok_or(Page::Maintenance)?;
        record.admitted(None);
        Ok(lease)
    }

    async fn wait(&mut self, tried: Option<MemberId>, record: &mut Record) -> Result<InFlight, Page> {
        // Before the table is looked at, so that no change is missed.
        let mut changes = self.client.worker.shared.table.changes();
        let closing = Instant::now() + CLOSING;
        let (mut place, mut hangup) = (None, Hangup::default());
        loop {
            let now = Instant::now();
            record.look_at(now);
            let (host, path) = (&self.outgoing.host, self.outgoing.target.path());
            let claim = match with_claim(&self.client, host, path, |claim| Ok(Arc::clone(claim))) {
                Ok(claim) => claim,
                // It was claimed until its time was over.
                Err(Page::NotClaimed) => return Err(Page::NoMember),
                Err(page) => return Err(page),
            };
            if let Some(member) = choose(&claim, tried, record) {
                return Ok(member);
            }
            if let Some(page) = claim.maintenance().map(|maintenance| maintenance.page.clone()) {
                return self.page(page, tried, record);
            }
            let closing = (claim.is_closing() && now < closing).then_some(closing);
            let until = claim.hold.deadline(now).or(closing).ok_or_else(|| nobody(&claim, now))?;
            if place.is_none() {
                place = Some(claim.hold.enter().ok_or(Page::NoMember)?);
            }
            changed(&self.client, &mut changes, &mut hangup, until).await.ok_or(Page::NoMember)?;
        }
    }
}

/// Waits for another table. `None`: there is none in time, or the proxy is to stop. When the client is gone, its
/// connection is dropped, and this with it.
async fn changed(
    client: &ClientConnection,
    changes: &mut watch::Receiver<()>,
    hangup: &mut Hangup,
    until: Instant,
) -> Option<()> {
    let mut change = pin!(changes.changed());
    let mut late = pin!(sleep_until(until.into()));
    poll_fn(|cx| {
        // Whoever stops the worker wakes every connection, and with it this.
        if client.worker.stopping() != Stopping::No {
            return Poll::Ready(None);
        }
        if let Poll::Ready(changed) = change.as_mut().poll(cx) {
            return Poll::Ready(changed.ok());
        }
        if client.poll_hangup(hangup, cx).is_ready() {
            client.drop_all();
            return Poll::Pending;
        }
        late.as_mut().poll(cx).map(|()| None)
    })
    .await
}
