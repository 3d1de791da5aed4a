//! Opens a listener for each worker, all on one port (SO_REUSEPORT), and accepts connections.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that the kernel queues for a listener.
const BACKLOG: i32 = 4096;
/// How long a connection may be silent before TCP sends keepalive probes. Without answers it ends a minute later.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Opens a listener for each of `workers`. Port 0: all get one free port.
///
/// # Errors
/// If the address is in use, even by another process that would share the port.
pub(crate) fn listen(addr: SocketAddr, workers: usize) -> io::Result<Vec<StdListener>> {
    if addr.port() != 0 {
        // With SO_REUSEPORT two servers of one user could share the port by mistake. Bind once without it to find out.
        bind(addr, false)?;
    }
    let first = bind(addr, true)?;
    let addr = first.local_addr()?.as_socket().unwrap_or(addr);
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(bind(addr, true)?);
    }
    let listening = |socket: Socket| socket.listen(BACKLOG).map(|()| socket.into());
    sockets.into_iter().map(listening).collect()
}

/// Accepted connections inherit the options of their listener.
fn bind(addr: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4))?;
    socket.bind(&SockAddr::from(addr))?;
    Ok(socket)
}

/// One worker's listeners, of the standard library or of the runtime.
pub(super) struct Listeners<L> {
    pub(super) plain: L,
    pub(super) secure: Option<L>,
}

impl Listeners<StdListener> {
    pub(super) fn into_runtime(self) -> io::Result<Listeners<TcpListener>> {
        let secure = self.secure.map(TcpListener::from_std).transpose()?;
        Ok(Listeners { plain: TcpListener::from_std(self.plain)?, secure })
    }
}

/// The result of an accept.
pub(super) struct Accepted {
    pub(super) result: io::Result<(TcpStream, SocketAddr)>,
    /// The connection begins with a TLS handshake.
    pub(super) is_tls: bool,
}

impl Listeners<TcpListener> {
    /// Accepts on both listeners. Cancel safe.
    pub(super) async fn accept(&self) -> Accepted {
        let Some(secure) = &self.secure else {
            return Accepted { result: self.plain.accept().await, is_tls: false };
        };
        tokio::select! {
            result = self.plain.accept() => Accepted { result, is_tls: false },
            result = secure.accept() => Accepted { result, is_tls: true },
        }
    }
}
