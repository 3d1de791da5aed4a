//! One try of one check. The caller sets the deadline.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tracing::warn;

use crate::sidecar::address;
use crate::sidecar::config::{Endpoint, ReadyCheck};
use registry_client::protocol::{HealthPath, Host};
use registry_client::{Endpoint as Name, Resolver, SystemResolver};

use super::failure::{Cause, Failure};
use super::fastcgi;
use super::shell::Shell;

/// The longest status line that is read of an HTTP answer, in bytes.
const MAX_STATUS_LINE: usize = 4 * 1024;
/// How many of this host's addresses are tried where nobody listens on 127.0.0.1.
const MAX_OWN_ADDRESSES: usize = 16;

/// Tries the check. Looking its name up may take `limit`, and everything after that once more.
///
/// # Errors
/// Says why it fails; without the name of the check.
pub(super) async fn probe(check: &ReadyCheck, limit: Duration, shell: Option<&Shell>) -> Result<(), Failure> {
    let addresses = match place_of(check) {
        Some(place) => look_up(place, limit).await?,
        None => Vec::new(),
    };
    match timeout(limit, answer(check, &addresses, shell)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::new(Cause::Silent, format!("no answer within {limit:?}"))),
    }
}

fn place_of(check: &ReadyCheck) -> Option<&Endpoint> {
    match check {
        ReadyCheck::Tcp(place)
        | ReadyCheck::Http(place, _)
        | ReadyCheck::Https(place, _)
        | ReadyCheck::FastCgi(place, _) => Some(place),
        ReadyCheck::OwnPort(_) | ReadyCheck::Unix(_) | ReadyCheck::File(_) | ReadyCheck::Exec(_) => None,
    }
}

/// The addresses of a place. A look-up that is not over within `limit` goes on, and the next try waits for it.
async fn look_up(place: &Endpoint, limit: Duration) -> Result<Vec<SocketAddr>, Failure> {
    let name = match &place.host {
        Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, place.port)]),
        Host::Name(name) => name,
    };
    match timeout(limit, SystemResolver.resolve(&Name::new(name.as_str(), place.port))).await {
        Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
        Ok(Ok(_)) => Err(Failure::new(Cause::Unresolved, format!("the name {name} has no address"))),
        Ok(Err(error)) => {
            Err(Failure::new(Cause::Unresolved, format!("the name {name} does not resolve ({error})")))
        }
        Err(_) => {
            let text =
                format!("DNS has not answered for the name {name} within {limit:?}; the look-up goes on");
            Err(Failure::new(Cause::SlowNameServer, text))
        }
    }
}

async fn answer(check: &ReadyCheck, addresses: &[SocketAddr], shell: Option<&Shell>) -> Result<(), Failure> {
    match check {
        ReadyCheck::OwnPort(port) => own(*port).await,
        ReadyCheck::Tcp(_) => connect(addresses).await.map(drop),
        ReadyCheck::Http(place, path) => Ok(http(connect(addresses).await?, place, path).await?),
        ReadyCheck::Https(place, path) => Ok(https(connect(addresses).await?, place, path).await?),
        ReadyCheck::FastCgi(_, path) => Ok(fastcgi::get(connect(addresses).await?, path).await?),
        ReadyCheck::Unix(path) => {
            Ok(UnixStream::connect(path).await.map(drop).map_err(|error| error.to_string())?)
        }
        ReadyCheck::File(path) => Ok(file(path)?),
        ReadyCheck::Exec(line) => match shell {
            Some(shell) => Ok(shell.run(line).await?),
            None => Err("no command can be run here".to_owned().into()),
        },
    }
}

/// Tries 127.0.0.1, and then the other addresses of this host: the application may listen on only one of those.
async fn own(port: u16) -> Result<(), Failure> {
    let at = |ip: IpAddr| [SocketAddr::new(ip, port)];
    let refused = match connect(&at(Ipv4Addr::LOCALHOST.into())).await {
        Ok(_) => return Ok(()),
        Err(refused) => refused,
    };
    let others = address::interfaces().unwrap_or_default();
    let others = others.iter().map(|interface| interface.ip).filter(|ip| *ip != Ipv4Addr::LOCALHOST);
    // A link-local address cannot be connected to without naming its link.
    let others = others.filter(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()));
    for ip in others.take(MAX_OWN_ADDRESSES) {
        if connect(&at(ip)).await.is_ok() {
            return Ok(());
        }
    }
    Err(refused)
}

/// Connects to the first of the addresses that accepts.
async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(addresses).await.map_err(|error| {
        let cause = match error.kind() {
            io::ErrorKind::ConnectionRefused => Cause::Refused,
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Cause::Silent
            }
            _ => Cause::Other,
        };
        Failure::new(cause, error.to_string())
    })?;
    if is_connected_to_itself(&stream) {
        return Err(Failure::new(Cause::Refused, "nobody listens"));
    }
    Ok(stream)
}

/// When we connect to a local port on which nobody listens, the kernel may choose that very port as ours, and we
/// connect to ourselves. Such a connection keeps the application from its port, so it is closed with a reset, which
/// skips the minute of TIME_WAIT.
fn is_connected_to_itself(stream: &TcpStream) -> bool {
    let itself = matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if local == peer);
    if itself && let Err(error) = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        warn!("a connection to itself cannot be reset: {error}");
    }
    itself
}

#[cfg(feature = "server")]
async fn https(stream: TcpStream, place: &Endpoint, path: &HealthPath) -> Result<(), String> {
    http(super::https::secure(stream, &place.host).await?, place, path).await
}

/// The configuration refuses such checks, so this is never reached.
#[cfg(not(feature = "server"))]
async fn https(_: TcpStream, _: &Endpoint, _: &HealthPath) -> Result<(), String> {
    Err("the lean build has no TLS".to_owned())
}

/// Passes with any status below 500 for the path `/`, and with 2xx and 3xx for other paths (SEMANTICS section 3).
async fn http(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    place: &Endpoint,
    path: &HealthPath,
) -> Result<(), String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {place}\r\nUser-Agent: registry-sidecar\r\nConnection: close\r\n\r\n"
    );
    let line = async {
        stream.write_all(request.as_bytes()).await?;
        first_line(&mut stream).await
    };
    let line = line.await.map_err(|error: io::Error| error.to_string())?;
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse::<u16>().ok());
    match status {
        None => Err("what answers there does not speak HTTP".to_owned()),
        Some(100..=399) => Ok(()),
        Some(400..=499) if path.as_str() == "/" => Ok(()),
        Some(status) => Err(format!("status {status}")),
    }
}

async fn first_line(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut seen = Vec::new();
    while !seen.contains(&b'\n') && seen.len() < MAX_STATUS_LINE {
        if stream.read_buf(&mut seen).await? == 0 {
            break;
        }
    }
    let end = seen.iter().position(|byte| *byte == b'\n').unwrap_or(seen.len());
    Ok(String::from_utf8_lossy(&seen[..end]).trim_end().to_owned())
}

fn file(path: &Path) -> Result<(), String> {
    std::fs::metadata(path).map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn listener(ip: &str) -> (TcpListener, Endpoint) {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, Endpoint { host: Host::Ip(address.ip()), port: address.port() })
    }

    /// What is said of a server that answers with `reply`.
    async fn http_verdict(path: &str, reply: &'static str) -> Result<(), Failure> {
        let (listener, place) = listener("127.0.0.1").await;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(reply.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let verdict = probe(&ReadyCheck::Http(place, path.parse().unwrap()), LIMIT, None).await;
        assert!(server.await.unwrap().starts_with(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:")));
        verdict
    }

    #[tokio::test]
    async fn http_is_judged_as_the_proxy_would() {
        for (path, reply, passes) in [
            ("/health", "HTTP/1.1 200 OK\r\n\r\n", true),
            ("/health", "HTTP/1.0 302 Found\r\n\r\n", true),
            ("/health", "HTTP/1.1 404 Not Found\r\n\r\n", false),
            ("/", "HTTP/1.1 404 Not Found\r\n\r\n", true),
            ("/", "HTTP/1.1 503 Service Unavailable\r\n\r\n", false),
            ("/", "220 smtp ready\r\n", false),
            ("/", "", false),
        ] {
            assert_eq!(http_verdict(path, reply).await.is_ok(), passes, "{path} {reply:?}");
        }
    }

    #[tokio::test]
    async fn an_application_that_listens_on_an_address_of_its_own_only_is_found() {
        let own =
            address::interfaces().unwrap().into_iter().find(|own| own.ip.is_ipv4() && !own.ip.is_loopback());
        let Some(own) = own else { return };
        let (listener, place) = listener(&own.ip.to_string()).await;
        probe(&ReadyCheck::OwnPort(place.port), LIMIT, None).await.unwrap();
        drop(listener);
        assert!(probe(&ReadyCheck::OwnPort(place.port), LIMIT, None).await.is_err());
    }

    #[tokio::test]
    async fn a_unix_socket_and_a_file_are_there_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, file) = (folder.path().join("app.sock"), folder.path().join("ready"));
        assert!(probe(&ReadyCheck::Unix(socket.clone()), LIMIT, None).await.is_err());
        assert!(probe(&ReadyCheck::File(file.clone()), LIMIT, None).await.is_err());
        let _listener = UnixListener::bind(&socket).unwrap();
        std::fs::write(&file, "").unwrap();
        probe(&ReadyCheck::Unix(socket), LIMIT, None).await.unwrap();
        probe(&ReadyCheck::File(file), LIMIT, None).await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_to_itself_is_no_application() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let own = socket.local_addr().unwrap();
        let stream = socket.connect(own).await.unwrap();
        assert!(is_connected_to_itself(&stream));
        drop(stream);
        // And its port is free at once.
        std::net::TcpListener::bind(own).unwrap();
    }
}
