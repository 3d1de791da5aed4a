//! The registry's lines in the log. They name sessions by service, instance and number, because ids are secrets.

use tracing::{debug, info, warn};

use crate::server::registry::{LogEvent, MemberEvent, MemberLabel};

pub(super) fn write(event: &LogEvent) {
    match event {
        LogEvent::WrongToken { peer, unseen } => warn!(%peer, unseen, "refused: without the REGISTRY_TOKEN"),
        LogEvent::WrongServiceToken { service, instance, peer, unseen } => {
            warn!(%peer, %service, %instance, unseen, "refused: without the service's service_token");
        }
        LogEvent::TokenNotAdded { service, instance, peer } => {
            warn!(%peer, %service, %instance, "refused: a service_token cannot be added while instances without one are registered");
        }
        LogEvent::Registered(who, peer) => info!(session = %who, %peer, "registered"),
        LogEvent::Restored { sessions, routes, serves } => {
            let how = if *serves { "they serve" } else { "they wait for their sessions" };
            info!(sessions, routes, "restored what was applied before the start: {how}");
        }
        LogEvent::Resumed(who, peer) => info!(session = %who, %peer, "session resumed"),
        LogEvent::Lost(who, grace) => {
            info!(session = %who, ?grace, "connection lost: the routes stay while their backends answer");
        }
        LogEvent::Replaced(who, by) => {
            info!(session = %who, %by, "replaced by a newer session of the same name")
        }
        LogEvent::ShutDown(who) => info!(session = %who, "left"),
        LogEvent::Expired(who) => info!(session = %who, "did not return in time: its routes are gone"),
        LogEvent::Applied { who, revision, changed, routes } => {
            info!(session = %who, revision, changed, routes, "configuration applied");
        }
        LogEvent::Hidden { who, domain, path, by, count } => {
            warn!(session = %who, count, "no request reaches {domain}{path}: {by} has a higher priority and goes before it");
        }
        LogEvent::Conflict { who, route, domain, path, owner } => {
            warn!(session = %who, %route, "{domain}{path} belongs to service {owner}: apply refused");
        }
        LogEvent::NotPermitted { who, domain } => {
            warn!(session = %who, "refused: REGISTRY_POLICY does not let it claim {domain}");
        }
        LogEvent::OutsidePolicy { claims, domain, service } => {
            warn!(
                claims,
                "claims in force are not permitted by REGISTRY_POLICY, {domain} of {service} among them: they stay until they change"
            );
        }
        LogEvent::Joined { who, peer, domain, path } => {
            info!(session = %who, %peer, "joins the pool of {domain}{path} from a new address");
        }
        LogEvent::TakenOver { from, by, domain, path } => {
            warn!(session = %by, %from, "takes {domain}{path} over from another service that was lost");
        }
        LogEvent::MemberOut { which: MemberLabel { session, endpoint, domain, path, .. }, event, error } => {
            let why = match event {
                MemberEvent::FailedInGrace => "it does not answer while its session is lost",
                MemberEvent::AddressTaken => "another session came to its address while its own is lost",
                _ => "its check fails",
            };
            let error = error.as_deref().unwrap_or_default();
            warn!(%session, backend = %endpoint.backend, error, "{domain}{path}: backend out: {why}");
        }
        LogEvent::MemberIn(MemberLabel { session, endpoint, domain, path, .. }) => {
            info!(%session, backend = %endpoint.backend, "{domain}{path}: backend in");
        }
        // The proxy logs it.
        LogEvent::Ejected { .. } => {}
        LogEvent::Leads(term) => info!("this replica leads now (term {})", term.0),
        LogEvent::StageExpired(who) => {
            warn!(session = %who, "staged changes dropped: nobody applied them");
        }
        LogEvent::StoreRefused(session) => warn!(%session, "the store did not take a change"),
        LogEvent::Dropped(conn, peer, why) => debug!(conn = conn.0, %peer, why, "connection closed"),
    }
}
