//! New connections to backends: names to addresses, the policy, deadlines.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::protocol::{BackendUrl, Host};
use crate::server::routing::BackendPolicy;

use super::tls::{BackendTls, Trust};

/// How long it may take to resolve a name and connect.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a resolved name is believed: short, because containers move.
const NAME_AGE: Duration = Duration::from_secs(3);
/// Names that are remembered; beyond, the memory starts anew.
const MAX_NAMES: usize = 1024;
/// Of a name's addresses, so many are tried.
const MAX_ADDRESSES: usize = 4;
/// An upgraded connection that is silent for this long is asked for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Connects to backends as far as the policy lets it.
pub(super) struct Dialer {
    policy: Arc<BackendPolicy>,
    /// For backends that want it.
    pub(super) tls: BackendTls,
    names: Mutex<HashMap<String, Resolved>>,
}

struct Resolved {
    at: Instant,
    addresses: Arc<[IpAddr]>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("not allowed: {0}")]
    NotAllowed(IpAddr),
    #[error("{name} cannot be resolved: {error}")]
    Resolve { name: String, error: io::Error },
    #[error("{address}: {error}")]
    Connect { address: SocketAddr, error: io::Error },
    #[error("no connection within {} s", CONNECT_TIMEOUT.as_secs())]
    Late,
}

impl Dialer {
    pub(super) fn new(policy: Arc<BackendPolicy>, trust: Trust) -> Self {
        Dialer { policy, tls: BackendTls::new(trust), names: Mutex::default() }
    }

    /// A connection to `backend`, which a session from `peer` registered. Takes at most
    /// [`CONNECT_TIMEOUT`].
    pub(super) async fn connect(&self, backend: &BackendUrl, peer: IpAddr) -> Result<TcpStream, DialError> {
        match timeout(CONNECT_TIMEOUT, self.try_addresses(backend, peer)).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Late),
        }
    }

    async fn try_addresses(&self, backend: &BackendUrl, peer: IpAddr) -> Result<TcpStream, DialError> {
        let addresses = match backend.host() {
            Host::Ip(ip) => return self.connect_to(SocketAddr::new(*ip, backend.port()), peer).await,
            Host::Name(name) => self.resolve(name).await?,
        };
        // An address that swallows everything must not use up the time of the others.
        let share = CONNECT_TIMEOUT / addresses.len().max(1) as u32;
        let mut failure = DialError::Late;
        for ip in addresses.iter() {
            let address = SocketAddr::new(*ip, backend.port());
            match timeout(share, self.connect_to(address, peer)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = DialError::Late,
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
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(failed)?;
        Ok(stream)
    }

    async fn resolve(&self, name: &str) -> Result<Arc<[IpAddr]>, DialError> {
        if let Some(known) = self.remembered(name) {
            return Ok(known);
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

    fn remembered(&self, name: &str) -> Option<Arc<[IpAddr]>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let known = names.get(name).filter(|known| known.at.elapsed() < NAME_AGE)?;
        Some(Arc::clone(&known.addresses))
    }
}
