//! The responses that the proxy gives by itself, as data. Each body ends with a line that names the proxy, so that
//! nobody takes it for the application's.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};

use super::flaw::Flaw;

/// WWW-Authenticate of [`Page::Unauthorized`] (RFC 7617).
const BASIC: &str = r#"Basic realm="Restricted", charset="UTF-8""#;
/// Retry-After of [`Page::NoMember`], in seconds.
const RETRY_SECONDS: u16 = 5;
/// Retry-After of [`Page::Maintenance`], in seconds.
const MAINTENANCE_SECONDS: u16 = 30;
/// Lets monitoring tell a maintenance from an outage.
const MAINTENANCE_MODE: HeaderName = HeaderName::from_static("x-maintenance-mode");

/// Why the proxy answers a request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// The host is served over TLS. The caller adds Location.
    RedirectToHttps(StatusCode),
    /// The route's host is another one. The caller adds Location.
    RedirectToHost,
    /// The client's address may not use the route.
    AddressNotAllowed,
    /// The route asks for a name and password, and these were not given or are wrong.
    Unauthorized,
    /// Whether the client may use the route cannot be found out now.
    AuthUnavailable,
    /// The request's body is longer than the route allows.
    BodyTooLong,
    /// The request is invalid; the text says why.
    BadRequest(&'static str),
    /// The client asked for the answer of this proxy (OPTIONS with Max-Forwards 0).
    LastForward,
    /// CONNECT, which a reverse proxy does not serve, or TRACE, which would show cookies to scripts.
    MethodNotAllowed,
    /// A transfer coding other than `chunked`.
    UnknownTransferCoding,
    /// The route or its backend does not take upgrades.
    UpgradeNotAllowed,
    /// The client stopped sending the request's body.
    RequestTimeout,
    /// No claim matches host and path.
    NoClaim,
    /// The proxy has not read yet who serves what.
    Loading,
    /// A claim matches and has no usable member.
    NoMember,
    /// The circuit breakers of all usable members are open. The first lets a request through in so many seconds.
    CircuitOpen(u32),
    /// The service is in maintenance and has no page of its own.
    Maintenance,
    /// The client has exceeded the claim's rate limit. It may send one more request in so many seconds.
    RateLimited(u32),
    /// The proxy could not connect to the backend, or the backend broke the connection before it answered.
    Unreachable,
    /// The backend's response is not valid HTTP.
    InvalidResponse(Flaw),
    /// The backend did not answer in time.
    ResponseTimeout,
}

/// The body of a page.
pub(crate) fn text(status: StatusCode, explanation: &str) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    format!("{} {reason}\n\n{explanation}\n\n-- registry-server, the proxy\n", status.as_u16())
}

impl Page {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Page::RedirectToHttps(status) => status,
            Page::RedirectToHost => StatusCode::PERMANENT_REDIRECT,
            Page::Unauthorized => StatusCode::UNAUTHORIZED,
            Page::AuthUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Page::BodyTooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Page::BadRequest(_) => StatusCode::BAD_REQUEST,
            Page::LastForward => StatusCode::OK,
            Page::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Page::UnknownTransferCoding => StatusCode::NOT_IMPLEMENTED,
            Page::UpgradeNotAllowed | Page::AddressNotAllowed => StatusCode::FORBIDDEN,
            Page::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Page::NoClaim => StatusCode::NOT_FOUND,
            Page::Loading | Page::NoMember | Page::CircuitOpen(_) | Page::Maintenance => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Page::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Page::Unreachable | Page::InvalidResponse(_) => StatusCode::BAD_GATEWAY,
            Page::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn explanation(self) -> &'static str {
        match self {
            Page::RedirectToHttps(_) => "This host is served over https.",
            Page::RedirectToHost => "This address has moved to another host.",
            Page::AddressNotAllowed => "Your address is not one of those that may use this.",
            Page::Unauthorized => "This address asks for a name and a password.",
            Page::AuthUnavailable => "Whether you may use this address cannot be found out now.",
            Page::BodyTooLong => "The request has a longer body than this service takes.",
            Page::BadRequest(why) => why,
            Page::LastForward => "The request was not forwarded, because its Max-Forwards is 0.",
            Page::MethodNotAllowed => "This is a reverse proxy: it makes no tunnels and answers no TRACE.",
            Page::UnknownTransferCoding => "Of the transfer codings only \"chunked\" is understood.",
            Page::UpgradeNotAllowed => {
                "This route does not take upgrades (option websocket=false, or an h2c backend)."
            }
            Page::RequestTimeout => "The rest of the request did not arrive in time.",
            Page::NoClaim => "No service has registered this host and path.",
            Page::Loading => "This server has just started and does not know yet who serves this address.",
            Page::NoMember => {
                "A service has registered this address, but none of its instances is usable now."
            }
            Page::Maintenance => "The service behind this address is being maintained and will be back.",
            Page::CircuitOpen(_) => {
                "The service behind this address has failed too often and is left alone for a while."
            }
            Page::RateLimited(_) => "From your address there were more requests than this service allows.",
            Page::Unreachable => {
                "The service behind this address could not be reached, or broke the connection."
            }
            Page::InvalidResponse(_) => {
                "The service behind this address answered with something that is no HTTP."
            }
            Page::ResponseTimeout => "The service behind this address did not answer in time.",
        }
    }

    /// The whole response. hyper leaves out the body in answers to HEAD and keeps its length.
    pub(crate) fn response(self) -> Response<Bytes> {
        let status = self.status();
        let body = match self {
            Page::InvalidResponse(flaw) => {
                text(status, &format!("{} What is wrong: {flaw}.", self.explanation()))
            }
            _ => text(status, self.explanation()),
        };
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self {
            Page::Maintenance => {
                headers.insert(RETRY_AFTER, HeaderValue::from(MAINTENANCE_SECONDS));
                headers.insert(MAINTENANCE_MODE, HeaderValue::from_static("true"));
            }
            Page::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(BASIC));
            }
            Page::NoMember | Page::Loading | Page::AuthUnavailable => {
                headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
            }
            Page::RateLimited(seconds) | Page::CircuitOpen(seconds) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            Page::MethodNotAllowed | Page::LastForward => {
                headers
                    .insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
            }
            _ => {}
        }
        response
    }
}
