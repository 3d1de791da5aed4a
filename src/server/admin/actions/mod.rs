//! What operators have the registry do: drain, enter and leave maintenance. Each is the registry's own command, for one
//! session or for all of a service, and is logged with who asked.
//!
//! | file | what it does |
//! |---|---|
//! | `order` | pure: what a request asks for, and the command that this is |
//! | `permission` | pure: whether a request may change anything |

mod order;
mod permission;

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::server::cluster::{Role, StatusReader};
use crate::server::listener::DeskError;
use crate::server::registry::SessionOverview;

use super::live::{Entry, Hub, Level};
use super::snapshot::Sources;

use order::Order;
use permission::Refused;

/// The largest order, in bytes.
const MAX_BODY: usize = 8 * 1024;
/// How long a client may take to send it.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long whoever gave a wrong token waits. All of them wait in one line, so that guessing is slow from everywhere.
const WRONG_TOKEN_PAUSE: Duration = Duration::from_millis(500);
/// How many sessions are looked through for those of a service.
const MAX_SESSIONS: usize = 10_000;

static WRONG_TOKENS: Mutex<()> = Mutex::const_new(());

/// What became of an order.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    /// For each session, in the order of their instances.
    results: Vec<SessionOutcome>,
}

#[derive(Debug, Serialize)]
struct SessionOutcome {
    session: u64,
    instance: String,
    ok: bool,
    outcome: String,
}

/// Carries out what a request asks for. The answer is a status, with an outcome or a reason for people.
pub(super) async fn carry_out(
    sources: &Sources,
    hub: &Hub,
    peer: IpAddr,
    headers: &HeaderMap,
    body: &mut Incoming,
) -> (StatusCode, Result<Outcome, String>) {
    if let Err(refused) = permission::check(headers, sources.token.as_ref()) {
        return (refused.status(), Err(refuse(hub, peer, refused).await));
    }
    let order = match read(body).await {
        Ok(order) => order,
        Err(why) => return (StatusCode::BAD_REQUEST, Err(why)),
    };
    let Some(overview) = sources.desk.overview(MAX_SESSIONS).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, Err("the registry does not answer".to_owned()));
    };
    let sessions: Vec<&SessionOverview> =
        overview.sessions.iter().filter(|session| order.whom().is(session)).collect();
    let Some(service) = sessions.first().map(|session| session.service.to_string()) else {
        return (StatusCode::NOT_FOUND, Err(order.whom().missing()));
    };
    let done = order.describe(peer);
    tracing::info!(%peer, service, "{done}");
    hub.note(Entry { level: Level::Info, service: Some(service), text: done }).await;
    let mut results = Vec::new();
    for session in sessions {
        let asked = sources.desk.operate(session.no, order.request()).await;
        let (ok, outcome) = match asked {
            Ok(reply) => (true, order.outcome(&reply)),
            Err(DeskError::NotLeading) => (false, elsewhere(sources.cluster.as_ref())),
            Err(error) => (false, error.to_string()),
        };
        if !ok {
            tracing::warn!(%peer, session = session.no.0, outcome, "an operator's request failed");
        }
        results.push(SessionOutcome {
            session: session.no.0,
            instance: session.instance.to_string(),
            ok,
            outcome,
        });
    }
    let all_failed = results.iter().all(|result| !result.ok);
    let status = if all_failed { StatusCode::CONFLICT } else { StatusCode::OK };
    (status, Ok(Outcome { results }))
}

async fn refuse(hub: &Hub, peer: IpAddr, refused: Refused) -> String {
    if refused == Refused::WrongToken {
        let line = WRONG_TOKENS.lock().await;
        sleep(WRONG_TOKEN_PAUSE).await;
        tracing::warn!(%peer, "refused an operator's request: a wrong ADMIN_TOKEN");
        let text = format!("an operator's request from {peer} was refused: a wrong ADMIN_TOKEN");
        hub.note(Entry { level: Level::Warning, service: None, text }).await;
        drop(line);
    }
    refused.to_string()
}

async fn read(body: &mut Incoming) -> Result<Order, String> {
    let whole = timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await;
    let whole = whole.map_err(|_| "the request took too long".to_owned())?;
    let whole = whole.map_err(|error| format!("the request cannot be read: {error}"))?;
    Order::parse(&whole.to_bytes())
}

/// Where to ask instead.
fn elsewhere(cluster: Option<&StatusReader>) -> String {
    match cluster.map(|cluster| cluster.read().role) {
        Some(Role::Following(leader)) => format!("not done: {} leads, ask there", leader.name),
        _ => "not done: nobody leads at the moment".to_owned(),
    }
}
