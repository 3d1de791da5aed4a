//! Carries the plan out, one order at a time.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;

use crate::server::live_table::LiveTable;
use crate::server::proxy::Certificates;

use super::order::Authority;
use super::plan::{HostReport, Now, Order, Plan, Step, Validity};
use super::store::{Folder, Issued};
use super::wanted::wanted;

/// How long changes of the routing table are collected before the hosts are looked at.
const COLLECT: Duration = Duration::from_millis(200);

/// What the task owns.
pub(super) struct Task {
    authority: Authority,
    folder: Folder,
    certificates: Certificates,
    table: Arc<LiveTable>,
    plan: Plan,
    status: watch::Sender<Vec<HostReport>>,
}

fn now() -> Now {
    Now { steady: Instant::now(), wall: SystemTime::now() }
}

impl Task {
    /// Puts the certificates that are kept into force.
    pub(super) fn new(
        authority: Authority,
        folder: Folder,
        certificates: Certificates,
        table: Arc<LiveTable>,
        status: watch::Sender<Vec<HostReport>>,
    ) -> Task {
        let mut plan = Plan::default();
        for Issued { host, key, chain, validity } in folder.certificates() {
            match certificates.issue(&host, &chain, &key) {
                Ok(()) => plan.restore(&host, validity),
                Err(error) => tracing::error!("the certificate kept for {host} cannot be used: {error}"),
            }
        }
        Task { authority, folder, certificates, table, plan, status }
    }

    pub(super) async fn run(mut self) {
        let mut changes = self.table.changes();
        loop {
            changes.mark_unchanged();
            self.plan.want(wanted(&self.table.load(), |host| self.certificates.has_file_for(host)));
            let step = self.plan.next(now());
            self.status.send_replace(self.plan.report());
            match step {
                Step::Order(order) => self.carry_out(&order).await,
                Step::Wait(wait) => {
                    tokio::select! {
                        () = sleep(wait) => {}
                        changed = changes.changed() => match changed {
                            Ok(()) => sleep(COLLECT).await,
                            Err(_) => return,
                        },
                    }
                }
            }
        }
    }

    async fn carry_out(&mut self, order: &Order) {
        let host = &order.host;
        tracing::info!(host, "ordering a certificate");
        let ordered = self.authority.carry_out(order, &self.certificates).await;
        let result = match ordered {
            Ok(issued) => Ok(self.take_over(issued)),
            Err(failure) => Err(failure),
        };
        let reason = result.as_ref().err().map(|failure| failure.reason.clone());
        self.plan.finished(result, now());
        if let Some(reason) = reason {
            let pause = self.plan.pause_of(host, now()).as_secs();
            tracing::error!(host, again_in_seconds = pause, "no certificate for {host}: {reason}");
        }
    }

    /// Keeps a certificate and puts it into force.
    fn take_over(&mut self, issued: Issued) -> Validity {
        let Issued { host, key, chain, validity } = &issued;
        if let Err(error) = self.folder.keep(&issued) {
            tracing::error!(host, "the certificate is in force, but a restart will lose it: {error}");
        }
        let until = jiff::Timestamp::try_from(validity.ends).map(|end| end.to_string()).unwrap_or_default();
        match self.certificates.issue(host, chain, key) {
            Ok(()) => tracing::info!(host, until, "certificate issued"),
            Err(error) => tracing::error!(host, "what the authority has issued cannot be used: {error}"),
        }
        *validity
    }
}
