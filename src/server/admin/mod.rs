//! ADMIN_LISTEN: metrics, status and health of a running server, over HTTP.
//!
//! | module | what it does |
//! |---|---|
//! | `snapshot` | gathers the state of the server at one moment |
//! | `metrics`, `status` | render it for Prometheus and as JSON |
//! | `hosts` | under which names it answers |
//! | `query` | the client: `registry-server healthcheck` and `status` |
//!
//! It changes nothing and shows no secret. Still it listens on loopback by default, because it shows hosts and
//! addresses. No answer has a CORS header: pages of other origins must not read it.

mod hosts;
mod metrics;
mod query;
mod snapshot;
mod status;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

pub use query::{QueryError, query};
use snapshot::Readiness;
pub use snapshot::Sources;

/// Concurrent connections; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may be open.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The admin server. It stops when this is dropped.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Admin {
    /// Serves on `listener`, whose address is `address`.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start((listener, address): (TcpListener, SocketAddr), sources: Sources) -> Admin {
        Admin { address, task: tokio::spawn(accept(listener, Arc::new(sources))) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, sources: Arc<Sources>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let sources = Arc::clone(&sources);
                tokio::spawn(async move {
                    let _ = timeout(CONNECTION_TIMEOUT, serve(stream, sources)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection to the admin port");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, sources: Arc<Sources>) {
    let service = service_fn(move |request| {
        let response = answer(&request, &sources);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    // An error concerns this client only.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

fn answer<B>(request: &Request<B>, sources: &Sources) -> Response<Full<Bytes>> {
    if !hosts::are_ours(request.headers(), &sources.hosts) {
        let text =
            "asked for under a name that is neither an address, nor localhost, nor one of ADMIN_HOSTS\n";
        return page(StatusCode::MISDIRECTED_REQUEST, TEXT, text.to_owned());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/healthz" => page(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => {
            let (status, text) = match sources.readiness() {
                Readiness::Ready => (StatusCode::OK, "ready\n"),
                Readiness::Loading => (StatusCode::SERVICE_UNAVAILABLE, "etcd was not read yet\n"),
                Readiness::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
            };
            page(status, TEXT, text.to_owned())
        }
        "/metrics" => page(StatusCode::OK, metrics::CONTENT, metrics::render(&sources.snapshot())),
        "/status" => page(StatusCode::OK, "application/json", status::render(&sources.snapshot())),
        _ => page(StatusCode::NOT_FOUND, TEXT, "/metrics /status /healthz /readyz\n".to_owned()),
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn page(status: StatusCode, content: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
