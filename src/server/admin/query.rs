//! Queries the admin listener of a running server, for `registry-server healthcheck`, `status`, `drain` and `maintenance`.
//! Blocks, and needs no runtime.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long connecting, each write and each read may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long an order may take: the registry answers each command within 10 s.
const ORDER_TIMEOUT: Duration = Duration::from_secs(30);
/// How many bytes of a response are read.
const MAX_RESPONSE: u64 = 64 * 1024 * 1024;

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
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let response = ask(address, &request, TIMEOUT).map_err(|error| QueryError::Io(address, error))?;
    match parts(&response) {
        Some(("200", body)) => Ok(body.to_owned()),
        _ => Err(QueryError::Refused(address, response.lines().next().unwrap_or_default().to_owned())),
    }
}

/// Has the server do what `order` says, as an operator with the ADMIN_TOKEN. Returns whether it did it, and the body of
/// its answer. Blocks for at most about half a minute.
///
/// # Errors
/// If the server does not answer.
pub fn order(address: SocketAddr, token: &str, order: &str) -> Result<(bool, String), QueryError> {
    let address = reachable(address);
    let request = format!(
        "POST /actions HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{order}",
        order.len()
    );
    let response = ask(address, &request, ORDER_TIMEOUT).map_err(|error| QueryError::Io(address, error))?;
    let refused = || QueryError::Refused(address, response.lines().next().unwrap_or_default().to_owned());
    let (status, body) = parts(&response).ok_or_else(refused)?;
    Ok((status == "200", body.to_owned()))
}

/// The status and the body of a response.
fn parts(response: &str) -> Option<(&str, &str)> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?, body))
}

fn ask(address: SocketAddr, request: &str, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(request.as_bytes())?;
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
