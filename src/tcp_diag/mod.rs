//! Asks the kernel about TCP connections (`sock_diag(7)`): when data last went each way, and what is unacknowledged.
//!
//! The same is in `getsockopt(TCP_INFO)`, but that needs `unsafe` code, and only the program that has the socket can
//! call it. It needs no privilege. Where the kernel does not answer (gVisor, a seccomp profile without netlink), callers
//! go on without. Linux only.
//!
//! It must not know whose connections they are, nor what follows from their state.

mod message;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

pub(crate) use message::TcpState;
use message::{End, Family};

/// `AF_NETLINK`
const NETLINK: i32 = 16;
/// `NETLINK_SOCK_DIAG`
const SOCK_DIAG: i32 = 4;
/// The kernel answers while it takes the question, so this is only reached if it does not mean to.
const TIMEOUT: Duration = Duration::from_millis(100);
/// The kernel's batches have at most 32 KiB.
const BUFFER: usize = 32 * 1024;
/// What the kernel says of a connection that does not exist (`ENOENT`).
const NO_SUCH_CONNECTION: i32 = 2;

/// A way to ask.
pub(crate) struct TcpDiag {
    socket: Socket,
    buffer: Box<[u8]>,
}

impl TcpDiag {
    /// # Errors
    /// The system's, where it has no such sockets or does not permit them.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::from(NETLINK), Type::DGRAM, Some(Protocol::from(SOCK_DIAG)))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        Ok(TcpDiag { socket, buffer: vec![0; BUFFER].into() })
    }

    /// The open connections of this network namespace with one of these local ports, those included that only the peer
    /// has closed.
    ///
    /// # Errors
    /// The system's. Ask again with a new [`TcpDiag`], if at all: the rest of an answer may be unread.
    pub(crate) fn connections_at(&mut self, ports: &[u16]) -> io::Result<Vec<TcpState>> {
        let mut found = Vec::new();
        for port in ports {
            for family in [Family::V4, Family::V6] {
                self.ask(&message::ask_for_port(family, *port), true, |state| found.push(state))?;
            }
        }
        Ok(found)
    }

    /// The state of one connection; `None`: it is not open.
    ///
    /// # Errors
    /// As [`TcpDiag::connections_at`].
    #[cfg_attr(
        not(feature = "server"),
        allow(dead_code, reason = "only the proxy asks about single connections")
    )]
    pub(crate) fn connection(&mut self, local: SocketAddr, peer: SocketAddr) -> io::Result<Option<TcpState>> {
        let mut found = None;
        self.ask(&message::ask_for_connection(local, peer), false, |state| found = Some(state))?;
        Ok(found)
    }

    /// A question about many connections has an answer in batches with an end; one about a single connection has one
    /// message.
    fn ask(&mut self, question: &[u8], about_many: bool, mut found: impl FnMut(TcpState)) -> io::Result<()> {
        self.socket.send(question)?;
        loop {
            let count = (&self.socket).read(&mut self.buffer)?;
            match message::read(&self.buffer[..count], &mut found) {
                ControlFlow::Break(End::Refused(NO_SUCH_CONNECTION)) if !about_many => return Ok(()),
                ControlFlow::Break(End::Refused(errno)) => return Err(io::Error::from_raw_os_error(errno)),
                ControlFlow::Break(End::Done) => return Ok(()),
                ControlFlow::Continue(()) if !about_many => return Ok(()),
                ControlFlow::Continue(()) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn the_kernel_tells_what_has_moved_on_a_connection() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (mut client, mut server) = pair(address);
            let (local, peer) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
            let mut diag = TcpDiag::open().unwrap();
            client.write_all(b"question").unwrap();
            let state = diag.connection(local, peer).unwrap().unwrap();
            assert_eq!((state.unread, state.data_segments), (8, (1, 0)));
            server.read_exact(&mut [0; 8]).unwrap();
            server.write_all(b"answer").unwrap();
            assert_eq!(diag.connections_at(&[1, local.port()]).unwrap().len(), 1);
            let state = diag.connection(local, peer).unwrap().unwrap();
            assert_eq!((state.unread, state.data_segments), (0, (1, 1)));
            drop(server);
            drop(client);
            assert!(diag.connections_at(&[local.port()]).unwrap().is_empty());
            assert_eq!(diag.connection(local, peer).unwrap(), None);
        }
    }
}
