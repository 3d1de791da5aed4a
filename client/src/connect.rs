//! From a registry's name to a connection: resolve, try each address in turn, set the socket's options.
//! The session decides when and how often to try.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::lookup;
use crate::protocol::{Host, Invalid};

/// A registry: a name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A DNS name, or an IPv4 or IPv6 address without brackets.
    pub host: String,
    /// 81 where nobody said otherwise.
    pub port: u16,
}

/// Makes connections. The client's own is [`TcpConnector`]; a program with other needs brings its own.
pub trait Connector: Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Tries once: the stream and the peer's address. `attempt` counts the tries since a session last held,
    /// so that an implementation can begin with another address each time.
    ///
    /// It must end by itself within a deadline of its own, and may be dropped at any point before.
    fn connect(
        &self,
        attempt: u32,
    ) -> impl Future<Output = Result<(Self::Stream, SocketAddr), ConnectError>> + Send;

    /// The address of this host that a connection was made from; `None` where it has none or nobody knows it. While a
    /// reply is due, the client looks every second whether the host still has it.
    fn local_ip(_stream: &Self::Stream) -> Option<IpAddr> {
        None
    }
}

/// Makes addresses of names. The client's own is [`SystemResolver`]; a program with other needs brings its own.
pub trait Resolver: Send + Sync + 'static {
    /// The addresses of an endpoint, in the order in which they should be tried.
    fn resolve(&self, endpoint: &Endpoint) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name has no address.
    #[error("the name {host:?} does not resolve ({reason}): is the registry up and on a common network?")]
    NameNotFound {
        /// The name.
        host: String,
        /// The resolver's words.
        reason: String,
    },
    /// The resolver did not answer.
    #[error("the name {host:?} was not resolved within {after:?}")]
    ResolveTimeout {
        /// The name.
        host: String,
        /// The deadline.
        after: Duration,
    },
    /// Nobody listens there.
    #[error("connection to {address} refused: is the registry up, and is the port right?")]
    Refused {
        /// The address that was tried last.
        address: SocketAddr,
    },
    /// Nobody answered.
    #[error("no answer from {address} within {after:?}: is it on a common network?")]
    Timeout {
        /// The address that was tried last.
        address: SocketAddr,
        /// The deadline.
        after: Duration,
    },
    /// There is no way there.
    #[error("{address} cannot be reached ({reason}): is there a common network?")]
    Unreachable {
        /// The address that was tried last.
        address: SocketAddr,
        /// The system's words.
        reason: String,
    },
    /// Anything else.
    #[error("no connection to {address}: {reason}")]
    Other {
        /// The address that was tried last.
        address: SocketAddr,
        /// The system's words.
        reason: String,
    },
}

/// Connects over TCP.
#[derive(Debug)]
pub struct TcpConnector<R = SystemResolver> {
    endpoint: Endpoint,
    timeout: Duration,
    resolver: R,
}

/// Resolves as the rest of the system does: hosts file, then DNS, as `getaddrinfo` is configured.
///
/// There is one look-up of a name at a time in a process. It goes on when a call that waits for it is dropped, and the next
/// call waits for the same. While one takes long, calls get the answer of the one before, if that is at most a minute old.
///
/// A look-up that hangs occupies a blocking thread until the system gives up, even when its result is no
/// longer wanted. A program that must end meanwhile shuts its runtime down in the background.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

/// Where a registry listens unless somebody says otherwise.
const DEFAULT_PORT: u16 = 81;

/// What both ends set on their sockets ([PROTOCOL section 1](crate::spec::protocol#1-framing)).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
const USER_TIMEOUT: Duration = Duration::from_secs(30);

impl Endpoint {
    /// `host` at `port`.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Endpoint { host: host.into(), port }
    }
}

impl FromStr for Endpoint {
    type Err = Invalid;

    /// `host:port` or `host`, which means port 81; an IPv6 address with a port is in brackets.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refusal = |reason: &'static str| Invalid::new("registry", text, reason, "proxy:81");
        let (host, port) = match text.rsplit_once(':') {
            // An IPv6 address without a port.
            Some((before, _)) if before.contains(':') && !before.ends_with(']') => (text, None),
            Some((before, _)) if before.starts_with('[') && !before.ends_with(']') => (text, None),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        let port = match port.map(str::parse) {
            None => DEFAULT_PORT,
            Some(Ok(port)) if port > 0 => port,
            Some(_) => return Err(refusal("its port is not between 1 and 65535")),
        };
        match host.parse() {
            Ok(Host::Name(name)) => Ok(Endpoint { host: name, port }),
            Ok(Host::Ip(ip)) => Ok(Endpoint { host: ip.to_string(), port }),
            Err(error) => Err(Invalid::new("registry", text, error.reason, "proxy:81")),
        }
    }
}

impl fmt::Display for Endpoint {
    /// `host:port`, with brackets around an IPv6 address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl TcpConnector {
    /// To `endpoint`. `timeout` bounds the resolution, and then the attempt at each address.
    pub fn new(endpoint: Endpoint, timeout: Duration) -> Self {
        TcpConnector { endpoint, timeout, resolver: SystemResolver }
    }
}

impl<R: Resolver> TcpConnector<R> {
    /// The same with another resolver.
    pub fn with_resolver<S: Resolver>(self, resolver: S) -> TcpConnector<S> {
        TcpConnector { endpoint: self.endpoint, timeout: self.timeout, resolver }
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let host = || self.endpoint.host.clone();
        let not_found = |reason: String| ConnectError::NameNotFound { host: host(), reason };
        match timeout(self.timeout, self.resolver.resolve(&self.endpoint)).await {
            Err(_) => Err(ConnectError::ResolveTimeout { host: host(), after: self.timeout }),
            Ok(Err(error)) => Err(not_found(error.to_string())),
            Ok(Ok(addresses)) if addresses.is_empty() => Err(not_found("no address".to_owned())),
            Ok(Ok(addresses)) => Ok(addresses),
        }
    }

    async fn dial(&self, address: SocketAddr) -> Result<TcpStream, ConnectError> {
        match timeout(self.timeout, TcpStream::connect(address)).await {
            Err(_) => Err(ConnectError::Timeout { address, after: self.timeout }),
            Ok(Err(error)) => Err(ConnectError::of(&error, address, self.timeout)),
            Ok(Ok(stream)) => {
                set_options(&stream);
                Ok(stream)
            }
        }
    }
}

impl<R: Resolver> Connector for TcpConnector<R> {
    type Stream = TcpStream;

    /// Each address in turn, beginning with another one at each attempt: an address where something answers
    /// that is no registry must not hide the others. The error is that of the last address.
    async fn connect(&self, attempt: u32) -> Result<(TcpStream, SocketAddr), ConnectError> {
        let mut addresses = self.resolve().await?;
        let first = attempt as usize % addresses.len();
        addresses.rotate_left(first);
        let mut last = None;
        for address in addresses {
            match self.dial(address).await {
                Ok(stream) => return Ok((stream, address)),
                Err(error) => {
                    tracing::debug!(%address, %error, "address failed");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| ConnectError::NameNotFound {
            host: self.endpoint.host.clone(),
            reason: "no address".to_owned(),
        }))
    }

    fn local_ip(stream: &TcpStream) -> Option<IpAddr> {
        stream.local_addr().ok().map(|local| local.ip())
    }
}

impl Resolver for SystemResolver {
    async fn resolve(&self, endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
        let port = endpoint.port;
        if let Ok(ip) = endpoint.host.parse() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let system = |name: String| async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        };
        let found = lookup::shared(&endpoint.host, system).await?;
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }
}

/// This host's address on the way to `peer`. Connecting a UDP socket looks the way up in the kernel's routing table and
/// sends nothing.
pub(super) fn local_address_towards(peer: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    socket.local_addr().map(|local| local.ip())
}

/// Whether this host has lost the address: nothing can be bound to it. What else may go wrong with that, such as too
/// many open files, says nothing about the address.
pub(super) fn is_gone(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        // Binding to one takes the interface, which a plain address does not name.
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let bound = UdpSocket::bind((ip, 0));
    !is_link_local && bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

impl ConnectError {
    fn of(error: &io::Error, address: SocketAddr, after: Duration) -> Self {
        let reason = || error.to_string();
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectError::Refused { address },
            io::ErrorKind::TimedOut => ConnectError::Timeout { address, after },
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable => ConnectError::Unreachable { address, reason: reason() },
            _ => ConnectError::Other { address, reason: reason() },
        }
    }
}

/// Small lines go at once, and a peer that vanished without a word is found by the kernel too. Where an
/// option cannot be set the connection is still good: PING finds the same, later.
fn set_options(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    let results = [
        stream.set_nodelay(true),
        socket.set_tcp_keepalive(&keepalive),
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT)),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "socket option not set");
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    struct Fixed(Vec<SocketAddr>);

    impl Resolver for Fixed {
        async fn resolve(&self, _: &Endpoint) -> io::Result<Vec<SocketAddr>> {
            Ok(self.0.clone())
        }
    }

    const SOON: Duration = Duration::from_secs(5);

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn refusing() -> SocketAddr {
        listener().await.1
    }

    fn to(addresses: Vec<SocketAddr>) -> TcpConnector<Fixed> {
        TcpConnector::new(Endpoint::new("proxy", 81), SOON).with_resolver(Fixed(addresses))
    }

    #[test]
    fn an_endpoint_is_read_from_text_and_written_as_it_is_read() {
        for (given, written) in [
            ("proxy", "proxy:81"),
            ("Proxy:8081", "proxy:8081"),
            ("10.2.2.2:81", "10.2.2.2:81"),
            ("[::1]:8081", "[::1]:8081"),
            ("[::1]", "[::1]:81"),
            ("::1", "[::1]:81"),
        ] {
            let endpoint: Endpoint = given.parse().unwrap();
            assert_eq!(endpoint.to_string(), written, "{given}");
            assert_eq!(written.parse(), Ok(endpoint), "{given}");
        }
        for given in
            ["", ":81", "proxy:", "proxy:0", "proxy:x", "proxy:65536", "a b", "[::1]x", "tcp://proxy"]
        {
            assert!(given.parse::<Endpoint>().is_err(), "{given:?}");
        }
    }

    #[tokio::test]
    async fn each_address_is_tried_until_one_answers() {
        let (_listener, good) = listener().await;
        let connector = to(vec![refusing().await, good, refusing().await]);
        for attempt in 0..4 {
            assert_eq!(connector.connect(attempt).await.unwrap().1, good);
        }
    }

    #[tokio::test]
    async fn each_attempt_begins_with_another_address() {
        let ((_a, first), (_b, second)) = (listener().await, listener().await);
        let connector = to(vec![first, second]);
        assert_eq!(connector.connect(0).await.unwrap().1, first);
        assert_eq!(connector.connect(1).await.unwrap().1, second);
        assert_eq!(connector.connect(2).await.unwrap().1, first);
    }

    #[tokio::test]
    async fn the_socket_finds_a_vanished_peer_and_sends_at_once() {
        let (_listener, address) = listener().await;
        let (stream, _) = to(vec![address]).connect(0).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }

    #[tokio::test]
    async fn the_error_says_what_is_wrong() {
        let address = refusing().await;
        assert_eq!(to(vec![address]).connect(0).await.unwrap_err(), ConnectError::Refused { address });
        let nowhere = to(Vec::new()).connect(0).await.unwrap_err();
        assert!(matches!(&nowhere, ConnectError::NameNotFound { host, .. } if host == "proxy"), "{nowhere}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolution_that_hangs_has_a_deadline() {
        struct Hangs;
        impl Resolver for Hangs {
            async fn resolve(&self, _: &Endpoint) -> io::Result<Vec<SocketAddr>> {
                std::future::pending().await
            }
        }
        let connector = TcpConnector::new(Endpoint::new("proxy", 81), SOON).with_resolver(Hangs);
        let error = connector.connect(0).await.unwrap_err();
        assert_eq!(error, ConnectError::ResolveTimeout { host: "proxy".to_owned(), after: SOON });
    }
}
