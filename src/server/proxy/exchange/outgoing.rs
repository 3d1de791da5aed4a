//! The request as a backend gets it.

use std::rc::Rc;
use std::time::Instant;

use http::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use http::uri::PathAndQuery;
use http::{Request, Uri, Version};
use hyper::body::Incoming;

use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::proxy::http::compression::Accepted;
use crate::server::proxy::http::page::Page;
use crate::server::proxy::http::{framing, hop_by_hop, validate};
use crate::server::proxy::upstream::request_body::{RequestBody, UploadProgress};
use crate::server::routing::Member;
use registry_client::protocol::Scheme;

/// A request with the headers that every backend gets. [`OutgoingRequest::address_to`] adds what depends on the member.
pub(super) struct OutgoingRequest {
    request: Request<RequestBody>,
    /// The target as the client sent it.
    target: PathAndQuery,
    /// The host that the client asked for.
    host: HeaderValue,
    is_upgrade: bool,
    is_http10: bool,
    /// The coding that the client accepts, once a member has the request that compresses.
    accepted: Option<Accepted>,
    /// The request's URI differs from `target`.
    has_other_target: bool,
}

impl OutgoingRequest {
    /// `upgrade`: the protocol that the client asks to upgrade to.
    pub(super) fn new(
        client: &ClientConnection,
        request: Request<Incoming>,
        host: HeaderValue,
        upgrade: Option<HeaderValue>,
        now: Instant,
    ) -> Self {
        let (mut parts, incoming) = request.into_parts();
        let is_http10 = parts.version < Version::HTTP_11;
        let trailers = hop_by_hop::remove_from_request(&mut parts.headers);
        if parts.version == Version::HTTP_2 {
            hop_by_hop::join_cookies(&mut parts.headers);
            framing::merge_request_lengths(&mut parts.headers);
        }
        validate::decrement_max_forwards(&parts.method, &mut parts.headers);
        client.forwarding.apply(&mut parts.headers, &host);
        let is_upgrade = upgrade.is_some();
        if let Some(upgrade) = upgrade {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, upgrade);
        }
        parts.version = Version::HTTP_11;
        let target = match parts.uri.path_and_query() {
            Some(target) => target.clone(),
            None => PathAndQuery::from_static("/"),
        };
        let has_other_target = parts.uri.authority().is_some();
        let request = Request::from_parts(parts, RequestBody::new(incoming, trailers, now));
        OutgoingRequest { request, target, host, is_upgrade, is_http10, accepted: None, has_other_target }
    }

    /// Sets the target and the Host header for `member`.
    pub(super) fn address_to(&mut self, member: &Member) -> Result<(), Page> {
        let base = member.backend.base_path();
        if !base.is_empty() {
            let joined = match self.target.as_str() {
                _ if member.terms.settings.one_page => base.to_owned(),
                "*" => base.to_owned(),
                target => format!("{base}{target}"),
            };
            let too_long = |_| Page::BadRequest("The request's target is too long.");
            *self.request.uri_mut() = Uri::try_from(joined).map_err(too_long)?;
            self.has_other_target = true;
        } else if self.has_other_target {
            *self.request.uri_mut() = Uri::from(self.target.clone());
            self.has_other_target = false;
        }
        if member.terms.settings.compression && self.accepted.is_none() {
            let mut accepted = Accepted::by(&self.request, self.is_http10);
            accepted.undo_marks(self.request.headers_mut());
            self.accepted = Some(accepted);
        }
        // An HTTP/2 connection makes the target absolute, which the next member may not accept.
        self.has_other_target |= member.backend.scheme() != Scheme::Http;
        let host = match member.terms.settings.preserve_host {
            true => self.host.clone(),
            false => HeaderValue::try_from(member.backend.host_header()).map_err(|_| Page::Unreachable)?,
        };
        self.request.headers_mut().insert(HOST, host);
        Ok(())
    }

    /// A copy that may be sent if the connection breaks after the request was sent, because the method is idempotent
    /// and there is no body that would be gone.
    pub(super) fn repeatable(&self) -> Option<Request<RequestBody>> {
        let request = &self.request;
        if self.is_upgrade || !request.body().is_empty() || !request.method().is_idempotent() {
            return None;
        }
        let mut copy = Request::new(RequestBody::Empty);
        copy.method_mut().clone_from(request.method());
        copy.uri_mut().clone_from(request.uri());
        copy.headers_mut().clone_from(request.headers());
        Some(copy)
    }

    pub(super) fn request(&self) -> &Request<RequestBody> {
        &self.request
    }

    /// Takes the request out, to send it.
    pub(super) fn take(&mut self) -> Request<RequestBody> {
        std::mem::replace(&mut self.request, Request::new(RequestBody::Empty))
    }

    /// Puts a request back that was not sent or may be repeated.
    pub(super) fn put_back(&mut self, request: Request<RequestBody>) {
        self.request = request;
    }

    pub(super) fn is_upgrade(&self) -> bool {
        self.is_upgrade
    }

    pub(super) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// The path that the client asked for.
    pub(super) fn path(&self) -> &str {
        self.target.path()
    }

    pub(super) fn accepted_coding(&self) -> Accepted {
        self.accepted.clone().unwrap_or_else(|| Accepted::by(&self.request, self.is_http10))
    }

    /// The progress of the request's body; `None`: it has none.
    pub(super) fn upload(&self) -> Option<Rc<UploadProgress>> {
        self.request.body().progress()
    }
}
