//! ADMIN_LISTEN: metrics, status and health of a running server, over HTTP.
//!
//! | module | what it does |
//! |---|---|
//! | `snapshot` | gathers the state of the server at one moment |
//! | `metrics`, `status` | render it for Prometheus and as JSON |
//! | `live` | the model of the operators' page, and how it reaches people as it changes |
//! | `document` | the page itself, and the headers that protect it |
//! | `actions` | what operators have the registry do |
//! | `hosts` | under which names it answers |
//! | `table` | renders the model for people at a terminal |
//! | `query` | the client: `registry-server healthcheck`, `status`, `drain` and `maintenance` |
//!
//! It shows no secret, and changes nothing but for whoever gives ADMIN_TOKEN. Still it listens on loopback by default, because it shows hosts and
//! addresses. No answer has a CORS header: pages of other origins must not read it.

mod actions;
mod document;
mod hosts;
mod live;
mod metrics;
mod query;
mod snapshot;
mod status;
mod table;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::poll_fn;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use live::{Hub, Subscription};
pub use query::{QueryError, order, query};
use snapshot::Readiness;
pub use snapshot::Sources;
pub use table::table;

/// Concurrent connections; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may be open that does not follow the page's changes.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// How much the kernel keeps for a client that does not read. A follower that is further behind is dropped.
const SEND_BUFFER: usize = 64 * 1024;
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The admin server. It stops when this is dropped.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

/// What all connections share.
struct Shared {
    sources: Arc<Sources>,
    hub: Arc<Hub>,
}

/// A client's connection.
struct Client {
    peer: IpAddr,
    /// It follows the page's changes, for as long as it keeps up.
    follows: AtomicBool,
    /// Closes it.
    close: Arc<Notify>,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

impl Admin {
    /// Serves on `listener`, whose address is `address`.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start((listener, address): (TcpListener, SocketAddr), sources: Sources) -> Admin {
        let sources = Arc::new(sources);
        let hub = Arc::new(Hub::new(Arc::clone(&sources)));
        let shared = Arc::new(Shared { sources, hub: Arc::clone(&hub) });
        let gather = tokio::spawn(async move { hub.run().await });
        Admin { address, tasks: [tokio::spawn(accept(listener, shared)), gather] }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    serve(stream, peer.ip().to_canonical(), shared).await;
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

async fn serve(stream: TcpStream, peer: IpAddr, shared: Arc<Shared>) {
    let close: Arc<Notify> = Arc::default();
    let client = Arc::new(Client { peer, follows: AtomicBool::new(false), close: Arc::clone(&close) });
    let own = Arc::clone(&client);
    let service = service_fn(move |request| {
        let (shared, client) = (Arc::clone(&shared), Arc::clone(&own));
        async move { Ok::<_, Infallible>(answer(request, &shared, &client).await) }
    });
    // What fails here costs memory only.
    let socket = SockRef::from(&stream).try_clone();
    let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let too_long = async {
        sleep(CONNECTION_TIMEOUT).await;
        if client.follows.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    };
    tokio::select! {
        // An error concerns this client only.
        _ = http.serve_connection(TokioIo::new(stream), service) => {}
        () = too_long => {}
        // What the kernel holds for a client that does not read is thrown away.
        () = close.notified() => if let Ok(socket) = socket {
            let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        },
    }
}

async fn answer(request: Request<Incoming>, shared: &Shared, client: &Client) -> Answer {
    let sources = &shared.sources;
    if !hosts::are_ours(request.headers(), &sources.hosts) {
        let text =
            "asked for under a name that is neither an address, nor localhost, nor one of ADMIN_HOSTS\n";
        return page(StatusCode::MISDIRECTED_REQUEST, TEXT, text.to_owned());
    }
    if request.uri().path() == "/actions" {
        return actions(request, shared, client).await;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/" => {
            let mut document = page(StatusCode::OK, HTML, document::PAGE.to_owned());
            document::protect(document.headers_mut());
            document
        }
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
        "/status" => page(StatusCode::OK, JSON, status::render(&sources.snapshot())),
        "/live" => page(StatusCode::OK, JSON, json(&shared.hub.view().await)),
        "/events" if *request.method() == Method::GET => events(shared, client).await,
        _ => {
            let known = "/ /metrics /status /live /events /healthz /readyz\n";
            page(StatusCode::NOT_FOUND, TEXT, known.to_owned())
        }
    }
}

/// What an operator asks for. It is never in a URL, where logs would keep it.
async fn actions(request: Request<Incoming>, shared: &Shared, client: &Client) -> Answer {
    if *request.method() != Method::POST {
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only POST\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return refused;
    }
    let (head, mut body) = request.into_parts();
    let Shared { sources, hub } = shared;
    let (status, outcome) = actions::carry_out(sources, hub, client.peer, &head.headers, &mut body).await;
    match outcome {
        Ok(outcome) => page(status, JSON, json(&outcome)),
        Err(why) => page(status, TEXT, why + "\n"),
    }
}

/// Everything that the page shows, and then every change, as server-sent events.
async fn events(shared: &Shared, client: &Client) -> Answer {
    let Some(mut subscription) = shared.hub.follow(Arc::clone(&client.close)).await else {
        let mut full = page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "too many follow already\n".to_owned());
        full.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
        return full;
    };
    client.follows.store(true, Ordering::Relaxed);
    let next = move |cx: &mut std::task::Context<'_>| {
        Subscription::poll_recv(&mut subscription, cx).map(|message| message.map(|it| Ok(Frame::data(it))))
    };
    let mut response = page(StatusCode::OK, "text/event-stream", String::new());
    *response.body_mut() = BoxBody::new(StreamBody::new(poll_fn(next)));
    response
}

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

fn page(status: StatusCode, content: &'static str, text: String) -> Answer {
    let mut response = Response::new(Full::from(text).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
