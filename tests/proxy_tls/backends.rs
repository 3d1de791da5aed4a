//! Backends that speak HTTP/2, TLS or both, and tell what they saw.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::authority::Pair;

/// What a backend saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicUsize,
    /// The names that clients asked for in their handshakes.
    pub(crate) names: Mutex<Vec<Option<String>>>,
    /// The most requests that were at it at once.
    pub(crate) most_at_once: AtomicUsize,
    at_once: AtomicUsize,
}

pub(crate) struct ModernBackend {
    pub(crate) addr: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for ModernBackend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ModernBackend {
    /// HTTP/2 in plain text.
    pub(crate) async fn h2c() -> Self {
        ModernBackend::start(None).await
    }

    /// HTTP over TLS, the version by ALPN.
    pub(crate) async fn https(pair: &Pair, alpn: &[&str]) -> Self {
        ModernBackend::start(Some(TlsAcceptor::from(Arc::new(pair.server_config(alpn))))).await
    }

    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen: Arc<Seen> = Arc::default();
        let counted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, seen) = (tls.clone(), Arc::clone(&counted));
                seen.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let Some(tls) = tls else { return serve(stream, true, seen).await };
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let session = stream.get_ref().1;
                    seen.names.lock().unwrap().push(session.server_name().map(str::to_owned));
                    let is_http2 = session.alpn_protocol() == Some(b"h2");
                    serve(stream, is_http2, seen).await;
                });
            }
        });
        ModernBackend { addr, seen, task }
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn names(&self) -> Vec<Option<String>> {
        self.seen.names.lock().unwrap().clone()
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_http2: bool,
    seen: Arc<Seen>,
) {
    let service = service_fn(move |request| answer(request, Arc::clone(&seen)));
    let io = TokioIo::new(stream);
    if is_http2 {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).with_upgrades().await;
    }
}

/// Says what came; `/slow` only after a while; trailers after it.
async fn answer(
    request: Request<Incoming>,
    seen: Arc<Seen>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let now = seen.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    seen.most_at_once.fetch_max(now, Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if head.uri.path() == "/slow" {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    seen.at_once.fetch_sub(1, Ordering::SeqCst);
    let field = |name: &str| {
        let values: Vec<_> = head.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        values.join(" & ")
    };
    let said = format!(
        "{:?} {} {} host={} proto={} for={} cookie={} id={} body={}",
        head.version,
        head.method,
        head.uri,
        field("host"),
        field("x-forwarded-proto"),
        field("x-forwarded-for"),
        field("cookie"),
        field("x-request-id"),
        body.len()
    );
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    let frames = [Frame::data(Bytes::from(said)), Frame::trailers(trailers)];
    let frames = futures_util::stream::iter(frames.into_iter().map(Ok));
    let mut response = Response::new(StreamBody::new(frames).boxed());
    response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
    Ok(response)
}
