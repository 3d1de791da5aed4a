//! REGISTER and SESSION_INFO (PROTOCOL sections 2 and 3).

use std::net::IpAddr;

use registry_client::protocol::report::SessionInfo;
use registry_client::protocol::{Refusal, Registration, Reply};

use crate::server::registry::api::LogEvent;
use crate::server::registry::engine::{Engine, NewSession, Outcome};
use crate::server::registry::model::{ConnId, Now, ServiceToken, SessionNo};
use crate::server::registry::session::uptime;

use super::limited_reply::{bounded, rfc3339};

/// What this server can do beyond the reference server.
const CAPABILITIES: [&str; 20] = [
    "allow_from",
    "auth",
    "body_limit",
    "breaker_off",
    "bulk",
    "compressed",
    "drain",
    "events",
    "h2c",
    "health_off",
    "health_options",
    "hold",
    "maintenance",
    "pages",
    "ratelimit_off",
    "redirect",
    "sticky",
    "strip_prefix",
    "targets",
    "weight",
];

/// REGISTER.
pub(crate) fn register(engine: &mut Engine, now: Now, conn: ConnId, registration: Registration) -> Outcome {
    let Some(peer) = engine.peer(conn) else { return Err(Refusal::NoSession).into() };
    if engine.must_wait(now, peer) {
        return engine.refuse_secret(now, conn, other("too many wrong tokens from this address"));
    }
    let namesakes = engine.sessions().namesakes(&registration, peer);
    if let Some(wrong) = wrong_secret(engine, &registration) {
        let unseen = engine.note_wrong_secret(now, peer);
        let Registration { service, instance, .. } = registration;
        let (event, text) = match wrong {
            Wrong::Registry => (LogEvent::WrongToken { peer, unseen }, "wrong registry token"),
            Wrong::Service => {
                (LogEvent::WrongServiceToken { service, instance, peer, unseen }, "wrong service token")
            }
        };
        engine.log(event);
        return engine.refuse_secret(now, conn, other(text));
    }
    begin(engine, now, conn, (registration, peer, namesakes)).into()
}

fn begin(
    engine: &mut Engine,
    now: Now,
    conn: ConnId,
    (registration, peer, namesakes): (Registration, IpAddr, Vec<SessionNo>),
) -> Result<Reply, Refusal> {
    check_added_token(engine, &registration, peer, &namesakes)?;
    check_room(engine, &registration, peer, !namesakes.is_empty())?;
    let none = || other("no randomness to be had, try again");
    let random = engine.random().ok_or_else(none)?;
    let service_token = service_token(engine, &registration).map_err(|NoRandom| none())?;
    engine
        .begin_session(now, conn, NewSession { registration, peer, random, service_token, namesakes })
        .map(Reply::Registered)
}

/// Which secret of a registration is wrong.
enum Wrong {
    Registry,
    Service,
}

/// Checks the secrets of a registration, before anything of it is stored.
fn wrong_secret(engine: &Engine, registration: &Registration) -> Option<Wrong> {
    let given = registration.metadata.text("token").unwrap_or_default();
    if engine.config().token.as_ref().is_some_and(|token| !token.is(given)) {
        return Some(Wrong::Registry);
    }
    // One that is no text is refused for that.
    let given = given_service_token(registration).ok()?;
    let is_right = by_policy(engine, registration, given).unwrap_or_else(|| {
        engine.sessions().token_of(&registration.service).is_none_or(|token| token.is(given))
    });
    (!is_right).then_some(Wrong::Service)
}

/// Whether the policy's secrets of the service say that `given` is right; `None`: it has none of this service.
fn by_policy(engine: &Engine, registration: &Registration, given: &str) -> Option<bool> {
    engine.config().policy.as_ref()?.knows(&registration.service, given)
}

/// A service's token cannot be added while there are others of it, who would be locked out.
fn check_added_token(
    engine: &mut Engine,
    registration: &Registration,
    peer: IpAddr,
    namesakes: &[SessionNo],
) -> Result<(), Refusal> {
    let given = given_service_token(registration)?;
    let service = &registration.service;
    let is_known =
        by_policy(engine, registration, given).is_some() || engine.sessions().token_of(service).is_some();
    let mut all = engine.sessions().of_service(service).into_iter();
    if !is_known && !given.is_empty() && all.any(|no| !namesakes.contains(&no)) {
        let (service, instance) = (service.clone(), registration.instance.clone());
        engine.log(LogEvent::TokenNotAdded { service, instance, peer });
        return Err(other("service token cannot be added"));
    }
    Ok(())
}

/// Checks the limits. A session that replaces another is let in when others are not, because both serve for a while.
fn check_room(
    engine: &Engine,
    registration: &Registration,
    peer: IpAddr,
    replaces: bool,
) -> Result<(), Refusal> {
    let limits = engine.config().limits;
    if registration.metadata.encode().len() > limits.metadata_bytes {
        return Err(other("metadata too large"));
    }
    let most = |limit: usize| limit.saturating_mul(if replaces { 2 } else { 1 });
    if engine.sessions().active() >= most(limits.sessions) {
        return Err(other("too many sessions"));
    }
    let from_there = engine.sessions().usage().of(peer).sessions;
    if from_there >= most(limits.sessions_per_address) && !peer.is_loopback() {
        return Err(other("too many sessions from this address"));
    }
    Ok(())
}

/// The hash of the service's token: the known one, or a new one for the first session that gives a token. None where the
/// policy holds the service's secrets.
fn service_token(engine: &mut Engine, registration: &Registration) -> Result<Option<ServiceToken>, NoRandom> {
    let given = given_service_token(registration).unwrap_or_default();
    if given.is_empty() || by_policy(engine, registration, given).is_some() {
        return Ok(None);
    }
    if let Some(known) = engine.sessions().token_of(&registration.service) {
        return Ok(Some(known.clone()));
    }
    let salt = engine.random().ok_or(NoRandom)?;
    Ok(Some(ServiceToken::new(salt, given)))
}

pub(super) fn session_info(engine: &Engine, now: Now, no: SessionNo) -> Result<Reply, Refusal> {
    let session = engine.session(no)?;
    let info = SessionInfo {
        session_id: session.id().map(|id| id.reveal().to_owned()).unwrap_or_default(),
        service_name: session.registration.service.to_string(),
        instance_name: session.registration.instance.to_string(),
        connected_at: rfc3339(session.connected_at.wall),
        uptime_seconds: uptime(session, now.mono),
        routes_active: session.applied.len() as u64,
        routes_staged: session.stage.routes().len() as u64,
        last_activity: rfc3339(session.last_activity()),
        last_apply: session.last_apply.map(rfc3339).unwrap_or_default(),
        metadata: session.registration.metadata.without_secrets(),
        revision: Some(session.revision),
        server: Some(concat!("registry-server/", env!("CARGO_PKG_VERSION")).to_owned()),
        cluster_id: Some(engine.config().cluster_id.clone()),
        siblings: Some(engine.sessions().siblings(session) as u64).filter(|count| *count > 0),
        capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
    };
    bounded(Reply::SessionInfo(Box::new(info)))
}

/// The system has no random bits at the moment.
struct NoRandom;

fn other(text: &str) -> Refusal {
    Refusal::Other(text.to_owned())
}

/// The service's token that a registration gives; empty: none. A token that is no text is an error: if it were ignored,
/// anybody could join the service.
fn given_service_token(registration: &Registration) -> Result<&str, Refusal> {
    let metadata = &registration.metadata;
    match metadata.text("service_token") {
        Some(text) => Ok(text),
        None if metadata.has("service_token") => Err(other("service_token is no text")),
        None => Ok(""),
    }
}
