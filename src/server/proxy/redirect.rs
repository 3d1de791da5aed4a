//! From HTTP to HTTPS, where there is a certificate for the host.

use http::header::HeaderValue;
use http::{Method, Request, StatusCode};

use super::connection::ClientConnection;
use super::hygiene;

/// Certificate authorities ask here in plain text, whatever else there is.
const ACME: &str = "/.well-known/acme-challenge/";

/// Where a request is sent, and how.
pub(super) struct Redirect {
    pub(super) status: StatusCode,
    pub(super) location: HeaderValue,
}

/// Where the client should ask instead; `None`: here is right.
pub(super) fn wanted<B>(client: &ClientConnection, request: &Request<B>) -> Option<Redirect> {
    let secure = client.worker.shared.secure.as_ref()?;
    if client.is_tls || client.forwarding.came_over_tls(request.headers()) {
        return None;
    }
    let path = request.uri().path_and_query()?.as_str();
    if path.starts_with(ACME) || !path.starts_with('/') {
        return None;
    }
    let host = hygiene::host_of(request).ok()?;
    let host = host.to_str().ok()?.to_ascii_lowercase();
    let (name, has_port) = match host.rsplit_once(':') {
        Some((name, _)) => (name, true),
        None => (host.as_str(), false),
    };
    if !secure.certificates.covers(name.trim_end_matches('.')) {
        return None;
    }
    // Who asked on the usual port will find TLS on its usual one, whatever our end of the mapping is called.
    let location = match has_port && secure.port != 443 {
        true => format!("https://{name}:{}{path}", secure.port),
        false => format!("https://{name}{path}"),
    };
    // Old clients know 301, and may turn anything but these into GET on it.
    let is_plain = matches!(*request.method(), Method::GET | Method::HEAD);
    let status = if is_plain { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
    Some(Redirect { status, location: HeaderValue::try_from(location).ok()? })
}
