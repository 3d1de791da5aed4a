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
/// How long a request's head may take, and each step of the response: a client that reads slowly gets all of it.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(10);
/// How long the rest of a request is read and dropped once the response has gone. To close with unread bytes, or before
/// the client has closed, would reset the connection, and a reset overtakes what the client has not read yet.
const MAX_LINGER: Duration = Duration::from_secs(10);
/// How much of the response is written in one step.
const STEP: usize = 16 * 1024;
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
                    if let Err(error) = handle(stream, &respond).await {
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
    let response = match timeout(MAX_TIME, head(&mut stream)).await?? {
        Head::Whole(head) => match Request::parse(&head) {
            Some(request) => respond(&request),
            None => Response::text("400 Bad Request", "bad request\n"),
        },
        Head::TooLong => Response::text("431 Request Header Fields Too Large", "the head is too long\n"),
        Head::None => return Ok(()),
    };
    for part in response.encode().chunks(STEP) {
        timeout(MAX_TIME, stream.write_all(part)).await??;
    }
    stream.shutdown().await?;
    let rest = async {
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // A client that goes on sending has had its time.
    timeout(MAX_LINGER, rest).await.unwrap_or(Ok(()))
}

/// What a client has sent before the body.
enum Head {
    Whole(String),
    TooLong,
    /// The client has closed without a request.
    None,
}

async fn head(stream: &mut TcpStream) -> io::Result<Head> {
    let mut seen = Vec::new();
    loop {
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            seen.truncate(end);
            return Ok(Head::Whole(String::from_utf8_lossy(&seen).into_owned()));
        }
        if seen.len() > MAX_HEAD {
            return Ok(Head::TooLong);
        }
        if stream.read_buf(&mut seen).await? == 0 {
            return Ok(Head::None);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `request` to a responder whose body has so many bytes, and does what `then` does before it reads.
    async fn exchange(
        request: &[u8],
        body: usize,
        then: impl AsyncFnOnce(&mut TcpStream),
    ) -> io::Result<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let text = "x".repeat(body);
        let respond: Respond = Arc::new(move |_| Response::text("503 Service Unavailable", &text));
        tokio::spawn(async move { handle(listener.accept().await?.0, &respond).await });
        let mut client = TcpStream::connect(address).await?;
        client.write_all(request).await?;
        then(&mut client).await;
        let mut response = Vec::new();
        client.read_to_end(&mut response).await?;
        Ok(response)
    }

    /// A reset would cut the response off, or be an error here.
    #[tokio::test]
    async fn a_response_arrives_whole_however_much_of_the_request_is_unread() {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\n\r\n";
        for (body, upload) in [(3_000, 0), (3_000, 4_000_000), (2_000_000, 0)] {
            let rest = vec![b'y'; upload];
            // The response is not read before the upload has gone, as some proxies do it.
            let response = exchange(head, body, async |client| client.write_all(&rest).await.unwrap());
            let response = response.await.unwrap();
            assert!(response.starts_with(b"HTTP/1.1 503") && response.ends_with(&vec![b'x'; body]), "{body}");
        }
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_is_answered() {
        let request = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'y'; 200_000]].concat();
        let response = exchange(&request, 1, async |_| {}).await.unwrap();
        assert!(response.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&response));
    }
}
