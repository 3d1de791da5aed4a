//! One thread of the proxy: a single-threaded runtime with its own listener, so that a connection and all
//! that belongs to it stay on one core.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant as StdInstant};

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use crate::server::live_table::LiveTable;
use crate::server::routing::is_private;

use super::ProxyConfig;
use super::connection::{self, ClientConnection};
use super::dial::Dialer;
use super::forwarded::Forwarding;
use super::meter::WorkerMeters;
use super::tls::{Certificates, ClientTls};
use super::upstream::Pool;

/// Connections that the kernel keeps for us until we accept them.
const BACKLOG: i32 = 4096;
/// Connections that one worker may have handed to another before that one took them.
const MAX_HANDED_OVER: usize = 256;
/// What is silent for this long is asked for a sign of life; it dies of silence about a minute later.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long to wait when accepting fails for want of something (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long, when stopping, the first request of a new connection is waited for.
const FRESH_GRACE: Duration = Duration::from_millis(100);
/// So many connections of one address at one worker are those of many clients: a browser opens six in all.
const CROWD: usize = 8;
/// How many blocking threads a worker has, for name resolution.
const RESOLVER_THREADS: usize = 4;

/// A listener for each of `workers`, all on the same port.
///
/// # Errors
/// When the address is in use, even by another process that would share it.
pub(super) fn listen(addr: SocketAddr, workers: usize) -> io::Result<Vec<StdListener>> {
    if addr.port() != 0 {
        // SO_REUSEPORT would let two servers of one user take turns on a port. Ask once without it.
        bound(addr, false)?;
    }
    let first = bound(addr, true)?;
    let addr = first.local_addr()?.as_socket().unwrap_or(addr);
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(bound(addr, true)?);
    }
    let listening = |socket: Socket| socket.listen(BACKLOG).map(|()| socket.into());
    sockets.into_iter().map(listening).collect()
}

/// What is set on a listener is set on the connections that it accepts.
fn bound(addr: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4))?;
    socket.bind(&SockAddr::from(addr))?;
    Ok(socket)
}

/// What the workers of a proxy share.
pub(super) struct Shared {
    pub(super) config: ProxyConfig,
    pub(super) table: Arc<LiveTable>,
    pub(super) secure: Option<Secure>,
    connections: Arc<Semaphore>,
    seats: Vec<Load>,
    /// That many clients seem to share an address was said already.
    crowd_noticed: AtomicBool,
}

impl Shared {
    /// Connections of clients, over all workers.
    pub(super) fn open_connections(&self) -> usize {
        self.seats.iter().map(|seat| seat.connections.load(Ordering::Relaxed)).sum()
    }
}

/// TLS to clients.
pub(super) struct Secure {
    pub(super) tls: ClientTls,
    pub(super) certificates: Certificates,
    pub(super) port: u16,
}

/// What workers know of each other.
struct Load {
    connections: AtomicUsize,
    inbox: mpsc::Sender<Arrival>,
}

/// A client connection for a certain worker.
pub(super) struct Arrival {
    stream: StdStream,
    peer: SocketAddr,
    is_tls: bool,
    place: Place,
}

/// One connection at a worker, counted until this is dropped.
struct Place {
    shared: Arc<Shared>,
    number: usize,
}

impl Place {
    fn at(number: usize, shared: &Arc<Shared>) -> Self {
        shared.seats[number].connections.fetch_add(1, Ordering::Relaxed);
        Place { shared: Arc::clone(shared), number }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.seats[self.number].connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All workers before they start.
pub(super) struct Crew {
    pub(super) shared: Arc<Shared>,
    pub(super) inboxes: Vec<mpsc::Receiver<Arrival>>,
}

impl Crew {
    pub(super) fn new(
        config: ProxyConfig,
        https_addr: Option<SocketAddr>,
        table: Arc<LiveTable>,
        workers: usize,
    ) -> io::Result<Self> {
        let (seats, inboxes) = (0..workers)
            .map(|_| {
                let (inbox, receiver) = mpsc::channel(MAX_HANDED_OVER);
                (Load { connections: AtomicUsize::new(0), inbox }, receiver)
            })
            .unzip();
        let connections = Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS)));
        let secure = match (&config.https, https_addr) {
            (Some(https), Some(addr)) => Some(Secure {
                tls: ClientTls::new(&https.certificates, config.header_timeout).map_err(io::Error::other)?,
                certificates: https.certificates.clone(),
                port: addr.port(),
            }),
            _ => None,
        };
        let crowd_noticed = AtomicBool::new(false);
        let shared = Shared { config, table, secure, connections, seats, crowd_noticed };
        Ok(Crew { shared: Arc::new(shared), inboxes })
    }
}

/// One worker's listeners, of the standard library or of the runtime.
pub(super) struct Listeners<L> {
    pub(super) plain: L,
    pub(super) secure: Option<L>,
}

impl Listeners<StdListener> {
    fn into_runtime(self) -> io::Result<Listeners<TcpListener>> {
        let secure = self.secure.map(TcpListener::from_std).transpose()?;
        Ok(Listeners { plain: TcpListener::from_std(self.plain)?, secure })
    }
}

/// What `accept` said, and whether the connection begins with TLS.
type Knock = (io::Result<(TcpStream, SocketAddr)>, bool);

impl Listeners<TcpListener> {
    async fn accept(&self) -> Knock {
        let Some(secure) = &self.secure else { return (self.plain.accept().await, false) };
        tokio::select! {
            accepted = self.plain.accept() => (accepted, false),
            accepted = secure.accept() => (accepted, true),
        }
    }
}

/// One worker before it starts.
pub(super) struct Seat {
    pub(super) shared: Arc<Shared>,
    pub(super) number: usize,
    pub(super) listeners: Listeners<StdListener>,
    pub(super) inbox: mpsc::Receiver<Arrival>,
}

impl Seat {
    /// Runs until it is told to stop and is done, or the proxy is dropped.
    pub(super) fn run(self, stopping: watch::Receiver<Option<Instant>>, end: mpsc::Sender<usize>) {
        let mut builder = Builder::new_current_thread();
        builder.enable_all().max_blocking_threads(RESOLVER_THREADS);
        let runtime = match builder.build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "a proxy thread could not start");
                return;
            }
        };
        let cut_off = runtime.block_on(self.work(stopping));
        // Whatever was not waited for ends with its runtime, before anybody is told that this is over.
        runtime.shutdown_background();
        match cut_off {
            Ok(cut_off) => {
                let _ = end.try_send(cut_off);
            }
            Err(error) => tracing::error!(%error, "a proxy thread ended"),
        }
    }

    async fn work(mut self, mut stopping: watch::Receiver<Option<Instant>>) -> io::Result<usize> {
        let worker = Rc::new(Worker::new(self.shared, self.number));
        let listeners = self.listeners.into_runtime()?;
        tokio::task::spawn_local(sweep(Rc::clone(&worker)));
        let deadline = loop {
            let arrival = tokio::select! {
                biased;
                told = stopping.wait_for(Option::is_some) => break told.ok().and_then(|deadline| *deadline),
                Some(arrival) = self.inbox.recv() => arrival.into(),
                accepted = listeners.accept() => worker.take(accepted).await,
            };
            let Some(arrival) = arrival else { continue };
            tokio::select! {
                biased;
                permit = worker.permit() => worker.spawn(arrival, permit),
                told = stopping.wait_for(Option::is_some) => break told.ok().and_then(|deadline| *deadline),
            }
        };
        // Without a deadline the proxy was dropped, and nobody waits.
        if let Some(deadline) = deadline {
            worker.serve_queued(&listeners, &mut self.inbox).await;
            drop(listeners);
            worker.finish(deadline).await;
        }
        Ok(worker.open.take().len())
    }
}

/// Looks after connections that do nothing: one timer for all of them instead of one each.
async fn sweep(worker: Rc<Worker>) {
    let shortest = worker.shared.config.header_timeout.min(worker.shared.config.write_timeout);
    let mut ticks = interval((shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker.pool.drop_old(StdInstant::now());
        let now = worker.millis();
        worker.last_tick.set(now);
        for connection in worker.open.borrow().values() {
            connection.expire(now);
        }
    }
}

/// Which connections are to end after the request that they are at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopping {
    No,
    /// Those that had a request. The first request of the others may be on its way.
    Used,
    All,
}

/// What belongs to one thread of the proxy.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Pool,
    pub(super) dialer: Dialer,
    pub(super) meters: Option<WorkerMeters>,
    number: usize,
    started: StdInstant,
    /// What its clock showed when connections were last looked after: for what may be known roughly.
    last_tick: Cell<u64>,
    stopping: Cell<Stopping>,
    /// How many responses are compressed just now.
    pub(super) compressing: Cell<usize>,
    /// When connections are counted by address again, at the earliest.
    crowd_due: Cell<u64>,
    open: RefCell<HashMap<u64, Rc<ClientConnection>>>,
    next_id: Cell<u64>,
    gone: Notify,
}

impl Worker {
    fn new(shared: Arc<Shared>, number: usize) -> Self {
        Worker {
            pool: Pool::default(),
            meters: shared.config.meters.as_ref().map(|meters| meters.join()),
            dialer: Dialer::new(Arc::new(shared.config.policy.clone()), shared.config.trust.clone()),
            shared,
            number,
            started: StdInstant::now(),
            last_tick: Cell::new(0),
            stopping: Cell::new(Stopping::No),
            compressing: Cell::new(0),
            crowd_due: Cell::new(0),
            open: RefCell::default(),
            next_id: Cell::new(0),
            gone: Notify::new(),
        }
    }

    /// Which of the proxy's it is.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// The worker's clock: milliseconds since its start.
    pub(super) fn millis(&self) -> u64 {
        self.millis_at(StdInstant::now())
    }

    /// About the same, without a look at a clock.
    pub(super) fn last_tick(&self) -> u64 {
        self.last_tick.get()
    }

    /// What it shows at `now`.
    pub(super) fn millis_at(&self, now: StdInstant) -> u64 {
        now.saturating_duration_since(self.started).as_millis() as u64
    }

    pub(super) fn stopping(&self) -> Stopping {
        self.stopping.get()
    }

    /// What to do with what `accept` said. `None`: nothing, or another worker has it.
    async fn take(&self, (accepted, is_tls): Knock) -> Option<Accepted> {
        match accepted {
            Ok((stream, peer)) => self.keep_or_hand_over(stream, peer, is_tls),
            // The client was gone again before we looked.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => None,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    /// The kernel spreads connections by a hash, which for a few clients may leave a core with nothing to
    /// do. A new connection therefore goes to the worker with the fewest.
    fn keep_or_hand_over(&self, stream: TcpStream, peer: SocketAddr, is_tls: bool) -> Option<Accepted> {
        let seats = &self.shared.seats;
        let load = |number: usize| seats[number].connections.load(Ordering::Relaxed);
        let idlest = (0..seats.len()).min_by_key(|number| (load(*number), *number != self.number))?;
        let to_other = (idlest != self.number).then(|| seats[idlest].inbox.try_reserve().ok()).flatten();
        let Some(room) = to_other else {
            return Some(Accepted { stream, peer, is_tls, place: Place::at(self.number, &self.shared) });
        };
        match stream.into_std() {
            Ok(stream) => room.send(Arrival { stream, peer, is_tls, place: Place::at(idlest, &self.shared) }),
            Err(error) => tracing::debug!(%error, "a connection was lost between two workers"),
        }
        None
    }

    /// Says once, with the cure, that a rate limit hits many clients as one: those of an inner network's address
    /// with more connections than one client has.
    pub(super) fn notice_crowd(&self, forwarding: &Forwarding) {
        let Some(address) = forwarding.direct_peer().filter(|ip| ip.is_loopback() || is_private(*ip)) else {
            return;
        };
        // At most once a second, because it looks at every connection.
        let now = self.millis();
        if now < self.crowd_due.get() || self.shared.crowd_noticed.load(Ordering::Relaxed) {
            return;
        }
        self.crowd_due.set(now + 1000);
        let open = self.open.borrow();
        let same = open.values().filter(|other| other.forwarding.direct_peer() == Some(address));
        if same.take(CROWD).count() == CROWD && !self.shared.crowd_noticed.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %address,
                "a rate limit refuses requests from an address that many clients seem to share. Behind swarm's \
                 ingress, publish the proxy's ports with `mode: host`; behind another proxy, put that into \
                 TRUSTED_PROXIES"
            );
        }
    }

    /// Waits while MAX_CONNECTIONS are open.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.shared.connections).acquire_owned().await.ok()
    }

    fn spawn(self: &Rc<Self>, accepted: Accepted, permit: Option<OwnedSemaphorePermit>) {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let client = Rc::new(ClientConnection::new(Rc::clone(self), accepted.peer.ip(), accepted.is_tls));
        self.open.borrow_mut().insert(id, Rc::clone(&client));
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            connection::run(accepted.stream, client).await;
            worker.open.borrow_mut().remove(&id);
            worker.gone.notify_one();
            drop((accepted.place, permit));
        });
    }

    /// Clients whose connection the kernel has accepted have done nothing wrong: they are served, as long
    /// as there is room.
    async fn serve_queued(
        self: &Rc<Self>,
        listeners: &Listeners<TcpListener>,
        inbox: &mut mpsc::Receiver<Arrival>,
    ) {
        let permits = &self.shared.connections;
        let permit = || Arc::clone(permits).try_acquire_owned().ok();
        while let Ok(arrival) = inbox.try_recv() {
            if let (Some(accepted), Some(permit)) = (Option::from(arrival), permit()) {
                self.spawn(accepted, Some(permit));
            }
        }
        let at_once = Instant::now();
        while let Ok((Ok((stream, peer)), is_tls)) = timeout_at(at_once, listeners.accept()).await {
            let Some(permit) = permit() else { break };
            let place = Place::at(self.number, &self.shared);
            self.spawn(Accepted { stream, peer, is_tls, place }, Some(permit));
        }
    }

    /// Lets requests end until there are none or the deadline is reached.
    async fn finish(&self, deadline: Instant) {
        self.tell(Stopping::Used);
        let fresh = deadline.min(Instant::now() + FRESH_GRACE);
        if timeout_at(fresh, self.all_gone()).await.is_err() {
            self.tell(Stopping::All);
            let _ = timeout_at(deadline, self.all_gone()).await;
        }
    }

    fn tell(&self, stopping: Stopping) {
        self.stopping.set(stopping);
        for connection in self.open.borrow().values() {
            connection.wake();
        }
    }

    async fn all_gone(&self) {
        while !self.open.borrow().is_empty() {
            self.gone.notified().await;
        }
    }
}

/// A client connection that this worker serves.
struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    is_tls: bool,
    place: Place,
}

impl From<Arrival> for Option<Accepted> {
    /// `None` where the runtime cannot take the socket, which closes it.
    fn from(arrival: Arrival) -> Self {
        let stream = TcpStream::from_std(arrival.stream).ok()?;
        Some(Accepted { stream, peer: arrival.peer, is_tls: arrival.is_tls, place: arrival.place })
    }
}
