//! What happens in the registry, in words. Sessions are named by service, instance and number; ids are
//! secrets.

use tracing::{debug, info, warn};

use crate::server::registry::{Happening, MemberEvent, Which};

pub(super) fn happened(happening: &Happening) {
    match happening {
        Happening::WrongToken(peer) => warn!(%peer, "refused: without the REGISTRY_TOKEN"),
        Happening::WrongServiceToken { service, instance, peer } => {
            warn!(%peer, %service, %instance, "refused: without the service's service_token");
        }
        Happening::Registered(who, peer) => info!(session = %who, %peer, "registered"),
        Happening::Restored { sessions, routes, serves } => {
            let how = if *serves { "they serve" } else { "they wait for their sessions" };
            info!(sessions, routes, "restored what was applied before the start: {how}");
        }
        Happening::Resumed(who, peer) => info!(session = %who, %peer, "session resumed"),
        Happening::Lost(who, grace) => {
            info!(session = %who, ?grace, "connection lost: the routes stay while their backends answer");
        }
        Happening::Replaced(who, by) => {
            info!(session = %who, %by, "replaced by a newer session of the same name")
        }
        Happening::ShutDown(who) => info!(session = %who, "left"),
        Happening::Expired(who) => info!(session = %who, "did not return in time: its routes are gone"),
        Happening::Applied { who, revision, changed, routes } => {
            info!(session = %who, revision, changed, routes, "configuration applied");
        }
        Happening::Hidden { who, domain, path, by, count } => {
            warn!(session = %who, count, "no request reaches {domain}{path}: {by} has a higher priority and goes before it");
        }
        Happening::Conflict { who, route, domain, path, owner } => {
            warn!(session = %who, %route, "{domain}{path} belongs to service {owner}: apply refused");
        }
        Happening::NotPermitted { who, domain } => {
            warn!(session = %who, "refused: REGISTRY_POLICY does not let it claim {domain}");
        }
        Happening::OutsidePolicy { claims, domain, service } => {
            warn!(
                claims,
                "claims in force are not permitted by REGISTRY_POLICY, {domain} of {service} among them: they stay until they change"
            );
        }
        Happening::Joined { who, peer, domain, path } => {
            info!(session = %who, %peer, "joins the pool of {domain}{path} from a new address");
        }
        Happening::TakenOver { from, by, domain, path } => {
            warn!(session = %by, %from, "takes {domain}{path} over from another service that was lost");
        }
        Happening::MemberOut { which: Which { session, endpoint, domain, path, .. }, event, error } => {
            let why = match event {
                MemberEvent::FailedInGrace => "it does not answer while its session is lost",
                MemberEvent::AddressTaken => "another session came to its address while its own is lost",
                _ => "its check fails",
            };
            let error = error.as_deref().unwrap_or_default();
            warn!(%session, backend = %endpoint.backend, error, "{domain}{path}: backend out: {why}");
        }
        Happening::MemberIn(Which { session, endpoint, domain, path, .. }) => {
            info!(%session, backend = %endpoint.backend, "{domain}{path}: backend in");
        }
        // The proxy has said it.
        Happening::Ejected { .. } => {}
        Happening::StageExpired(who) => {
            warn!(session = %who, "staged changes dropped: nobody applied them");
        }
        Happening::StoreRefused(session) => warn!(%session, "the store did not take a change"),
        Happening::Dropped(conn, peer, why) => debug!(conn = conn.0, %peer, why, "connection closed"),
    }
}
