//! The other end of the pages: one question to a running server, without a runtime.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long each of connecting, writing and reading may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The longest answer that is read.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens, or it does not answer in time.
    #[error("no answer from {0}: {1}")]
    Io(SocketAddr, #[source] io::Error),
    /// Something answered that is not what was asked for.
    #[error("{0} answered: {1}")]
    Refused(SocketAddr, String),
}

/// Asks the server that listens on `address` (ADMIN_LISTEN) for `path`. Blocks, at most for about 9 s; an
/// unspecified address stands for loopback.
///
/// # Errors
/// Where there is no answer, or one without the status 200.
pub fn ask(address: SocketAddr, path: &str) -> Result<String, AskError> {
    let address = reachable(address);
    let answer = exchange(address, path).map_err(|error| AskError::Io(address, error))?;
    let refused = || AskError::Refused(address, answer.lines().next().unwrap_or_default().to_owned());
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(refused)?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(refused()),
    }
}

fn exchange(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}

fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}
