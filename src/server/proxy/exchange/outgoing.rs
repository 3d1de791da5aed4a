//! The request as a backend gets it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue, UPGRADE};
use http::uri::PathAndQuery;
use http::{Request, Uri, Version};
use hyper::body::{Body, Incoming};

use crate::server::proxy::buffered::Buffered;
use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::proxy::http::compression::Accepted;
use crate::server::proxy::http::forwarded::X_FORWARDED_PREFIX;
use crate::server::proxy::http::page::Page;
use crate::server::proxy::http::{framing, hop_by_hop, strip_prefix, validate};
use crate::server::proxy::upstream::kept_body::{MAX_KEPT, SpareBody};
use crate::server::proxy::upstream::request_body::{RequestBody, UploadProgress};
use crate::server::routing::{Claim, Member};
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
    /// X-Forwarded-Prefix as the client's proxy sent it, while the header has another value.
    former_prefix: Option<Option<HeaderValue>>,
}

/// What it takes to send a request again.
pub(super) struct Spare {
    head: Request<RequestBody>,
    body: Option<SpareBody<RequestBody>>,
    is_repeatable: bool,
}

impl Spare {
    /// The request again, if that does no harm. `is_unprocessed`: the backend has not looked at it.
    pub(super) fn again(self, is_unprocessed: bool) -> Option<Request<RequestBody>> {
        if !is_unprocessed && !self.is_repeatable {
            return None;
        }
        let mut request = self.head;
        if let Some(body) = self.body {
            *request.body_mut() = RequestBody::Kept(body.again()?);
        }
        Some(request)
    }

    /// A response has come.
    pub(super) fn forget(self) {
        if let Some(body) = self.body {
            body.forget();
        }
    }
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
        if let Some(via) = &client.context.proxy.config.via {
            via.add_to(&mut parts.headers, parts.version);
        }
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
        OutgoingRequest {
            request,
            target,
            host,
            is_upgrade,
            is_http10,
            accepted: None,
            has_other_target,
            former_prefix: None,
        }
    }

    /// Sets the target and the Host header for `member`, which was chosen from `claim`.
    pub(super) fn address_to(&mut self, member: &Member, claim: Option<&Claim>) -> Result<(), Page> {
        let prefix = claim.filter(|_| member.terms.settings.strip_prefix).map(|claim| claim.path.as_str());
        let stripped = prefix.and_then(|prefix| strip_prefix::stripped(&self.target, prefix));
        if stripped.is_some() || self.former_prefix.is_some() {
            self.set_prefix(prefix.filter(|_| stripped.is_some()));
        }
        let is_stripped = stripped.is_some();
        let target = stripped.as_ref().unwrap_or(&self.target);
        let base = member.backend.base_path();
        if !base.is_empty() {
            let joined = match target.as_str() {
                _ if member.terms.settings.one_page => base.to_owned(),
                "*" => base.to_owned(),
                target => format!("{base}{target}"),
            };
            let too_long = |_| Page::BadRequest("The request's target is too long.");
            *self.request.uri_mut() = Uri::try_from(joined).map_err(too_long)?;
            self.has_other_target = true;
        } else if self.has_other_target || is_stripped {
            *self.request.uri_mut() = Uri::from(target.clone());
            self.has_other_target = is_stripped;
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

    /// Sets X-Forwarded-Prefix to what was taken off the target, behind what the client's proxy took off; `None`: to what
    /// it was before.
    fn set_prefix(&mut self, prefix: Option<&str>) {
        let headers = self.request.headers_mut();
        let former = self.former_prefix.get_or_insert_with(|| headers.get(X_FORWARDED_PREFIX).cloned());
        let theirs = former.as_ref().and_then(|former| former.to_str().ok()).unwrap_or_default();
        let value = match prefix {
            Some(prefix) => HeaderValue::try_from(format!("{}{prefix}", theirs.trim_end_matches('/'))).ok(),
            None => former.clone(),
        };
        match value {
            Some(value) => headers.insert(X_FORWARDED_PREFIX, value),
            None => headers.remove(X_FORWARDED_PREFIX),
        };
    }

    /// Ends the request's body as soon as it has more bytes. Returns whether it says already that it will.
    pub(super) fn limit_body(&mut self, limit: u64) -> bool {
        let body = self.request.body_mut();
        let is_longer = body.size_hint().lower() > limit;
        if let RequestBody::Stream { limit: set, .. } = body {
            *set = limit;
        }
        is_longer
    }

    /// Whether sending it twice does no more than sending it once, and there is no body that would be gone.
    pub(super) fn is_repeatable(&self) -> bool {
        !self.is_upgrade && self.request.body().is_empty() && self.request.method().is_idempotent()
    }

    /// What it takes to send the request again, if the connection breaks after it was sent. `can_refuse`: the backend
    /// can say that it has not looked at it. `buffered`: counts what is kept of its body.
    pub(super) fn spare(&mut self, can_refuse: bool, buffered: &Arc<Buffered>) -> Option<Spare> {
        let is_repeatable = self.is_repeatable();
        if !is_repeatable && !can_refuse {
            return None;
        }
        let body = match self.request.body().is_empty() {
            true => None,
            false => Some(self.request.body_mut().keep(|| buffered.reserve(MAX_KEPT))?),
        };
        let request = &self.request;
        let mut head = Request::new(RequestBody::Empty);
        head.method_mut().clone_from(request.method());
        head.uri_mut().clone_from(request.uri());
        head.headers_mut().clone_from(request.headers());
        Some(Spare { head, body, is_repeatable })
    }

    pub(super) fn request(&self) -> &Request<RequestBody> {
        &self.request
    }

    pub(super) fn headers_mut(&mut self) -> &mut HeaderMap {
        self.request.headers_mut()
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

    /// The path and query that the client asked for.
    pub(super) fn target(&self) -> &str {
        self.target.as_str()
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
