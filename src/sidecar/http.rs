//! A small HTTP/1.1 responder for the maintenance page and the metrics. One response for each connection is enough
//! for both, and a server library would be a fifth of the lean binary.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// How many connections are served at once; the others wait in the backlog.
const MAX_CONNECTIONS: usize = 64;
/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// How long a connection may take from accept to close.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(10);
/// How many bytes of a request's body are read and dropped. Closing with unread bytes would reset the connection, and
/// the response could be lost.
const MAX_BODY: usize = 256 * 1024;
/// The pause before a port in use is tried again, and after a failed accept.
const PAUSE: Duration = Duration::from_secs(5);

/// Makes the response to a request.
pub(crate) type Respond = Arc<dyn Fn(&Request) -> Response + Send + Sync>;

/// A request, as far as the responder reads it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) head_only: bool,
    /// The path without the query.
    pub(crate) path: String,
    /// The request has `X-Forwarded-For`: a person sent it through the proxy.
    pub(crate) forwarded: bool,
}

/// A whole response.
pub(crate) struct Response {
    pub(crate) status: &'static str,
    pub(crate) content_type: &'static str,
    /// Further header lines, each with its line end.
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
    pub(crate) head_only: bool,
}

/// Serves for as long as it runs, at the first of `addresses` that is free. While none is free, it tries again and
/// warns once. The log calls the service `what`.
pub(crate) async fn serve(what: &'static str, addresses: &[SocketAddr], respond: Respond) {
    let listener = listen(what, addresses).await;
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let respond = Arc::clone(&respond);
                tokio::spawn(async move {
                    if let Ok(Err(error)) = timeout(MAX_TIME, handle(stream, &respond)).await {
                        debug!("{what}: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!("{what}: cannot accept: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn listen(what: &str, addresses: &[SocketAddr]) -> TcpListener {
    let mut warned = false;
    loop {
        match TcpListener::bind(addresses).await {
            Ok(listener) => return listener,
            Err(error) if !warned => {
                let at = addresses.last().map(ToString::to_string).unwrap_or_default();
                warn!("{what}: cannot listen on {at}: {error}");
            }
            Err(_) => {}
        }
        warned = true;
        sleep(PAUSE).await;
    }
}

async fn handle(mut stream: TcpStream, respond: &Respond) -> io::Result<()> {
    let Some((head, mut body)) = head(&mut stream).await? else { return Ok(()) };
    let response = match Request::parse(&head) {
        Some(request) => respond(&request),
        None => Response::text("400 Bad Request", "bad request\n"),
    };
    stream.write_all(&response.encode()).await?;
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    while body < MAX_BODY {
        match stream.read(&mut rest).await? {
            0 => break,
            length => body += length,
        }
    }
    Ok(())
}

/// The head of the request, and how many bytes of the body arrived with it; `None` if there was no request or it was
/// too long.
async fn head(stream: &mut TcpStream) -> io::Result<Option<(String, usize)>> {
    let mut seen = Vec::new();
    loop {
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = seen.len() - end - 4;
            seen.truncate(end);
            return Ok(Some((String::from_utf8_lossy(&seen).into_owned(), body)));
        }
        if seen.len() > MAX_HEAD || stream.read_buf(&mut seen).await? == 0 {
            return Ok(None);
        }
    }
}

impl Request {
    /// Parses the head of a request.
    fn parse(head: &str) -> Option<Request> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if !version.starts_with("HTTP/1.") || method.is_empty() {
            return None;
        }
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let forwarded = lines.any(|line| {
            line.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-for"))
        });
        Some(Request { head_only: method == "HEAD", path: path.to_owned(), forwarded })
    }
}

impl Response {
    /// A response in plain text.
    pub(crate) fn text(status: &'static str, body: &str) -> Response {
        Response {
            status,
            content_type: "text/plain",
            headers: String::new(),
            body: body.as_bytes().to_vec(),
            head_only: false,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}Cache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len(),
            self.headers
        );
        let mut bytes = head.into_bytes();
        if !self.head_only {
            bytes.extend(&self.body);
        }
        bytes
    }
}
