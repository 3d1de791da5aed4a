//! The maintenance page: a small HTTP/1.1 responder of our own, because a server library would be a fifth of the
//! lean binary, and all there is to say fits into one answer a connection (SEMANTICS section 5).
//!
//! People, whose requests come through the proxy and have `X-Forwarded-For`, get 503 and `Retry-After`; the
//! proxy's own probe has no such header and gets 200.

mod answer;
mod keeper;
mod state;
mod windows;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::agent::Agent;
use super::config::MaintenanceConfig;
use answer::{Answer, Asked};

pub(super) use keeper::{Keeper, end_windows};
pub(super) use windows::{Window, in_words};

/// How many connections are answered at once; the others wait in the backlog.
const MAX_CONNECTIONS: usize = 64;
/// How long the head of a request may be.
const MAX_HEAD: usize = 16 * 1024;
/// How long a connection may take, from its beginning to its end.
const MAX_TIME: Duration = Duration::from_secs(10);
/// How much of a body that nobody wants is read, so that the answer is not lost in a reset.
const MAX_BODY: usize = 256 * 1024;
/// Until the port is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// Serves the page for as long as it lives. A port that is taken is tried again, and said to be once.
pub(super) async fn serve(config: MaintenanceConfig, service: String, agent: Agent) {
    let Some(port) = config.port else { return std::future::pending().await };
    let listener = listen(port).await;
    info!("maintenance page on port {port}");
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let pages = Arc::new((config, service));
    loop {
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (pages, agent) = (Arc::clone(&pages), agent.clone());
                tokio::spawn(async move {
                    let talk = timeout(MAX_TIME, talk(stream, &pages.0, &pages.1, &agent));
                    if let Ok(Err(error)) = talk.await {
                        debug!("maintenance page: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!("maintenance page: cannot accept: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn listen(port: u16) -> TcpListener {
    let mut told = false;
    loop {
        // Both families where there are two.
        let bound = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            Ok(listener) => Ok(listener),
            Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await,
        };
        match bound {
            Ok(listener) => return listener,
            Err(error) if !told => warn!("maintenance page: cannot listen on port {port}: {error}"),
            Err(_) => {}
        }
        told = true;
        sleep(PAUSE).await;
    }
}

async fn talk(
    mut stream: TcpStream,
    config: &MaintenanceConfig,
    service: &str,
    agent: &Agent,
) -> io::Result<()> {
    let Some((head, mut body)) = head(&mut stream).await? else { return Ok(()) };
    let answer = match Asked::parse(&head) {
        Some(asked) => Answer::to(&asked, config.page.as_deref(), service, agent),
        None => Answer::bad_request(),
    };
    stream.write_all(&answer.encode()).await?;
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

/// The request up to its empty line, and how much of the body came along; `None`: there was no request, or one
/// that is too long.
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

#[cfg(test)]
mod tests;
