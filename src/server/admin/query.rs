//! Queries the admin listener of a running server, for `registry-server healthcheck` and `status`. Blocks, and needs no
//! runtime.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long connecting, each write and each read may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How many bytes of a response are read.
const MAX_RESPONSE: u64 = 16 * 1024 * 1024;

/// Why a query failed.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The server cannot be reached, or it does not answer in time.
    #[error("no answer from {0}: {1}")]
    Io(SocketAddr, #[source] io::Error),
    /// The response is no HTTP or has another status than 200. Holds its first line.
    #[error("{0} answered: {1}")]
    Refused(SocketAddr, String),
}

/// Gets `path` from the server whose ADMIN_LISTEN is `address`; an unspecified address means loopback. Returns the
/// body. Blocks for at most about 9 s.
///
/// # Errors
/// If the server does not answer, or not with the status 200.
pub fn query(address: SocketAddr, path: &str) -> Result<String, QueryError> {
    let address = reachable(address);
    let response = get(address, path).map_err(|error| QueryError::Io(address, error))?;
    let refused = || QueryError::Refused(address, response.lines().next().unwrap_or_default().to_owned());
    let (head, body) = response.split_once("\r\n\r\n").ok_or_else(refused)?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(refused()),
    }
}

fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut response = String::new();
    stream.take(MAX_RESPONSE).read_to_string(&mut response)?;
    Ok(response)
}

fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}
