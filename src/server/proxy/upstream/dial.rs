//! Makes TCP connections to backends: resolves names, applies the policy, keeps deadlines.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::server::routing::BackendPolicy;
use registry_client::protocol::{BackendUrl, Host};

use super::tls::{BackendTls, Trust};

/// How long resolving a name and connecting may take together.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a resolved name is used: short, because containers get new addresses.
const MAX_NAME_AGE: Duration = Duration::from_secs(3);
/// How many resolved names are kept. One more clears all of them.
const MAX_NAMES: usize = 1024;
/// How many of a name's addresses are tried.
const MAX_ADDRESSES: usize = 4;
/// After so long a silence TCP sends keepalive probes, at such intervals. Without an answer to as many the connection is
/// over. What is unacknowledged keeps TCP from probing: that is up to `liveness`.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 2;

/// Connects to the backends that the policy permits.
pub(crate) struct Dialer {
    policy: Arc<BackendPolicy>,
    /// Does handshakes with `https` backends.
    pub(crate) tls: BackendTls,
    names: Mutex<HashMap<String, Resolved>>,
}

struct Resolved {
    at: Instant,
    addresses: Arc<[IpAddr]>,
}

/// Why there is no TCP connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("not allowed: {0}")]
    NotAllowed(IpAddr),
    #[error("{name} cannot be resolved: {error}")]
    Resolve { name: String, error: io::Error },
    #[error("{address}: {error}")]
    Connect { address: SocketAddr, error: io::Error },
    #[error("{address}: no connection in time")]
    NoConnection { address: SocketAddr },
    #[error("no connection within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
}

impl DialError {
    /// Whether the address was asked and nobody there accepts connections. Names that do not resolve, what the policy
    /// forbids, and what this machine lacks (ports, file descriptors) say nothing about the backend.
    pub(crate) fn is_unreachable(&self) -> bool {
        use io::ErrorKind as Kind;
        match self {
            DialError::NoConnection { .. } => true,
            DialError::Connect { error, .. } => matches!(
                error.kind(),
                Kind::ConnectionRefused
                    | Kind::ConnectionReset
                    | Kind::HostUnreachable
                    | Kind::NetworkUnreachable
                    | Kind::NetworkDown
                    | Kind::TimedOut
            ),
            DialError::NotAllowed(_) | DialError::Resolve { .. } | DialError::Timeout => false,
        }
    }
}

impl Dialer {
    pub(crate) fn new(policy: Arc<BackendPolicy>, trust: Trust) -> Self {
        Dialer { policy, tls: BackendTls::new(trust), names: Mutex::default() }
    }

    /// Connects to `backend`, which a session from `peer` registered, within [`CONNECT_TIMEOUT`].
    pub(crate) async fn connect(&self, backend: &BackendUrl, peer: IpAddr) -> Result<TcpStream, DialError> {
        self.connect_within(CONNECT_TIMEOUT, backend, peer).await
    }

    /// The same, and gives each address up after `patience`.
    pub(crate) async fn connect_within(
        &self,
        patience: Duration,
        backend: &BackendUrl,
        peer: IpAddr,
    ) -> Result<TcpStream, DialError> {
        match timeout(CONNECT_TIMEOUT, self.try_addresses(patience, backend, peer)).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Timeout),
        }
    }

    async fn try_addresses(
        &self,
        patience: Duration,
        backend: &BackendUrl,
        peer: IpAddr,
    ) -> Result<TcpStream, DialError> {
        let addresses = match backend.host() {
            Host::Ip(ip) => Arc::from([*ip]),
            Host::Name(name) => self.resolve(name).await?,
        };
        // Divide the time, so that an address that drops packets leaves some for the others.
        let share = patience.min(CONNECT_TIMEOUT / addresses.len().max(1) as u32);
        let mut failure = DialError::Timeout;
        for ip in addresses.iter() {
            let address = SocketAddr::new(*ip, backend.port());
            match timeout(share, self.connect_to(address, peer)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = DialError::NoConnection { address },
            }
        }
        Err(failure)
    }

    async fn connect_to(&self, address: SocketAddr, peer: IpAddr) -> Result<TcpStream, DialError> {
        if !self.policy.permits(peer, address) {
            return Err(DialError::NotAllowed(address.ip()));
        }
        let failed = |error| DialError::Connect { address, error };
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        let local = stream.local_addr().map_err(failed)?;
        if self.policy.is_ourselves(local.ip(), address) {
            return Err(DialError::NotAllowed(address.ip()));
        }
        stream.set_nodelay(true).map_err(failed)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(failed)?;
        Ok(stream)
    }

    async fn resolve(&self, name: &str) -> Result<Arc<[IpAddr]>, DialError> {
        if let Some(addresses) = self.cached(name) {
            return Ok(addresses);
        }
        let failed = |error| DialError::Resolve { name: name.to_owned(), error };
        let found = lookup_host((name, 0)).await.map_err(failed)?;
        let addresses: Arc<[IpAddr]> = found.map(|addr| addr.ip()).take(MAX_ADDRESSES).collect();
        if addresses.is_empty() {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= MAX_NAMES {
            names.clear();
        }
        names.insert(name.to_owned(), Resolved { at: Instant::now(), addresses: Arc::clone(&addresses) });
        Ok(addresses)
    }

    fn cached(&self, name: &str) -> Option<Arc<[IpAddr]>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let resolved = names.get(name).filter(|resolved| resolved.at.elapsed() < MAX_NAME_AGE)?;
        Some(Arc::clone(&resolved.addresses))
    }
}
