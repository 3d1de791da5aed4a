//! Redirects from HTTP to HTTPS where there is a certificate for the host.

use http::header::{HeaderMap, HeaderValue, LOCATION};
use http::{Method, Request, Response, StatusCode};
use registry_client::protocol::Domain;

use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::proxy::context::HttpsTarget;
use crate::server::proxy::http::page::Page;
use crate::server::proxy::http::validate::requested_host;

use super::body::ResponseBody;
use super::record::Record;
use super::response;

/// Certificate authorities ask for these paths over plain HTTP (RFC 8555 section 8.3).
const ACME_CHALLENGE: &str = "/.well-known/acme-challenge/";
/// The port that a URL with the scheme `https` does not name.
const HTTPS_PORT: u16 = 443;

pub(super) struct Redirect {
    status: StatusCode,
    location: HeaderValue,
}

/// The redirect for a request; `None`: it is served as it is.
pub(super) fn to_https<B>(client: &ClientConnection, request: &Request<B>) -> Option<Redirect> {
    let https = client.context.proxy.https.as_ref()?;
    if client.is_tls || client.forwarding.came_over_tls(request.headers()) {
        return None;
    }
    let path = request.uri().path_and_query()?.as_str();
    if path.starts_with(ACME_CHALLENGE) || !path.starts_with('/') {
        return None;
    }
    let host = requested_host(request).ok()?;
    let host = host.to_str().ok()?.to_ascii_lowercase();
    let (name, has_port) = match host.rsplit_once(':') {
        Some((name, _)) => (name, true),
        None => (host.as_str(), false),
    };
    if !https.certificates.covers(name.trim_end_matches('.')) {
        return None;
    }
    // A client that used port 80 finds TLS on port 443: port mappings may hide the port that the proxy listens on.
    let location = match has_port && https.port != HTTPS_PORT {
        true => format!("https://{name}:{}{path}", https.port),
        false => format!("https://{name}{path}"),
    };
    // Old clients know only 301. They may turn other methods than these into GET on it.
    let is_plain = matches!(*request.method(), Method::GET | Method::HEAD);
    let status = if is_plain { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
    Some(Redirect { status, location: HeaderValue::try_from(location).ok()? })
}

/// The same address at another host, by TLS if the client uses that or there is a certificate. `None`: it is there
/// already.
pub(super) fn to_host(
    client: &ClientConnection,
    host: &Domain,
    (asked, target): (&HeaderValue, &str),
    headers: &HeaderMap,
) -> Option<HeaderValue> {
    let asked = asked.to_str().ok()?;
    let (name, port) = asked.rsplit_once(':').map_or((asked, None), |(name, port)| (name, Some(port)));
    if name.trim_end_matches('.').eq_ignore_ascii_case(host.as_str()) {
        return None;
    }
    let covers = |https: &HttpsTarget| https.certificates.covers(host.as_str());
    let uses_tls = client.is_tls || client.forwarding.came_over_tls(headers);
    let changes_scheme = !uses_tls && client.context.proxy.https.as_ref().is_some_and(covers);
    let scheme = if uses_tls || changes_scheme { "https" } else { "http" };
    // The port belongs to the scheme that the client used.
    let port = match port.filter(|_| !changes_scheme) {
        Some(port) => format!(":{port}"),
        None => String::new(),
    };
    let path = if target.starts_with('/') { target } else { "/" };
    HeaderValue::try_from(format!("{scheme}://{host}{port}{path}")).ok()
}

impl Redirect {
    pub(super) fn into_response(self, record: Box<Record>) -> Response<ResponseBody> {
        let mut response = response::page(Page::RedirectToHttps(self.status), record);
        response.headers_mut().insert(LOCATION, self.location);
        response
    }
}
