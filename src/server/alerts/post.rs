//! Sends one message to a receiver, by HTTP/1.1.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::server::webhook::Webhook;
use crate::tls::{provider, system_roots};

/// How long a receiver has for everything.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a receiver did not take a message. The text does not name the target.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: String,
    /// The pause that the receiver asked for.
    pub(super) retry_after: Option<Duration>,
}

/// The authorities that a receiver's certificate must come from: the system's, read when the first one is needed.
#[derive(Default)]
pub(super) struct Trust(OnceLock<Arc<ClientConfig>>);

impl Trust {
    fn config(&self) -> Result<Arc<ClientConfig>, Failure> {
        if let Some(config) = self.0.get() {
            return Ok(Arc::clone(config));
        }
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| failure(&error))?;
        let config = builder.with_root_certificates(system_roots()).with_no_client_auth();
        Ok(Arc::clone(self.0.get_or_init(|| Arc::new(config))))
    }
}

/// Sends a message. Blocks nobody for longer than ten seconds.
pub(super) async fn post(webhook: &Webhook, body: String, trust: &Trust) -> Result<(), Failure> {
    match timeout(TIMEOUT, attempt(webhook, body, trust)).await {
        Ok(answered) => judge(&answered?),
        Err(_) => Err(Failure { why: format!("no answer within {TIMEOUT:?}"), retry_after: None }),
    }
}

async fn attempt(webhook: &Webhook, body: String, trust: &Trust) -> Result<Response<Incoming>, Failure> {
    let (host, port, is_https) = webhook.place();
    let stream = TcpStream::connect((host, port)).await.map_err(|error| failure(&error))?;
    if !is_https {
        return exchange(webhook, body, stream).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failure(&error))?;
    let connector = TlsConnector::from(trust.config()?);
    let stream = connector.connect(name, stream).await.map_err(|error: io::Error| failure(&error))?;
    exchange(webhook, body, stream).await
}

async fn exchange(
    webhook: &Webhook,
    body: String,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Response<Incoming>, Failure> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failure(&error))?;
    let (authority, target) = webhook.request();
    let request = Request::builder()
        .method(Method::POST)
        .uri(target)
        .header(HOST, authority)
        .header(USER_AGENT, concat!("registry-server/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| Failure { why: "its URL cannot be asked for".to_owned(), retry_after: None })?;
    let driving = tokio::spawn(connection);
    let answered = sender.send_request(request).await;
    driving.abort();
    answered.map_err(|error| failure(&error))
}

/// Whatever is no 2xx is tried again: a receiver that is gone may come back.
fn judge<B>(response: &Response<B>) -> Result<(), Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let asked =
        response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let retry_after = match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => asked.map(Duration::from_secs),
        _ => None,
    };
    Err(Failure { why: format!("it answered {}", status.as_u16()), retry_after })
}

fn failure(error: &dyn std::error::Error) -> Failure {
    Failure { why: error.to_string(), retry_after: None }
}
