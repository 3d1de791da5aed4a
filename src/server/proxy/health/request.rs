//! One GET to a backend, for probes and for BACKEND_TEST.

use std::pin::pin;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::server::proxy::upstream::dial::Dialer;
use crate::server::proxy::upstream::http1;
use crate::server::proxy::upstream::tls::{Offer, dns_name};
use registry_client::protocol::{BackendUrl, Scheme};

/// The User-Agent by which backends recognise the request.
const PROBE_USER_AGENT: &str = "registry-server-probe";

/// The head of a backend's response.
pub(super) struct Response {
    pub(super) status: StatusCode,
    /// Whether there was a certificate and it is valid.
    pub(super) tls_valid: bool,
}

/// Sends a GET on a connection that the caller has made. Has no time-out: the caller sets one. `host` replaces the backend's own
/// authority in the Host header. The error is text for people.
pub(super) async fn get(
    dialer: &Dialer,
    stream: TcpStream,
    backend: &BackendUrl,
    path: &str,
    host: Option<String>,
) -> Result<Response, String> {
    let host = host.unwrap_or_else(|| backend.host_header());
    let target = format!("{}{path}", backend.base_path());
    let request = |target: String| Request::get(target).header(USER_AGENT, PROBE_USER_AGENT);
    let in_http1 = || request(target.clone()).header(HOST, &host).body(Empty::new());
    let in_http2 = || request(format!("{}://{host}{target}", uri_scheme(backend))).body(Empty::new());
    let (status, tls_valid) = match backend.scheme() {
        Scheme::Http => (send_http1(stream, in_http1()).await?, false),
        Scheme::H2c => (send_http2(stream, in_http2()).await?, false),
        Scheme::Https => {
            let tls = dialer.tls.handshake(stream, backend, dns_name(&host), Offer::Http2).await;
            let tls = tls.map_err(|error| error.to_string())?;
            let status = match tls.is_http2 {
                true => send_http2(tls.stream, in_http2()).await?,
                false => send_http1(tls.stream, in_http1()).await?,
            };
            (status, tls.is_valid)
        }
    };
    Ok(Response { status, tls_valid })
}

fn uri_scheme(backend: &BackendUrl) -> &'static str {
    if backend.scheme() == Scheme::Https { "https" } else { "http" }
}

type ProbeRequest = http::Result<Request<Empty<Bytes>>>;

fn broken(error: hyper::Error) -> String {
    format!("broke off: {error}")
}

async fn send_http1<T>(stream: T, request: ProbeRequest) -> Result<StatusCode, String>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let request = request.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::builder(true).handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut response = pin!(sender.send_request(request));
    let response = tokio::select! {
        response = &mut response => response,
        // The backend may close before hyper has returned its response.
        _ = connection => response.await,
    };
    Ok(response.map_err(broken)?.status())
}

async fn send_http2<T>(stream: T, request: ProbeRequest) -> Result<StatusCode, String>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = request.map_err(|error| error.to_string())?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(broken)?;
    let mut response = pin!(sender.send_request(request));
    let response = tokio::select! {
        response = &mut response => response,
        _ = connection => response.await,
    };
    Ok(response.map_err(broken)?.status())
}
