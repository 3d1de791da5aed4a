//! Finds out whether somebody may use a route (SEMANTICS section 2, Auth).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use registry_client::protocol::{Auth, Users};

use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::proxy::http::page::Page;
use crate::server::proxy::passwords::Busy;
use crate::server::routing::Claim;

use super::answer::Answer;
use super::forward_auth;
use super::outgoing::OutgoingRequest;

/// The longest Authorization that is read.
const MAX_CREDENTIALS: usize = 4096;

/// Lets the request pass, or says what the client gets instead. The request's body is not read meanwhile.
pub(super) async fn check(
    client: &ClientConnection,
    claim: &Claim,
    outgoing: &mut OutgoingRequest,
) -> Result<(), Answer> {
    match claim.terms.extras.guards().and_then(|guards| guards.auth.as_ref()) {
        None => Ok(()),
        Some(Auth::Basic(users)) => basic(client, users, outgoing.request().headers()).await,
        Some(Auth::Forward(forward)) => forward_auth::ask(client, forward, claim.terms.peer, outgoing).await,
    }
}

async fn basic(client: &ClientConnection, users: &Users, headers: &HeaderMap) -> Result<(), Answer> {
    let Some((name, password)) = credentials(headers) else { return Err(Page::Unauthorized.into()) };
    match client.context.proxy.passwords.check(users, &name, &password).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Page::Unauthorized.into()),
        Err(Busy) => Err(Page::AuthUnavailable.into()),
    }
}

/// Name and password (RFC 7617).
fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok().filter(|text| text.len() <= MAX_CREDENTIALS)?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}
