//! Asks somebody else whether a request may pass: with the request's method, target and headers, as Traefik does and
//! Authelia, authentik and their like expect it.

use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use registry_client::protocol::{ForwardAuth, Scheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::proxy::http::hop_by_hop;
use crate::server::proxy::http::page::Page;
use crate::server::proxy::upstream::http1;
use crate::server::proxy::upstream::tls::{Offer, dns_name};

use super::answer::Answer;
use super::outgoing::OutgoingRequest;

/// How long an answer may take, the connection included.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer's body may be that the client gets.
const MAX_BODY: usize = 256 << 10;

const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// What of a request is no part of the question: its body, the connection, and what makes an answer conditional.
const LEFT_OUT: [HeaderName; 12] = [
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_LENGTH,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    RANGE,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// A 2xx lets the request pass, with the headers that the route names. Any other answer is the client's.
pub(super) async fn ask(
    client: &ClientConnection,
    forward: &ForwardAuth,
    peer: IpAddr,
    outgoing: &mut OutgoingRequest,
) -> Result<(), Answer> {
    let question = question(forward, outgoing).ok_or(Page::AuthUnavailable)?;
    let answer = match timeout(PATIENCE, send(client, forward, peer, question)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    };
    let mut answer = answer.map_err(|error| {
        tracing::warn!(asked = %forward.url, %error, "whether a request may pass cannot be found out: it does not");
        Page::AuthUnavailable
    })?;
    if answer.status().is_success() {
        identify(forward, answer.headers(), outgoing.headers_mut());
        return Ok(());
    }
    let headers = answer.headers_mut();
    drop(hop_by_hop::remove_from_response(headers));
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    Err(Answer::Response(Box::new(answer)))
}

fn question(forward: &ForwardAuth, outgoing: &OutgoingRequest) -> Option<Request<Empty<Bytes>>> {
    let asked = outgoing.request();
    let mut question = Request::get(forward.target.as_str()).body(Empty::new()).ok()?;
    let mut headers = asked.headers().clone();
    for name in LEFT_OUT {
        headers.remove(name);
    }
    headers.insert(HOST, HeaderValue::try_from(forward.url.host_header()).ok()?);
    headers.insert(X_FORWARDED_METHOD, HeaderValue::try_from(asked.method().as_str()).ok()?);
    headers.insert(X_FORWARDED_URI, HeaderValue::try_from(outgoing.target()).ok()?);
    *question.headers_mut() = headers;
    Some(question)
}

async fn send(
    client: &ClientConnection,
    forward: &ForwardAuth,
    peer: IpAddr,
    question: Request<Empty<Bytes>>,
) -> Result<Response<Bytes>, String> {
    let dialer = &client.context.dialer;
    let stream = dialer.connect(&forward.url, peer).await.map_err(|error| error.to_string())?;
    if forward.url.scheme() != Scheme::Https {
        return send_on(stream, question).await;
    }
    let name = dns_name(&forward.url.host_header());
    let tls = dialer.tls.handshake(stream, &forward.url, name, Offer::Http1).await;
    send_on(tls.map_err(|error| error.to_string())?.stream, question).await
}

async fn send_on<T>(stream: T, question: Request<Empty<Bytes>>) -> Result<Response<Bytes>, String>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error: hyper::Error| format!("broke off: {error}");
    let (mut sender, connection) =
        http1::builder(true).handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut answer = pin!(async move {
        let (parts, body) = sender.send_request(question).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await;
        let body = body.map_err(|error| format!("its answer cannot be read: {error}"))?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    });
    tokio::select! {
        answer = &mut answer => answer,
        // It may close before hyper has returned the answer.
        _ = connection => answer.await,
    }
}

/// Tells the backend who it is. What the client itself says under these names goes, in any spelling: FastCGI and WSGI
/// cannot tell `Remote_User` from `Remote-User`.
fn identify(forward: &ForwardAuth, answered: &HeaderMap, headers: &mut HeaderMap) {
    let plain = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let told: Vec<String> = forward.headers.iter().map(|name| plain(name.as_str())).collect();
    let forged: Vec<HeaderName> =
        headers.keys().filter(|name| told.contains(&plain(name.as_str()))).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
    for name in forward.headers.iter().filter_map(|name| name.as_str().parse::<HeaderName>().ok()) {
        for value in answered.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
}
