//! A member that cannot be connected to: one task dials it until it accepts, for all requests that wait for it
//! (SEMANTICS section 6).

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::server::proxy::context::WorkerContext;
use crate::server::proxy::upstream::recovery::Recovery;
use crate::server::routing::{Member, Outcome};

use super::assignment::dial_failed;

/// How long one address may take to accept a connection before a claim's members count as lost.
pub(super) const MAX_CONNECTING: Duration = Duration::from_secs(1);
/// The pause between two dials of a member.
const REDIAL_PAUSE: Duration = Duration::from_millis(250);

/// A request could not connect to `member`. From now on no request goes there unless it has a permit.
pub(super) fn cannot_connect(context: &Rc<WorkerContext>, member: &Member) {
    let now = Instant::now();
    let recovery = recovery(context, member);
    if recovery.failed() {
        // It answered meanwhile, so this is another outage.
        member.load.set_reachable();
        member.load.record(Outcome::Answered, now);
    }
    if member.load.set_unreachable(now) {
        let (instance, backend) = (&member.terms.instance, &member.backend);
        tracing::warn!(%instance, %backend, "cannot be connected to; requests wait for it");
    }
}

/// Where requests wait for `member`. Dials it, if nobody does.
pub(super) fn recovery(context: &Rc<WorkerContext>, member: &Member) -> Arc<Recovery> {
    let (recovery, begins) = context.proxy.recoveries.of(member.id);
    if begins {
        let (context, member) = (Rc::clone(context), member.clone());
        let begun = Arc::clone(&recovery);
        tokio::task::spawn_local(async move {
            redial(&context, &member, &begun).await;
            context.proxy.recoveries.end(member.id);
            context.proxy.table.wake();
        });
    }
    recovery
}

/// Dials until the member can be connected to and nobody waits for it, or until it takes no requests anyway.
async fn redial(context: &WorkerContext, member: &Member, recovery: &Recovery) {
    let table = &context.proxy.table;
    loop {
        sleep(REDIAL_PAUSE).await;
        if member.load.is_closed() || !member.load.is_unreachable() {
            return;
        }
        if !recovery.is_connectable() {
            let (backend, peer) = (&member.backend, member.terms.peer);
            match context.dialer.connect_within(MAX_CONNECTING, backend, peer).await {
                Ok(_) => {
                    recovery.connected();
                    // Those that wait for another member may have this one.
                    table.wake();
                }
                Err(error) => {
                    tracing::debug!(instance = %member.terms.instance, %backend, %error, "still cannot connect");
                    if dial_failed(member, table) {
                        table.wake();
                    }
                }
            }
        }
        if recovery.is_connectable() && !recovery.is_waited_for() {
            member.load.set_reachable();
            if recovery.has_answered() {
                member.load.record(Outcome::Answered, Instant::now());
            }
            let (instance, backend) = (&member.terms.instance, &member.backend);
            tracing::info!(%instance, %backend, "can be connected to again");
            return;
        }
    }
}
