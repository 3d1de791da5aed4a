//! Clients of the proxy: over HTTP/1.1, plain and in TLS, and over HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use super::SECURE_HOST;
use super::authority::Authority;

/// Where they ask, and whom they believe.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) plain: SocketAddr,
    pub(crate) secure: SocketAddr,
    pub(crate) authority: Arc<Authority>,
}

/// So many connections, at most 64 at once, with so many requests each, one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) each: usize,
}

/// A browser's request for a path; a POST brings 16 KiB.
pub(crate) fn request(method: Method, host: &str, path: &str) -> Request<Full<Bytes>> {
    let body = if method == Method::POST { Bytes::from(vec![b'u'; 16 * 1024]) } else { Bytes::new() };
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
        .header("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
        .header("accept-language", "en-GB,en;q=0.5")
        .header("cookie", "session=0123456789abcdef0123456789abcdef")
        .body(Full::new(body))
        .unwrap()
}

/// How they speak.
#[derive(Clone, Copy)]
pub(crate) enum Wire {
    Http1,
    Https1,
    Https2,
}

impl Clients {
    /// Lets every connection of a load ask the same.
    pub(crate) async fn ask(&self, wire: Wire, load: Load, request: &Request<Full<Bytes>>) {
        let mut running = JoinSet::new();
        for _ in 0..load.connections {
            if running.len() == 64 {
                running.join_next().await.unwrap().unwrap();
            }
            let (clients, request) = (self.clone(), request.clone());
            running.spawn(async move {
                match wire {
                    Wire::Http1 => ask_http1(clients.connect().await, load.each, request).await,
                    Wire::Https1 => {
                        ask_http1(clients.connect_tls("http/1.1").await, load.each, request).await
                    }
                    Wire::Https2 => ask_http2(clients.connect_tls("h2").await, load.each, request).await,
                }
            });
        }
        running.join_all().await;
    }

    async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.plain).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    async fn connect_tls(&self, protocol: &str) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.secure).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from(SECURE_HOST).unwrap();
        self.authority.connector(&[protocol]).connect(name, stream).await.unwrap()
    }
}

async fn ask_http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    times: usize,
    request: Request<Full<Bytes>>,
) {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..times {
        sender.ready().await.unwrap();
        take(sender.send_request(request.clone()).await.unwrap()).await;
    }
}

/// Reads it to the end. A server that learns from errors is fast at those.
async fn take(response: Response<Incoming>) {
    assert!(response.status() == 200 || response.status() == 404, "{response:?}");
    response.into_body().collect().await.unwrap();
}

async fn ask_http2(stream: TlsStream<TcpStream>, times: usize, mut request: Request<Full<Bytes>>) {
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove("host");
    *request.uri_mut() = format!("https://{SECURE_HOST}{}", request.uri().path()).parse().unwrap();
    for _ in 0..times {
        sender.ready().await.unwrap();
        take(sender.send_request(request.clone()).await.unwrap()).await;
    }
}
