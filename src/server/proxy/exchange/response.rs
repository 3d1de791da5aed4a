//! The response as the client gets it: a backend's, a page of the proxy, or the start of a tunnel.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::{Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;

use crate::server::proxy::context::EncoderSlot;
use crate::server::proxy::http::coding::Coding;
use crate::server::proxy::http::compression::{self, Accepted};
use crate::server::proxy::http::flaw::Flaw;
use crate::server::proxy::http::page::Page;
use crate::server::proxy::http::{framing, hop_by_hop};
use crate::server::proxy::upstream::connection::UpstreamConnection;

use super::backend_body::BackendBody;
use super::body::ResponseBody;
use super::compressed_body::CompressedBody;
use super::record::Record;
use super::tunnel::Tunnel;

/// Answers with a page.
pub(super) fn page(page: Page, record: Box<Record>) -> Response<ResponseBody> {
    whole(page.response(), record)
}

/// Answers with a response that no backend of the route gave.
pub(super) fn whole(mut response: Response<Bytes>, mut record: Box<Record>) -> Response<ResponseBody> {
    record.answered_by_page(response.status());
    record.complete(Instant::now());
    put_defaults(&record, response.headers_mut());
    end_connection(&record, response.headers_mut());
    response.map(|text| ResponseBody::Page { text: Some(text), record })
}

/// Sets the headers that every response has (DEFAULT_HEADERS).
fn put_defaults(record: &Record, headers: &mut HeaderMap) {
    if let Some(defaults) = &record.client().context.proxy.config.default_headers {
        defaults.put_missing_into(headers);
    }
}

/// Answers a certificate authority that asks whether the host leads here.
pub(super) fn key_authorization(answer: Bytes, mut record: Box<Record>) -> Response<ResponseBody> {
    record.answered_by_page(StatusCode::OK);
    record.complete(Instant::now());
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    end_connection(&record, response.headers_mut());
    response.map(|()| ResponseBody::Page { text: Some(answer), record })
}

/// Tells the client that this is the last response on its connection, where that must be so.
fn end_connection(record: &Record, headers: &mut HeaderMap) {
    if record.is_last_of_connection() {
        headers.append(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// A backend's response, whose body has not been read.
pub(super) struct BackendResponse {
    pub(super) response: Response<Incoming>,
    /// The connection that the body comes on.
    pub(super) connection: UpstreamConnection,
    /// How long the backend may be silent in the middle of the body.
    pub(super) idle_timeout: Duration,
    /// The coding that the client accepts, if the route has its responses compressed.
    pub(super) accepted: Option<Accepted>,
}

impl BackendResponse {
    /// `upgrade`: the client's side, if it asked for an upgrade.
    pub(super) fn into_response(
        self,
        upgrade: Option<OnUpgrade>,
        mut record: Box<Record>,
    ) -> Response<ResponseBody> {
        if self.response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.into_tunnel(upgrade, record);
        }
        let (mut parts, incoming) = self.response.into_parts();
        if let Err(error) = framing::prepare_response(parts.status, &mut parts.headers) {
            let flaw = Flaw::from(error);
            if let Some(assignment) = record.assignment() {
                assignment.response_invalid(flaw);
            }
            return page(Page::InvalidResponse(flaw), record);
        }
        let required = hop_by_hop::required_upgrade(parts.status, &parts.headers);
        let trailers = hop_by_hop::remove_from_response(&mut parts.headers);
        record.answered(parts.status);
        if let Some(headers) = record.member().and_then(|member| member.terms.extras.headers()) {
            headers.put_into(&mut parts.headers);
        }
        record.put_cookie(&mut parts.headers);
        put_defaults(&record, &mut parts.headers);
        if let Some(via) = &record.client().context.proxy.config.via {
            via.add_to(&mut parts.headers, parts.version);
        }
        if let Some(protocols) = required
            && !record.client().is_http2()
        {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, protocols);
        }
        end_connection(&record, &mut parts.headers);
        parts.version = Version::HTTP_11;
        let length = incoming.size_hint().exact();
        let compression =
            self.accepted.and_then(|accepted| compression(&mut parts, accepted, length, &record));
        let body = BackendBody::new(incoming, self.connection, self.idle_timeout, trailers, record);
        let body = match compression {
            None => ResponseBody::Backend(body),
            Some((coding, slot)) => {
                ResponseBody::Compressed(Box::new(CompressedBody::new(body, coding, slot)))
            }
        };
        Response::from_parts(parts, body)
    }

    fn into_tunnel(mut self, upgrade: Option<OnUpgrade>, mut record: Box<Record>) -> Response<ResponseBody> {
        let protocol = self.response.headers().get(UPGRADE).cloned();
        // A backend must not switch without being asked, nor to a protocol that it does not name.
        let (Some(client), Some(protocol)) = (upgrade, protocol) else {
            return page(Page::InvalidResponse(Flaw::Switch), record);
        };
        let backend = hyper::upgrade::on(&mut self.response);
        let departures = record.client().context.proxy.table.departures();
        record.answered(StatusCode::SWITCHING_PROTOCOLS);
        record.put_cookie(self.response.headers_mut());
        if let Some(in_flight) = record.into_tunnel() {
            let is_websocket = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
            let upgraded = in_flight.into_upgraded();
            Tunnel { client, backend, is_websocket, upgraded, departures }.spawn();
        }
        let (mut parts, _) = self.response.into_parts();
        let _ = hop_by_hop::remove_from_response(&mut parts.headers);
        // A switch has no body, so hyper has not looked at these.
        parts.headers.remove(TRANSFER_ENCODING);
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocol);
        Response::from_parts(parts, ResponseBody::Empty)
    }
}

/// Prepares the head for a compressed body, if there is an encoder for it.
fn compression(
    parts: &mut http::response::Parts,
    accepted: Accepted,
    length: Option<u64>,
    record: &Record,
) -> Option<(Coding, EncoderSlot)> {
    let slot = accepted.wants_encoder().then(|| record.client().context.take_encoder());
    let accepted = if let Some(None) = slot { accepted.identity() } else { accepted };
    compression::prepare(parts.status, &mut parts.headers, accepted, length).zip(slot.flatten())
}
