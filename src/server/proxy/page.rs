//! What the proxy itself has to say to a client. Each page says that it is the proxy that says it.

use std::time::Instant;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};

use super::body::Reply;
use super::record::Record;

/// When a client may ask again, in seconds.
const RETRY_SECONDS: u16 = 5;
/// The same during a maintenance.
const MAINTENANCE_SECONDS: u16 = 30;
/// By this monitoring knows a maintenance from an outage.
const MAINTENANCE_MODE: HeaderName = HeaderName::from_static("x-maintenance-mode");

/// Every answer of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// The host is served over TLS; the location comes from the caller.
    Redirected(StatusCode),
    /// The request is no good; the text says why.
    BadRequest(&'static str),
    /// A method that a reverse proxy has no use for.
    NotAllowed,
    /// A transfer coding that nobody uses.
    NotImplemented,
    /// The route does not take upgrades.
    NoUpgrade,
    /// The client did not send its request's body.
    UploadStalled,
    /// Nobody claims host and path.
    NotClaimed,
    /// Claimed, and no usable member.
    NoMember,
    /// The circuit breakers of all usable members are open; trials begin in so many seconds.
    CircuitOpen(u32),
    /// In maintenance, and there is no other page.
    Maintenance,
    /// The client has used up its rate; it may ask again in so many seconds.
    TooMany(u32),
    /// The backend could not be connected to, or broke the connection.
    Unreachable,
    /// The backend's answer could not be understood.
    Unintelligible,
    /// The backend did not answer in time.
    Late,
}

/// A page's body.
pub(super) fn text(status: StatusCode, explanation: &str) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    format!("{} {reason}\n\n{explanation}\n\n-- registry-server, the proxy\n", status.as_u16())
}

impl Page {
    fn status(self) -> StatusCode {
        match self {
            Page::Redirected(status) => status,
            Page::BadRequest(_) => StatusCode::BAD_REQUEST,
            Page::NotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Page::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Page::NoUpgrade => StatusCode::FORBIDDEN,
            Page::UploadStalled => StatusCode::REQUEST_TIMEOUT,
            Page::NotClaimed => StatusCode::NOT_FOUND,
            Page::NoMember | Page::CircuitOpen(_) | Page::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
            Page::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Page::Unreachable | Page::Unintelligible => StatusCode::BAD_GATEWAY,
            Page::Late => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn explanation(self) -> &'static str {
        match self {
            Page::Redirected(_) => "This host is served over https.",
            Page::BadRequest(why) => why,
            Page::NotAllowed => "This is a reverse proxy: it makes no tunnels.",
            Page::NotImplemented => "Of the transfer codings only \"chunked\" is understood.",
            Page::NoUpgrade => {
                "This route does not take upgrades (option websocket=false, or an h2c backend)."
            }
            Page::UploadStalled => "The rest of the request did not arrive in time.",
            Page::NotClaimed => "No service has registered this host and path.",
            Page::NoMember => {
                "A service has registered this address, but none of its instances is usable now."
            }
            Page::Maintenance => "The service behind this address is being maintained and will be back.",
            Page::CircuitOpen(_) => {
                "The service behind this address has failed too often and is left alone for a while."
            }
            Page::TooMany(_) => "From your address there were more requests than this service allows.",
            Page::Unreachable => {
                "The service behind this address could not be reached, or broke the connection."
            }
            Page::Unintelligible => {
                "The service behind this address answered with something that is no HTTP."
            }
            Page::Late => "The service behind this address did not answer in time.",
        }
    }

    /// The response. In an answer to HEAD hyper leaves out the body and keeps its length.
    pub(super) fn response(self, mut record: Box<Record>) -> Response<Reply> {
        let status = self.status();
        let text = text(status, self.explanation());
        // What is to be said about a member was said; that this page is complete says nothing.
        record.admitted(None);
        record.answered_by_us(status);
        record.complete(Instant::now());
        let mut response = Response::new(Reply::Page { text: Some(Bytes::from(text)), record });
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
            Page::NoMember => {
                headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
            }
            Page::TooMany(seconds) | Page::CircuitOpen(seconds) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            Page::NotAllowed => {
                headers
                    .insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
            }
            _ => {}
        }
        response
    }
}
