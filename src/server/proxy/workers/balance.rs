//! Hands new connections to the worker that has the fewest. The kernel spreads connections by a hash, which may leave a
//! core idle if there are few clients.

use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use crate::server::proxy::config::ProxyConfig;

use super::address_limit::{AddressLimit, AddressPlace};
use super::crowd::Crowd;

/// Connections that may wait for a worker after another one accepted them.
const MAX_HANDED_OVER: usize = 256;
/// How long a newcomer waits for room before more is made.
const ROOM_PAUSE: Duration = Duration::from_millis(50);

/// The connections of all workers.
pub(crate) struct Balancer {
    workers: Vec<WorkerLoad>,
    /// One permit for each connection that may be open (MAX_CONNECTIONS).
    permits: Arc<Semaphore>,
    /// `None`: an address may have any number of connections.
    addresses: Option<Arc<AddressLimit>>,
    pub(crate) crowd: Crowd,
}

struct WorkerLoad {
    connections: AtomicUsize,
    inbox: mpsc::Sender<HandedOver>,
    /// Notified when somebody waits for room.
    room_wanted: Notify,
}

/// A connection that another worker accepted.
pub(super) struct HandedOver {
    stream: StdStream,
    peer: SocketAddr,
    is_tls: bool,
    counted: CountedConnection,
}

/// A connection that this worker is to serve.
pub(super) struct NewConnection {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) is_tls: bool,
    pub(super) counted: CountedConnection,
}

/// Counts a connection at its worker until this is dropped.
pub(super) struct CountedConnection {
    balancer: Arc<Balancer>,
    worker: usize,
    _place: Option<AddressPlace>,
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.balancer.workers[self.worker].connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HandedOver {
    /// `None` if the runtime cannot register the socket, which closes the connection.
    pub(super) fn into_new(self) -> Option<NewConnection> {
        let stream = TcpStream::from_std(self.stream).ok()?;
        Some(NewConnection { stream, peer: self.peer, is_tls: self.is_tls, counted: self.counted })
    }
}

impl Balancer {
    /// Also returns each worker's inbox for connections that others accepted.
    pub(super) fn new(workers: usize, config: &ProxyConfig) -> (Arc<Self>, Vec<mpsc::Receiver<HandedOver>>) {
        let load = |_| {
            let (inbox, receiver) = mpsc::channel(MAX_HANDED_OVER);
            (WorkerLoad { connections: AtomicUsize::new(0), inbox, room_wanted: Notify::new() }, receiver)
        };
        let (workers, inboxes) = (0..workers).map(load).unzip();
        let permits = Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS)));
        let addresses = config.max_connections_per_address;
        let addresses =
            addresses.map(|limit| Arc::new(AddressLimit::new(limit, config.trusted_proxies.clone())));
        (Arc::new(Balancer { workers, permits, addresses, crowd: Crowd::new() }), inboxes)
    }

    /// Client connections that are open, over all workers.
    pub(crate) fn open_connections(&self) -> usize {
        self.workers.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).sum()
    }

    /// Waits while MAX_CONNECTIONS are open, and has the workers make room.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Some(permit) = self.try_permit() {
            return Some(permit);
        }
        loop {
            self.crowd.is_full(self.open_connections());
            for worker in &self.workers {
                worker.room_wanted.notify_one();
            }
            if let Ok(permit) = timeout(ROOM_PAUSE, Arc::clone(&self.permits).acquire_owned()).await {
                return permit.ok();
            }
        }
    }

    /// Waits until a newcomer of any worker waits for room.
    pub(super) async fn room_wanted(&self, worker: usize) {
        self.workers[worker].room_wanted.notified().await;
    }

    /// `None` while MAX_CONNECTIONS are open.
    pub(super) fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Counts a connection at `worker`. `None`: the address of `peer` has too many.
    pub(super) fn count(self: &Arc<Self>, worker: usize, peer: SocketAddr) -> Option<CountedConnection> {
        let place = self.addresses.as_ref().map_or(Ok(None), |addresses| addresses.enter(peer.ip()));
        let Ok(place) = place else {
            self.crowd.refuse(peer.ip());
            return None;
        };
        self.workers[worker].connections.fetch_add(1, Ordering::Relaxed);
        Some(CountedConnection { balancer: Arc::clone(self), worker, _place: place })
    }

    /// Gives a connection that `worker` accepted to the worker that has the fewest. Returns it if that is `worker`
    /// itself, or if the other one's inbox is full. Closes it if its address has too many connections.
    pub(super) fn balance(
        self: &Arc<Self>,
        (stream, peer): (TcpStream, SocketAddr),
        is_tls: bool,
        worker: usize,
    ) -> Option<NewConnection> {
        let connections = |number: usize| self.workers[number].connections.load(Ordering::Relaxed);
        let fewest =
            (0..self.workers.len()).min_by_key(|number| (connections(*number), *number != worker))?;
        let other = (fewest != worker).then(|| self.workers[fewest].inbox.try_reserve().ok()).flatten();
        let Some(inbox) = other else {
            let counted = self.count(worker, peer)?;
            return Some(NewConnection { stream, peer, is_tls, counted });
        };
        let counted = self.count(fewest, peer)?;
        match stream.into_std() {
            Ok(stream) => inbox.send(HandedOver { stream, peer, is_tls, counted }),
            Err(error) => tracing::debug!(%error, "a connection was lost between two workers"),
        }
        None
    }
}
