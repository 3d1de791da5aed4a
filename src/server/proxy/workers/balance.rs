//! Hands new connections to the worker that has the fewest. The kernel spreads connections by a hash, which may leave a
//! core idle if there are few clients.

use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Connections that may wait for a worker after another one accepted them.
const MAX_HANDED_OVER: usize = 256;

/// The connections of all workers.
pub(crate) struct Balancer {
    workers: Vec<WorkerLoad>,
    /// One permit for each connection that may be open (MAX_CONNECTIONS).
    permits: Arc<Semaphore>,
}

struct WorkerLoad {
    connections: AtomicUsize,
    inbox: mpsc::Sender<HandedOver>,
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
    pub(super) fn new(
        workers: usize,
        max_connections: usize,
    ) -> (Arc<Self>, Vec<mpsc::Receiver<HandedOver>>) {
        let load = |_| {
            let (inbox, receiver) = mpsc::channel(MAX_HANDED_OVER);
            (WorkerLoad { connections: AtomicUsize::new(0), inbox }, receiver)
        };
        let (workers, inboxes) = (0..workers).map(load).unzip();
        let permits = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        (Arc::new(Balancer { workers, permits }), inboxes)
    }

    /// Client connections that are open, over all workers.
    pub(crate) fn open_connections(&self) -> usize {
        self.workers.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).sum()
    }

    /// Waits while MAX_CONNECTIONS are open.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// `None` while MAX_CONNECTIONS are open.
    pub(super) fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    pub(super) fn count(self: &Arc<Self>, worker: usize) -> CountedConnection {
        self.workers[worker].connections.fetch_add(1, Ordering::Relaxed);
        CountedConnection { balancer: Arc::clone(self), worker }
    }

    /// Gives a connection that `worker` accepted to the worker that has the fewest. Returns it if that is `worker`
    /// itself, or if the other one's inbox is full.
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
            return Some(NewConnection { stream, peer, is_tls, counted: self.count(worker) });
        };
        match stream.into_std() {
            Ok(stream) => inbox.send(HandedOver { stream, peer, is_tls, counted: self.count(fewest) }),
            Err(error) => tracing::debug!(%error, "a connection was lost between two workers"),
        }
        None
    }
}
