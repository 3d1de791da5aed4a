//! The requests to the authority, with the TLS of the server. Each has a connection of its own: there are few of them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderValue, RETRY_AFTER};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::tls::{provider, system_roots};

/// How long a request may take as a whole.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// Whom a connection to the authority must be certified by.
#[derive(Clone)]
pub(super) struct Authorities(Arc<ClientConfig>);

impl Authorities {
    /// Those in `pem`, or the system's.
    pub(super) fn read(pem: Option<&str>) -> Result<Authorities, String> {
        let roots = match pem {
            Some(pem) => roots_in(pem)?,
            None => system_roots(),
        };
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Authorities(Arc::new(config)))
    }
}

fn roots_in(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    match roots.is_empty() {
        true => Err("there is no certificate in it".to_owned()),
        false => Ok(roots),
    }
}

/// What the authority answered last, which the library does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastAnswer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
}

/// Where [`Client`] notes the last answer.
#[derive(Debug, Clone, Default)]
pub(super) struct LastAnswers(Arc<Mutex<Option<LastAnswer>>>);

impl LastAnswers {
    /// The last one since the last call.
    pub(super) fn take(&self) -> Option<LastAnswer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, answer: Option<LastAnswer>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}

/// Sends the requests of `instant_acme`.
pub(super) struct Client {
    pub(super) authorities: Authorities,
    pub(super) last: LastAnswers,
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (authorities, last) = (self.authorities.clone(), self.last.clone());
        last.note(None);
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let answered = match timeout(LIMIT, exchange(request, &authorities)).await {
                Ok(answered) => answered,
                Err(_) => Err(format!("it did not answer within {LIMIT:?}").into()),
            };
            let response = answered.map_err(|error| Error::Other(format!("{host}: {error}").into()))?;
            let retry_after = retry_after(response.headers(), SystemTime::now());
            last.note(Some(LastAnswer { status: response.status(), retry_after }));
            Ok(BytesResponse::from(response))
        })
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    mut request: Request<BodyWrapper<Bytes>>,
    authorities: &Authorities,
) -> Result<Response<Full<Bytes>>, Failed> {
    let uri = request.uri().clone();
    let host = uri.host().ok_or("the URL has no host")?.trim_matches(['[', ']']);
    let is_tls = uri.scheme_str() == Some("https");
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    request.headers_mut().insert(HOST, HeaderValue::try_from(authority)?);
    let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await?;
    if !is_tls {
        return ask(stream, request).await;
    }
    let name = ServerName::try_from(host.to_owned())?;
    let tls = TlsConnector::from(Arc::clone(&authorities.0)).connect(name, stream).await;
    ask(tls.map_err(explained)?, request).await
}

/// Says what helps when the authority's own certificate is not trusted.
fn explained(error: io::Error) -> Failed {
    let text = error.to_string();
    match text.contains("UnknownIssuer") {
        true => format!("{text} (name the file with its authority in ACME_CA_FILE)").into(),
        false => text.into(),
    }
}

async fn ask<T>(stream: T, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, Failed>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
        Ok(Response::from_parts(head, Full::from(body)))
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // It may end with the last byte of the answer.
        _ = connection => answer.await,
    }
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    SystemTime::from(date).duration_since(now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_700);
        let read = |text: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            retry_after(&headers, now)
        };
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Sat, 01 Jan 2000 00:00:00 GMT"), Some(Duration::from_secs(100)));
        assert_eq!(read("Fri, 31 Dec 1999 00:00:00 GMT"), None);
        assert_eq!(read("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
