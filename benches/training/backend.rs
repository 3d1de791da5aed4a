//! An application behind the server: small answers, big ones, a page, and what it was sent.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

/// Where it listens.
pub(crate) struct Backend {
    pub(crate) plain: SocketAddr,
    /// HTTP/2 without TLS.
    pub(crate) http2: SocketAddr,
}

impl Backend {
    /// Runs as long as the runtime.
    pub(crate) async fn start() -> Self {
        let plain = listen(|stream| {
            let server = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(server);
        });
        let http2 = listen(|stream| {
            let server = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(server);
        });
        Backend { plain: plain.await, http2: http2.await }
    }
}

async fn listen(serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            serve(stream);
        }
    });
    address
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (kind, body) = match request.uri().path() {
        "/64k" => ("application/octet-stream", Bytes::from(vec![b'x'; 64 * 1024])),
        "/page" => ("text/html", Bytes::from(page())),
        "/echo" => {
            let body = request.into_body().collect().await.map(|all| all.to_bytes());
            ("application/octet-stream", body.unwrap_or_default())
        }
        _ => ("text/plain", Bytes::from_static(b"hello from the backend\n")),
    };
    Ok(Response::builder().header("content-type", kind).body(Full::new(body)).unwrap())
}

/// Some 20 KiB that can be compressed as well as pages can.
fn page() -> String {
    (0..400).map(|row| format!("<tr><td>{row}</td><td>{}</td></tr>\n", row * 7919 % 1009)).collect()
}
